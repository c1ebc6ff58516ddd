"""A coarse tensor at twice its size behind the skip branch, normalised by given statistics, in one pass.

Neither the upsampled nor the joined tensor is written before it is normalised. Backward, a coarse pixel gathers the
gradients of the fine pixels that it reached, through the statistics too: no atomics, and results repeat bit for bit.
It does not know where the statistics come from. No GPU has measured it yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import clamp, read_upsampled

PROGRAMS = 512  # of the sums, at most; a constant, so that the order of a sum is too
TILE, BACKWARD_TILE = 2048, 2048
WIDEST = 128  # channels of one program


@triton.jit
def _forward(
    kept,
    x,
    mean,
    rstd,
    weight,
    bias,
    out,
    pixels,
    height,
    width,
    S: tl.constexpr,
    C: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    inside = (p < pixels)[:, None]
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    here = inside & (c < C)[None, :]
    tile = read_upsampled(x, p, c, here, height, width, C, MODE)
    _store_normal(tile, mean, rstd, weight, bias, out, p, S + c, here, c < C, S + C)
    if S > 0 and tl.program_id(1) == 0:
        s = tl.arange(0, BLOCK_S)
        there = inside & (s < S)[None, :]
        skip = tl.load(kept + p[:, None] * S + s[None, :], there, other=0.0).to(tl.float32)
        _store_normal(skip, mean, rstd, weight, bias, out, p, s, there, s < S, S + C)


@triton.jit
def _store_normal(tile, mean, rstd, weight, bias, out, p, c, here, valid, ALL: tl.constexpr):
    gain = tl.load(rstd + c, valid, other=0.0) * tl.load(weight + c, valid, other=0.0)
    middle, offset = tl.load(mean + c, valid, other=0.0), tl.load(bias + c, valid, other=0.0)
    normal = (tile - middle[None, :]) * gain[None, :] + offset[None, :]
    tl.store(out + p[:, None] * ALL + c[None, :], normal.to(out.dtype.element_ty), here)


@triton.jit
def _sums(
    grad,
    source,
    mean,
    rstd,
    partial,
    pixels,
    height,
    width,
    OFFSET: tl.constexpr,  # of the source's channels among all
    C: tl.constexpr,
    ALL: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    middle = tl.load(mean + OFFSET + c, c < C, other=0.0)
    inverse = tl.load(rstd + OFFSET + c, c < C, other=0.0)
    sum_g = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    sum_gx = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(program * BLOCK_P, pixels, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < C)[None, :]
        tile = read_upsampled(source, p, c, here, height, width, C, MODE)
        g = tl.load(grad + p[:, None] * ALL + OFFSET + c[None, :], here, other=0.0).to(tl.float32)
        sum_g += g
        sum_gx += g * (tile - middle[None, :]) * inverse[None, :]
    at = partial + program * 2 * ALL + OFFSET + c
    tl.store(at, tl.sum(sum_g, 0), c < C)
    tl.store(at + ALL, tl.sum(sum_gx, 0), c < C)


@triton.jit
def _kept_gradient(
    grad,
    kept,
    mean,
    rstd,
    weight,
    sums,
    out,
    pixels,
    S: tl.constexpr,
    ALL: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_S: tl.constexpr,
):
    s = tl.arange(0, BLOCK_S)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (s < S)[None, :]
    inverse = tl.load(rstd + s, s < S, other=0.0)
    tile = tl.load(kept + p[:, None] * S + s[None, :], here, other=0.0).to(tl.float32)
    normal = (tile - tl.load(mean + s, s < S, other=0.0)[None, :]) * inverse[None, :]
    g = tl.load(grad + p[:, None] * ALL + s[None, :], here, other=0.0).to(tl.float32)
    g -= (tl.load(sums + s, s < S, other=0.0) / pixels)[None, :]
    g -= normal * (tl.load(sums + ALL + s, s < S, other=0.0) / pixels)[None, :]
    back = g * (inverse * tl.load(weight + s, s < S, other=0.0))[None, :]
    tl.store(out + p[:, None] * S + s[None, :], back.to(out.dtype.element_ty), here)


@triton.jit
def _coarse_gradient(
    grad,
    x,
    mean,
    rstd,
    weight,
    sums,
    out,
    pixels,  # coarse
    height,
    width,
    S: tl.constexpr,
    C: tl.constexpr,
    ALL: tl.constexpr,
    MODE: tl.constexpr,
    REACH: tl.constexpr,  # of a fine pixel beyond the two of its coarse one: 1 for bilinear
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    j, rest = p % width, p // width
    i, image = rest % height, rest // height

    # The adjoint of upsampling: of the gradient, 2x2 ones or 4x4 of (1, 3, 3, 1) / 4 along each axis.
    g = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for vertical in tl.static_range(-REACH, 2 + REACH):
        for horizontal in tl.static_range(-REACH, 2 + REACH):
            row, column = clamp(2 * i + vertical, 2 * height), clamp(2 * j + horizontal, 2 * width)
            at = (image * 2 * height + row) * 2 * width + column
            share = _share(vertical, MODE) * _share(horizontal, MODE)
            g += share * tl.load(grad + at[:, None] * ALL + S + c[None, :], here, other=0.0).to(tl.float32)

    # The same adjoint of the upsampled tensor itself: four times it, or 3x3 of (3, 10, 3) / 8 along each axis.
    middle, inverse = tl.load(mean + S + c, c < C, other=0.0), tl.load(rstd + S + c, c < C, other=0.0)
    off = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for vertical in tl.static_range(-REACH, 1 + REACH):
        for horizontal in tl.static_range(-REACH, 1 + REACH):
            at = (image * height + clamp(i + vertical, height)) * width + clamp(j + horizontal, width)
            tile = tl.load(x + at[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
            off += _twice_shared(vertical, MODE) * _twice_shared(horizontal, MODE) * (tile - middle[None, :])

    fine = 4.0 * pixels
    g -= 4.0 * (tl.load(sums + S + c, c < C, other=0.0) / fine)[None, :]
    g -= off * (inverse * tl.load(sums + ALL + S + c, c < C, other=0.0) / fine)[None, :]
    back = g * (inverse * tl.load(weight + S + c, c < C, other=0.0))[None, :]
    tl.store(out + p[:, None] * C + c[None, :], back.to(out.dtype.element_ty), here)


@triton.jit
def _share(offset: tl.constexpr, MODE: tl.constexpr):
    if MODE == "nearest":
        return 1.0
    else:
        return 0.75 if (offset == 0 or offset == 1) else 0.25


@triton.jit
def _twice_shared(offset: tl.constexpr, MODE: tl.constexpr):
    if MODE == "nearest":
        return 2.0
    else:
        return 1.25 if offset == 0 else 0.375


def forward(
    kept: Tensor | None,  # [B, S, 2 H, 2 W] channels last
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [S + C] float32
    rstd: Tensor,  # [S + C] float32
    weight: Tensor,  # [S + C] float32
    bias: Tensor,  # [S + C] float32
    mode: str,
) -> Tensor:  # [B, S + C, 2 H, 2 W], as x
    """One launch."""
    images, channels, height, width = x.shape
    skips = mean.numel() - channels
    shape = (images, skips + channels, 2 * height, 2 * width)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = 4 * images * height * width
    grid, blocks = _blocks(pixels, channels, TILE)
    _forward[grid](
        x if kept is None else kept,
        x,
        mean,
        rstd,
        weight,
        bias,
        out,
        pixels,
        height,
        width,
        S=skips,
        MODE=mode,
        BLOCK_S=triton.next_power_of_2(max(1, skips)),
        **blocks,
    )
    return out


def backward(
    grad: Tensor,  # [B, S + C, 2 H, 2 W] channels last
    kept: Tensor | None,  # [B, S, 2 H, 2 W] channels last
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [S + C] float32
    rstd: Tensor,  # [S + C] float32
    weight: Tensor,  # [S + C] float32
    mode: str,
) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:  # of kept and x, as they are; of weight and bias, [S + C] float32
    """Three launches, and two more for ``kept``: sums, the sum of sums, and the gradients through the statistics."""
    images, channels, height, width = x.shape
    every = mean.numel()
    skips, coarse = every - channels, images * height * width
    grid, blocks = _blocks(4 * coarse, channels, BACKWARD_TILE)
    programs = min(PROGRAMS, grid[0])
    partial = torch.empty(programs, 2, every, dtype=torch.float32, device=x.device)
    _sums[(programs, grid[1])](
        grad, x, mean, rstd, partial, 4 * coarse, height, width, OFFSET=skips, ALL=every, MODE=mode, **blocks
    )
    if kept is not None:
        small_grid, small = _blocks(4 * coarse, skips, BACKWARD_TILE)
        assert small_grid[1] == 1
        _sums[(programs,)](
            grad, kept, mean, rstd, partial, 4 * coarse, height, width, OFFSET=0, ALL=every, MODE="none", **small
        )
    sums, out = partial.sum(0), torch.empty_like(x)
    given = mean, rstd, weight, sums
    grid, blocks = _blocks(coarse, channels, BACKWARD_TILE)
    reach = 1 if mode == "bilinear" else 0
    _coarse_gradient[grid](
        grad, x, *given, out, coarse, height, width, S=skips, ALL=every, MODE=mode, REACH=reach, **blocks
    )
    grad_kept = None
    if kept is not None:
        grad_kept = torch.empty_like(kept)
        small["BLOCK_S"] = small.pop("BLOCK_C")
        small["S"] = small.pop("C")
        _kept_gradient[small_grid](grad, kept, *given, grad_kept, 4 * coarse, ALL=every, **small)
    return grad_kept, out, sums[1].clone(), sums[0].clone()


def _blocks(pixels: int, channels: int, tile: int) -> tuple[tuple[int, int], dict[str, int]]:
    block_c = min(WIDEST, triton.next_power_of_2(channels))
    block_p = max(1, tile // block_c)
    grid = (triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c))
    return grid, {"C": channels, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 8}
