"""The contract of the fused normalisation, activation and padding: schema, shapes, gradients, what it refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import twins
from .choice import FLOATS, LARGEST, on_triton, require, require_shape

ACTIVATIONS = ("leaky_relu", "relu", "elu", "swish", "none")


@torch.library.custom_op("dipfast::norm_pad", mutates_args=())
def norm_pad(
    x: Tensor,  # [B, C, H, W] float32, bfloat16 or float16
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    amount: int,
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """`twins.norm_pad` in one pass behind the statistics; their mean and inverse deviation come with it.

    Only the first has gradients: of ``x``, ``weight`` and ``bias``. Raises RuntimeError for arguments of another kind
    than stated.
    """
    if not on_triton(x):
        out = twins.norm_pad(x, weight, bias, amount, activation, eps)
        return _last(out).clone(memory_format=torch.channels_last), *twins.channel_statistics(x, eps)
    _check(x, weight, bias, amount, activation)
    from . import norm_pad as kernel
    from . import statistics

    x, weight, bias = _last(x), weight.contiguous(), bias.contiguous()
    with torch.cuda.device_of(x):
        mean, rstd = statistics.channel_statistics(x, eps)
        return kernel.forward(x, mean, rstd, weight, bias, amount, activation), mean, rstd


@norm_pad.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor, amount: int, activation: str, eps: float
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
    amount: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of x (channels last), weight and bias."""
    if not on_triton(x):
        grads = twins.norm_pad_backward(grad, x, mean, rstd, weight, bias, amount, activation)
        return _last(grads[0]), grads[1], grads[2]
    _check(x, weight, bias, amount, activation)
    from . import norm_pad as kernel

    given = _last(grad), _last(x), mean, rstd, weight.contiguous(), bias.contiguous()
    with torch.cuda.device_of(x):
        return kernel.backward(*given, amount, activation)


@norm_pad_backward.register_fake
def _(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    amount: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:
    channels = x.shape[1]
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    return grad_x, weight.new_empty(channels), weight.new_empty(channels)


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, bias, ctx.amount, ctx.activation, _ = inputs
    _, mean, rstd = output
    ctx.save_for_backward(x, mean, rstd, weight, bias)
    ctx.mark_non_differentiable(mean, rstd)


def _gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    grads = torch.ops.dipfast.norm_pad_backward(grad, *ctx.saved_tensors, ctx.amount, ctx.activation)
    return *grads, None, None, None


norm_pad.register_autograd(_gradient, setup_context=_setup)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _check(x: Tensor, weight: Tensor, bias: Tensor, amount: int, activation: str) -> None:
    require("norm_pad: x", x, FLOATS)
    height, width = x.shape[2:]
    if not 0 <= amount < min(height, width):
        raise RuntimeError(f"norm_pad: amount should be under the sides of x, {height} and {width}, is {amount}")
    if activation not in ACTIVATIONS:
        raise RuntimeError(f"norm_pad: activation should be of {', '.join(ACTIVATIONS)}, is {activation}")
    padded = x.numel() // (height * width) * (height + 2 * amount) * (width + 2 * amount)
    if padded > LARGEST:
        raise RuntimeError(f"norm_pad: x should have up to {LARGEST} elements when padded, has {padded}")
    for name, vector in (("weight", weight), ("bias", bias)):
        require_shape(f"norm_pad: {name}", vector, (x.shape[1],), (torch.float32,))
