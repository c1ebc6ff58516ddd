"""Normalisation, activation and padding in one operation: the contract, and the plain twin that tests it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .checks import FLOATS, LARGEST, require, require_kernels, require_shape

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky_relu": partial(F.leaky_relu, negative_slope=0.2),
    "relu": F.relu,
    "elu": F.elu,
    "swish": F.silu,
    "none": lambda x: x,
}
MODES = {"reflection": "reflect", "replication": "replicate"}


def plain(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    activation: str,
    amount: int,
    mode: str,
    eps: float,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Normalise each channel by its own mean and biased variance, activate, and pad: the twin, in any precision."""
    y = ACTIVATIONS[activation](F.batch_norm(x, None, None, weight, bias, training=True, eps=eps))
    return F.pad(y, (amount,) * 4, MODES[mode]) if amount else y


@torch.library.custom_op("dipfast::norm_pad", mutates_args=())
def norm_pad(
    x: Tensor,  # [B, C, H, W] float32, bfloat16 or float16
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    activation: str,
    amount: int,
    mode: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute `plain` in one pass after that of the statistics; return it with the mean and inverse deviation, [C].

    The result is channels last. Only it has gradients, with respect to ``x``, ``weight`` and ``bias``. Raises
    RuntimeError where Triton cannot run, and for other shapes, dtypes or values than stated.
    """
    require_kernels("norm_pad", x)
    _check(x, weight, bias, activation, amount, mode)
    from . import norm_pad_triton as kernel

    x = _channels_last(x)
    with torch.cuda.device_of(x):
        mean, rstd = _statistics(x, eps)
        out = kernel.forward(x, mean, rstd, weight.contiguous(), bias.contiguous(), activation, amount, mode)
    return out, mean, rstd


@norm_pad.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, activation: str, amount: int, mode: str, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    images, channels, height, width = x.shape
    shape = (images, channels, height + 2 * amount, width + 2 * amount)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return out, weight.new_empty(channels), weight.new_empty(channels)


@torch.library.custom_op("dipfast::norm_pad_backward", mutates_args=())
def norm_pad_backward(
    grad: Tensor,  # [B, C, H + 2 amount, W + 2 amount], as x
    x: Tensor,  # [B, C, H, W]
    mean: Tensor,  # [C] float32
    rstd: Tensor,  # [C] float32
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    activation: str,
    amount: int,
    mode: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x (channels last), weight and bias, including those through the statistics."""
    require_kernels("norm_pad", x)
    from . import norm_pad_triton as kernel

    tensors = _channels_last(grad), _channels_last(x), mean, rstd, weight.contiguous(), bias.contiguous()
    with torch.cuda.device_of(x):
        return kernel.backward(*tensors, activation, amount, mode)


@norm_pad_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    amount: int,
    mode: str,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    return grad_x, weight.new_empty(channels), weight.new_empty(channels)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, *ctx.how, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.mark_non_differentiable(mean, rstd)
    ctx.set_materialize_grads(False)  # instead of zeros for the mean and the inverse deviation


def _gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    return *norm_pad_backward(grad, *ctx.saved_tensors, *ctx.how), None, None, None, None


norm_pad.register_autograd(_gradient, setup_context=_setup)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:  # [C] float32: mean, 1 / sqrt(variance + eps)
    """Return each channel's statistics over all pixels of all images; PyTorch has a kernel for them, on CUDA only."""
    if x.is_cuda:
        return torch.batch_norm_stats(x, eps)
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, torch.rsqrt(variance + eps)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _check(x: Tensor, weight: Tensor, bias: Tensor, activation: str, amount: int, mode: str) -> None:
    require("norm_pad: x", x, FLOATS)
    if x.dim() != 4:
        raise RuntimeError(f"norm_pad: x should have 4 dimensions, has {x.dim()}")
    for name, vector in (("weight", weight), ("bias", bias)):
        require_shape(f"norm_pad: {name}", vector, (x.shape[1],), (torch.float32,))
    for name, value, known in (("activation", activation, ACTIVATIONS), ("mode", mode, MODES)):
        if value not in known:
            raise RuntimeError(f"norm_pad: {name} should be of {', '.join(known)}, is {value}")
    height, width = x.shape[2:]
    most = min(height, width) - 1 if mode == "reflection" else LARGEST
    if not 0 <= amount <= most:
        raise RuntimeError(f"norm_pad: amount should be 0 to {most} for a {mode} of {height}x{width}, is {amount}")
    padded = x.numel() // (height * width) * (height + 2 * amount) * (width + 2 * amount)
    if padded > LARGEST:
        raise RuntimeError(f"norm_pad: x should have up to {LARGEST} elements when padded, has {padded}")
