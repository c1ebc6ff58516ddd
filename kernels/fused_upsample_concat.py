"""The contract of the fused upsampling, concatenation and normalisation: schema, shapes, gradients, refusals."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import twins
from .choice import FLOATS, LARGEST, on_triton, require, require_shape

MODES = ("nearest", "bilinear")
MOST_SKIPS = 128


@torch.library.custom_op("dipfast::upsample_concat", mutates_args=())
def upsample_concat(
    kept: Tensor | None,  # [B, S, 2 H, 2 W], as x
    x: Tensor,  # [B, C, H, W] float32, bfloat16 or float16
    weight: Tensor,  # [S + C] float32
    bias: Tensor,  # [S + C] float32
    mode: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`twins.upsample_concat` in one pass behind the statistics; their mean and inverse deviation come with it.

    Only the first has gradients: of ``kept``, ``x``, ``weight`` and ``bias``. Raises RuntimeError for arguments of
    another kind than stated.
    """
    if not on_triton(x):
        out = twins.upsample_concat(kept, x, weight, bias, mode, eps)
        return _last(out), *twins.upsample_concat_statistics(kept, x, mode, eps)
    _check(kept, x, weight, mode)
    require_shape("upsample_concat: bias", bias, tuple(weight.shape), (torch.float32,))
    from . import statistics
    from . import upsample_concat as kernel

    kept, x = None if kept is None else _last(kept), _last(x)
    with torch.cuda.device_of(x):
        found = [] if kept is None else [statistics.channel_statistics(kept, eps)]
        # A tensor upsampled by repetition has the statistics of the small one.
        found.append(statistics.channel_statistics(x, eps, "bilinear" if mode == "bilinear" else "none"))
        mean, rstd = (torch.cat(parts) if kept is not None else parts[0].clone() for parts in zip(*found, strict=True))
        return kernel.forward(kept, x, mean, rstd, weight.contiguous(), bias.contiguous(), mode), mean, rstd


@upsample_concat.register_fake
def _(
    kept: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor, mode: str, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, _, height, width = x.shape
    shape = (images, weight.shape[0], 2 * height, 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return out, torch.empty_like(weight), torch.empty_like(weight)


@torch.library.custom_op("dipfast::upsample_concat_backward", mutates_args=())
def upsample_concat_backward(
    grad: Tensor,  # [B, S + C, 2 H, 2 W]
    kept: Tensor | None,  # [B, S, 2 H, 2 W]
    x: Tensor,  # [B, C, H, W]
    mean: Tensor,  # [S + C] float32
    rstd: Tensor,  # [S + C] float32
    weight: Tensor,  # [S + C] float32
    mode: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of kept (without one, a tensor of no channels) and x (both channels last), weight and bias."""
    if not on_triton(x):
        grads = twins.upsample_concat_backward(grad, kept, x, mean, rstd, weight, mode)
        return _last(grads[0]).clone(), _last(grads[1]), grads[2], grads[3]
    _check(kept, x, weight, mode)
    from . import upsample_concat as kernel

    given = _last(grad), None if kept is None else _last(kept), _last(x), mean, rstd, weight.contiguous()
    with torch.cuda.device_of(x):
        grad_kept, grad_x, grad_weight, grad_bias = kernel.backward(*given, mode)
    return _no_channels(x) if grad_kept is None else grad_kept, grad_x, grad_weight, grad_bias


@upsample_concat_backward.register_fake
def _(
    grad: Tensor, kept: Tensor | None, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor, mode: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    last = torch.channels_last
    grad_kept = _no_channels(x) if kept is None else torch.empty_like(kept, memory_format=last)
    return grad_kept, torch.empty_like(x, memory_format=last), torch.empty_like(weight), torch.empty_like(weight)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    kept, x, weight, _, ctx.mode, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(kept, x, mean, rstd, weight)
    ctx.mark_non_differentiable(mean, rstd)


def _gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    kept = ctx.saved_tensors[0]
    found, *others = torch.ops.dipfast.upsample_concat_backward(grad, *ctx.saved_tensors, ctx.mode)
    return None if kept is None else found, *others, None, None


upsample_concat.register_autograd(_gradient, setup_context=_setup)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _no_channels(x: Tensor) -> Tensor:
    images, _, height, width = x.shape
    return x.new_empty(images, 0, 2 * height, 2 * width)


def _check(kept: Tensor | None, x: Tensor, weight: Tensor, mode: str) -> None:
    require("upsample_concat: x", x, FLOATS)
    images, channels, height, width = x.shape
    skips = weight.numel() - channels
    if mode not in MODES:
        raise RuntimeError(f"upsample_concat: mode should be of {', '.join(MODES)}, is {mode}")
    if skips > MOST_SKIPS:
        raise RuntimeError(f"upsample_concat: kept should have up to {MOST_SKIPS} channels, has {skips}")
    if kept is not None:
        require_shape("upsample_concat: kept", kept, (images, skips, 2 * height, 2 * width), (x.dtype,))
    require_shape("upsample_concat: weight", weight, (channels + max(0, skips),), (torch.float32,))
    joined = 4 * images * height * width * weight.numel()
    if joined > LARGEST:
        raise RuntimeError(f"upsample_concat: the output should have up to {LARGEST} elements, has {joined}")
