"""Mean and inverse deviation of every channel, of a tensor or of what bilinear upsampling would make of it.

Two launches: each program sums deviations from the mean of its first tile, so that a large mean costs no digits; the
second launch combines their means and squares (Chan et al. 1979). The order of every sum is fixed: results repeat
bit for bit. No GPU has measured it yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import read_upsampled

PROGRAMS = 512  # at most; a constant, so that the order of a sum is too
TILE = 4096
WIDEST = 128  # channels of one program


@triton.jit
def _partial(
    x,
    count,
    mean,
    square,
    pixels,
    height,
    width,
    C: tl.constexpr,
    MODE: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    p = program * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    tile = read_upsampled(x, p, c, here, height, width, C, MODE)
    number = tl.sum((p < pixels).to(tl.float32), 0)
    shift = tl.sum(tile, 0) / number
    total = tl.where(here, tile - shift[None, :], 0.0)
    squares = total * total
    for start in range((program + tl.num_programs(0)) * BLOCK_P, pixels, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < C)[None, :]
        off = tl.where(here, read_upsampled(x, p, c, here, height, width, C, MODE) - shift[None, :], 0.0)
        total += off
        squares += off * off
        number += tl.sum((p < pixels).to(tl.float32), 0)
    sum_off = tl.sum(total, 0)
    tl.store(count + program, number)
    tl.store(mean + program * C + c, shift + sum_off / number, c < C)
    tl.store(square + program * C + c, tl.sum(squares, 0) - sum_off * sum_off / number, c < C)


@triton.jit
def _combined(
    count,
    mean,
    square,
    mean_out,
    rstd_out,
    programs,
    pixels,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    c = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    here = (row < programs)[:, None] & (c < C)[None, :]
    number = tl.load(count + row, row < programs, other=0.0)[:, None]
    means = tl.load(mean + row[:, None] * C + c[None, :], here, other=0.0)
    squares = tl.load(square + row[:, None] * C + c[None, :], here, other=0.0)
    origin = tl.sum(tl.where((row == 0)[:, None], means, 0.0), 0)  # sums of differences keep their digits
    overall = origin + tl.sum(number * tl.where(here, means - origin[None, :], 0.0), 0) / pixels
    off = tl.where(here, means - overall[None, :], 0.0)
    variance = tl.sum(squares + number * off * off, 0) / pixels
    tl.store(mean_out + c, overall, c < C)
    tl.store(rstd_out + c, tl.div_rn(1.0, tl.sqrt_rn(variance + eps)), c < C)


def channel_statistics(
    x: Tensor,  # [B, C, H, W] channels last
    eps: float,
    mode: str = "none",  # or bilinear: of x at twice its size
) -> tuple[Tensor, Tensor]:  # [C] float32 each: mean, and 1 / sqrt(biased variance + eps)
    """Over all pixels of all images."""
    channels, height, width = x.shape[1:]
    pixels = x.numel() // channels * (1 if mode == "none" else 4)
    block_c = min(WIDEST, triton.next_power_of_2(channels))
    block_p = max(1, TILE // block_c)
    programs = min(PROGRAMS, triton.cdiv(pixels, block_p))
    count = torch.empty(programs, dtype=torch.float32, device=x.device)
    means, squares = (torch.empty(programs, channels, dtype=torch.float32, device=x.device) for _ in range(2))
    _partial[(programs, triton.cdiv(channels, block_c))](
        x,
        count,
        means,
        squares,
        pixels,
        height,
        width,
        C=channels,
        MODE=mode,
        BLOCK_P=block_p,
        BLOCK_C=block_c,
        num_warps=8,
    )
    mean, rstd = (torch.empty(channels, dtype=torch.float32, device=x.device) for _ in range(2))
    columns = min(8, triton.next_power_of_2(channels))
    rows = triton.next_power_of_2(programs)
    _combined[(triton.cdiv(channels, columns),)](
        count, means, squares, mean, rstd, programs, pixels, eps, C=channels, ROWS=rows, COLUMNS=columns, num_warps=4
    )
    return mean, rstd
