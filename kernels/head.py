"""The end of the network in one pass: 1x1 convolution, sigmoid, squared error, average; and one pass back.

The last activation is read once each way, where the plain version reads or writes a float32 copy of it several times.
It knows a picture of a few channels and a squared error, masked or not; other data terms are the plain version's.
Sums are made in a fixed order, so that a result repeats bit for bit. No GPU has measured it yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 1024  # at most, each with its own partial sums: a constant, so that the order of a sum is too
TILE, BACKWARD_TILE = 4096, 2048  # elements of the activation held at once: more, and registers spill


@triton.jit
def _forward(
    x,
    weight,
    bias,
    target,
    mask,
    average,
    count,
    output,
    new_average,
    partial,
    pixels,
    area,
    scale,
    decay,
    target_batch,
    target_channel,
    target_pixel,
    C: tl.constexpr,
    K: tl.constexpr,
    SIGMOID: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.arange(0, BLOCK_C)
    first = tl.load(count) == 0
    total = tl.zeros([BLOCK_P], tl.float32)
    for start in range(tl.program_id(0) * BLOCK_P, pixels, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        inside = p < pixels
        wide = tl.load(x + p[:, None] * C + c[None, :], inside[:, None] & (c < C)[None, :], other=0.0).to(tl.float32)
        target_at = (p // area) * target_batch + (p % area) * target_pixel
        known = tl.full([BLOCK_P], 1.0, tl.float32)
        if HAS_MASK:
            known = tl.load(mask + p, inside, other=0.0)
        for k in tl.static_range(K):
            w = tl.load(weight + k * C + c, c < C, other=0.0)
            y = tl.sum(wide * w[None, :], 1) + tl.load(bias + k)
            if SIGMOID:
                y = tl.sigmoid(y)
            before = tl.load(average + p * K + k, inside, other=0.0)
            tl.store(output + p * K + k, y, inside)
            tl.store(new_average + p * K + k, tl.where(first, y, before + (1.0 - decay) * (y - before)), inside)
            error = known * y - tl.load(target + target_at + k * target_channel, inside, other=0.0)
            total += tl.where(inside, error * error, 0.0)
    tl.store(partial + tl.program_id(0), tl.sum(total, 0) * scale)


@triton.jit
def _backward(
    grad,
    x,
    weight,
    output,
    target,
    mask,
    grad_x,
    partial_weight,
    partial_bias,
    pixels,
    area,
    scale,
    target_batch,
    target_channel,
    target_pixel,
    C: tl.constexpr,
    K: tl.constexpr,
    SIGMOID: tl.constexpr,
    HAS_MASK: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    c, row = tl.arange(0, BLOCK_C), tl.arange(0, BLOCK_K)
    scaled = tl.load(grad) * scale
    sum_weight = tl.zeros([BLOCK_K, BLOCK_C], tl.float32)
    sum_bias = tl.zeros([BLOCK_K], tl.float32)
    for start in range(tl.program_id(0) * BLOCK_P, pixels, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        inside = p < pixels
        here = inside[:, None] & (c < C)[None, :]
        wide = tl.load(x + p[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
        target_at = (p // area) * target_batch + (p % area) * target_pixel
        known = tl.full([BLOCK_P], 1.0, tl.float32)
        if HAS_MASK:
            known = tl.load(mask + p, inside, other=0.0)
        back = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
        for k in tl.static_range(K):
            y = tl.load(output + p * K + k, inside, other=0.0)
            error = known * y - tl.load(target + target_at + k * target_channel, inside, other=0.0)
            g = scaled * known * error
            if SIGMOID:
                g *= y * (1.0 - y)
            w = tl.load(weight + k * C + c, c < C, other=0.0)
            back += g[:, None] * w[None, :]
            sum_weight += tl.where((row == k)[:, None], tl.sum(g[:, None] * wide, 0)[None, :], 0.0)
            sum_bias += tl.where(row == k, tl.sum(g, 0), 0.0)
        tl.store(grad_x + p[:, None] * C + c[None, :], back.to(grad_x.dtype.element_ty), here)
    program = tl.program_id(0)
    at = program * K * C + row[:, None] * C + c[None, :]
    tl.store(partial_weight + at, sum_weight, (row < K)[:, None] & (c < C)[None, :])
    tl.store(partial_bias + program * K + row, sum_bias, row < K)


def forward(
    x: Tensor,  # [B, C, H, W] channels last, any precision
    weight: Tensor,  # [K, C] float32
    bias: Tensor,  # [K] float32
    target: Tensor,  # [B, K, H, W] float32, either memory format
    mask: Tensor | None,  # [B, 1, H, W] float32, contiguous
    average: Tensor,  # [B, K, H, W] float32, channels last
    count: Tensor,  # 0-D, values averaged so far
    decay: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # loss 0-D; output and new average [B, K, H, W] float32, channels last
    """Two launches: the pass, and the sum of its partial sums."""
    grid, sizes = _shape(x, weight, TILE)
    output, new_average = torch.empty_like(average), torch.empty_like(average)
    partial = torch.empty(grid, dtype=torch.float32, device=x.device)
    _forward[grid](
        x,
        weight,
        bias,
        target,
        target if mask is None else mask,
        average,
        count,
        output,
        new_average,
        partial,
        sizes.pop("pixels"),
        x.shape[2] * x.shape[3],
        1 / output.numel(),
        decay,
        *_strides(target),
        SIGMOID=sigmoid,
        HAS_MASK=mask is not None,
        **sizes,
    )
    return partial.sum(), output, new_average


def backward(
    grad: Tensor,  # 0-D float32, of the loss
    x: Tensor,  # [B, C, H, W] channels last
    weight: Tensor,  # [K, C] float32
    output: Tensor,  # [B, K, H, W] float32, channels last
    target: Tensor,  # [B, K, H, W] float32
    mask: Tensor | None,  # [B, 1, H, W] float32
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of x, as x; of weight [K, C] and bias [K], float32
    """Three launches: the pass, and two sums of partial sums."""
    grid, sizes = _shape(x, weight, BACKWARD_TILE)
    outputs, channels = weight.shape
    grad_x = torch.empty_like(x)
    partial_weight = torch.empty((*grid, outputs, channels), dtype=torch.float32, device=x.device)
    partial_bias = torch.empty((*grid, outputs), dtype=torch.float32, device=x.device)
    _backward[grid](
        grad,
        x,
        weight,
        output,
        target,
        target if mask is None else mask,
        grad_x,
        partial_weight,
        partial_bias,
        sizes.pop("pixels"),
        x.shape[2] * x.shape[3],
        2 / output.numel(),
        *_strides(target),
        SIGMOID=sigmoid,
        HAS_MASK=mask is not None,
        BLOCK_K=triton.next_power_of_2(outputs),
        **sizes,
    )
    return grad_x, partial_weight.sum(0), partial_bias.sum(0)


def _shape(x: Tensor, weight: Tensor, tile: int) -> tuple[tuple[int], dict[str, int]]:
    outputs, channels = weight.shape
    pixels = x.numel() // channels
    block_c = triton.next_power_of_2(channels)
    block_p = max(1, tile // block_c)
    grid = (min(PROGRAMS, triton.cdiv(pixels, block_p)),)
    sizes = {"pixels": pixels, "C": channels, "K": outputs, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 8}
    return grid, sizes


def _strides(picture: Tensor) -> tuple[int, int, int]:
    """Of an image, a channel and a pixel, whichever of the two memory formats it has."""
    _, channels, height, width = picture.shape
    area = height * width
    return (channels * area, area, 1) if picture.is_contiguous() else (channels * area, 1, channels)
