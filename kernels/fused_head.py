"""The contract of the fused head: schema, shapes, gradients, what runs where, and what it refuses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import twins
from .choice import FLOATS, on_triton, require, require_shape

MOST_OUTPUTS = 8


@torch.library.custom_op("dipfast::head", mutates_args=())
def head(
    x: Tensor,  # [B, C, H, W] float32, bfloat16 or float16
    weight: Tensor,  # [K, C] float32
    bias: Tensor,  # [K] float32
    target: Tensor,  # [B, K, H, W] float32
    mask: Tensor | None,  # [B, 1, H, W] float32
    average: Tensor,  # [B, K, H, W] float32
    count: Tensor,  # 0-D, values averaged so far
    decay: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """`twins.head` in one pass. Only the loss has gradients: of ``x``, ``weight`` and ``bias``.

    Raises RuntimeError for arguments of another kind than stated.
    """
    average = _last(average)
    if not on_triton(x):
        loss, output, new = twins.head(x, weight, bias, target, mask, average, count, decay, sigmoid)
        return loss, _last(output), _last(new)
    _check(x, weight, target, mask)
    require_shape("head: bias", bias, (weight.shape[0],), (torch.float32,))
    require_shape("head: average", average, tuple(target.shape), (torch.float32,))
    require("head: count", count, (torch.float32, torch.int64))
    from . import head as kernel

    mask = None if mask is None else mask.contiguous()
    weight, bias = weight.contiguous(), bias.contiguous()
    with torch.cuda.device_of(x):
        return kernel.forward(_last(x), weight, bias, _dense(target), mask, average, count, decay, sigmoid)


@head.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    target: Tensor,
    mask: Tensor | None,
    average: Tensor,
    count: Tensor,
    decay: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    output, new = (torch.empty_like(average, memory_format=torch.channels_last) for _ in range(2))
    return weight.new_empty(()), output, new


@torch.library.custom_op("dipfast::head_backward", mutates_args=())
def head_backward(
    grad: Tensor,  # 0-D float32
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K, C]
    output: Tensor,  # [B, K, H, W]
    target: Tensor,  # [B, K, H, W]
    mask: Tensor | None,  # [B, 1, H, W]
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the head's loss: of x (channels last), weight and bias."""
    if not on_triton(x):
        grad_x, grad_weight, grad_bias = twins.head_backward(grad, x, weight, output, target, mask, sigmoid)
        return _last(grad_x), grad_weight, grad_bias
    _check(x, weight, target, mask)
    from . import head as kernel

    mask = None if mask is None else mask.contiguous()
    with torch.cuda.device_of(x):
        return kernel.backward(grad, _last(x), weight.contiguous(), _last(output), _dense(target), mask, sigmoid)


@head_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, output: Tensor, target: Tensor, mask: Tensor | None, sigmoid: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grad_x = torch.empty_like(x, memory_format=torch.channels_last)
    return grad_x, torch.empty_like(weight, memory_format=torch.contiguous_format), weight.new_empty(weight.shape[0])


def _setup(ctx: Any, inputs: tuple, output: tuple) -> None:
    x, weight, _, target, mask, *_, ctx.sigmoid = inputs
    ctx.save_for_backward(x, weight, output[1], target, mask)
    ctx.mark_non_differentiable(output[1], output[2])


def _gradient(ctx: Any, grad: Tensor, *_: Any) -> tuple:
    grads = torch.ops.dipfast.head_backward(grad, *ctx.saved_tensors, ctx.sigmoid)
    return *grads, None, None, None, None, None, None


head.register_autograd(_gradient, setup_context=_setup)


def _last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _dense(x: Tensor) -> Tensor:
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _check(x: Tensor, weight: Tensor, target: Tensor, mask: Tensor | None) -> None:
    require("head: x", x, FLOATS)
    outputs = weight.shape[0]
    if outputs > MOST_OUTPUTS:
        raise RuntimeError(f"head: weight should have 1 to {MOST_OUTPUTS} rows, has {outputs}")
    require_shape("head: weight", weight, (outputs, x.shape[1]), (torch.float32,))
    require_shape("head: target", target, (x.shape[0], outputs, *x.shape[2:]), (torch.float32,))
    if mask is not None:
        require_shape("head: mask", mask, (x.shape[0], 1, *x.shape[2:]), (torch.float32,))
