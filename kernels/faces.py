"""The operations that have a fused kernel: the kernel where this process chose it, the plain twin otherwise."""

from __future__ import annotations

import torch
from torch import Tensor

from . import fused_adam, fused_head, fused_norm_pad, fused_upsample_concat, twins  # noqa: F401  (the contracts register themselves)
from .choice import fused


def adam_(
    values: Tensor,  # [P] float32
    grads: Tensor,  # [P], zero afterwards
    first: Tensor,  # [P]
    second: Tensor,  # [P]
    step: Tensor,  # 0-D float32, counts from 1
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    shadow: Tensor | None = None,  # [P], becomes a copy of the weights in its own precision
    seed: Tensor | None = None,  # 0-D int64
    noise: float = 0.0,
) -> None:
    """Adam in place; with ``seed``, normal noise of deviation ``noise`` on the weights, a function of (seed, step)."""
    call = torch.ops.dipfast.adam_ if "adam" in fused() else twins.adam_
    call(values, grads, first, second, step, shadow, seed, lr, *betas, eps, weight_decay, noise)


def head(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K, C] float32
    bias: Tensor,  # [K]
    target: Tensor,  # [B, K, H, W]
    average: Tensor,  # [B, K, H, W]
    count: Tensor,  # 0-D, values averaged so far
    *,
    decay: float,
    sigmoid: bool = True,
    mask: Tensor | None = None,  # [B, 1, H, W]
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, output and new average, of which only the loss has gradients: see `twins.head`.

    The loss is the mean of (mask * output - target)^2, which is the residual too.
    """
    call = torch.ops.dipfast.head if "head" in fused() else twins.head
    return call(x, weight, bias, target, mask, average, count, decay, sigmoid)


def norm_pad(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    *,
    amount: int = 0,
    activation: str = "none",
    eps: float = 1e-5,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Normalise by the statistics of ``x``, activate, pad by reflection: see `twins.norm_pad`."""
    if "norm_pad" in fused():
        return torch.ops.dipfast.norm_pad(x, weight, bias, amount, activation, eps)[0]
    return twins.norm_pad(x, weight, bias, amount, activation, eps)


def upsample_concat(
    kept: Tensor | None,  # [B, S, 2 H, 2 W]
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [S + C] float32
    bias: Tensor,  # [S + C] float32
    *,
    mode: str,
    eps: float = 1e-5,
) -> Tensor:  # [B, S + C, 2 H, 2 W]
    """``x`` at twice its size, nearest or bilinear, behind ``kept``, normalised: see `twins.upsample_concat`."""
    if "upsample_concat" in fused():
        return torch.ops.dipfast.upsample_concat(kept, x, weight, bias, mode, eps)[0]
    return twins.upsample_concat(kept, x, weight, bias, mode, eps)
