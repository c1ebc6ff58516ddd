"""Normalisation by given statistics, activation and reflection padding in one pass, and the way back in two.

Forward, a padded pixel reads the one pixel that it mirrors. Backward, a pixel gathers the gradients of every padded
pixel that mirrored it: nothing is added from several programs to one place, and results repeat bit for bit. It does
not know where the statistics come from. No GPU has measured it yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tiles import activate, mirror, slope

PROGRAMS = 512  # of the sums, at most; a constant, so that the order of a sum is too
TILE, BACKWARD_TILE = 4096, 2048
WIDEST = 128  # channels of one program


@triton.jit
def _forward(
    x,
    mean,
    rstd,
    weight,
    bias,
    out,
    pixels,
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    gain = tl.load(rstd + c, c < C, other=0.0) * tl.load(weight + c, c < C, other=0.0)
    middle, offset = tl.load(mean + c, c < C, other=0.0), tl.load(bias + c, c < C, other=0.0)
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    j, rest = p % (width + 2 * AMOUNT), p // (width + 2 * AMOUNT)
    i, image = rest % (height + 2 * AMOUNT), rest // (height + 2 * AMOUNT)
    source = (image * height + mirror(i - AMOUNT, height)) * width + mirror(j - AMOUNT, width)
    tile = tl.load(x + source[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    u = (tile - middle[None, :]) * gain[None, :] + offset[None, :]
    tl.store(out + p[:, None] * C + c[None, :], activate(u, ACTIVATION).to(out.dtype.element_ty), here)


@triton.jit
def _gathered(grad, p, c, here, height, width, C: tl.constexpr, AMOUNT: tl.constexpr):
    """The gradient of each source pixel of a tile: its own padded pixel's, and of those that mirrored it."""
    wide = width + 2 * AMOUNT
    j, rest = p % width, p // width
    i, image = rest % height, rest // height
    first = image * (height + 2 * AMOUNT)
    own = (first + i + AMOUNT) * wide + j + AMOUNT
    g = tl.load(grad + own[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    top, bottom = (i >= 1) & (i <= AMOUNT), (i >= height - 1 - AMOUNT) & (i <= height - 2)
    left, right = (j >= 1) & (j <= AMOUNT), (j >= width - 1 - AMOUNT) & (j <= width - 2)
    mirrored = top | bottom | left | right
    if AMOUNT > 0 and tl.sum(mirrored.to(tl.int32), 0) > 0:
        for vertical in tl.static_range(3):
            for horizontal in tl.static_range(3):
                if vertical + horizontal > 0:
                    row, column, valid = i + AMOUNT, j + AMOUNT, mirrored
                    if vertical == 1:
                        row, valid = AMOUNT - i, valid & top
                    if vertical == 2:
                        row, valid = AMOUNT + 2 * (height - 1) - i, valid & bottom
                    if horizontal == 1:
                        column, valid = AMOUNT - j, valid & left
                    if horizontal == 2:
                        column, valid = AMOUNT + 2 * (width - 1) - j, valid & right
                    other = (first + row) * wide + column
                    g += tl.load(grad + other[:, None] * C + c[None, :], here & valid[:, None], other=0.0).to(
                        tl.float32
                    )
    return g


@triton.jit
def _sums(
    grad,
    x,
    mean,
    rstd,
    weight,
    bias,
    partial,
    pixels,
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    program = tl.program_id(0)
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    middle, inverse = tl.load(mean + c, c < C, other=0.0), tl.load(rstd + c, c < C, other=0.0)
    w, b = tl.load(weight + c, c < C, other=0.0), tl.load(bias + c, c < C, other=0.0)
    sum_g = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    sum_gx = tl.zeros([BLOCK_P, BLOCK_C], tl.float32)
    for start in range(program * BLOCK_P, pixels, tl.num_programs(0) * BLOCK_P):
        p = start + tl.arange(0, BLOCK_P)
        here = (p < pixels)[:, None] & (c < C)[None, :]
        tile = tl.load(x + p[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
        normal = (tile - middle[None, :]) * inverse[None, :]
        g = _gathered(grad, p, c, here, height, width, C, AMOUNT)
        g *= slope(normal * w[None, :] + b[None, :], ACTIVATION)
        sum_g += g
        sum_gx += g * normal
    tl.store(partial + program * 2 * C + c, tl.sum(sum_g, 0), c < C)
    tl.store(partial + program * 2 * C + C + c, tl.sum(sum_gx, 0), c < C)


@triton.jit
def _input_gradient(
    grad,
    x,
    mean,
    rstd,
    weight,
    bias,
    sums,
    out,
    pixels,
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    middle, inverse = tl.load(mean + c, c < C, other=0.0), tl.load(rstd + c, c < C, other=0.0)
    w, b = tl.load(weight + c, c < C, other=0.0), tl.load(bias + c, c < C, other=0.0)
    mean_g = tl.load(sums + c, c < C, other=0.0) / pixels
    mean_gx = tl.load(sums + C + c, c < C, other=0.0) / pixels
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    tile = tl.load(x + p[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    normal = (tile - middle[None, :]) * inverse[None, :]
    g = _gathered(grad, p, c, here, height, width, C, AMOUNT)
    g *= slope(normal * w[None, :] + b[None, :], ACTIVATION)
    back = (w * inverse)[None, :] * (g - mean_g[None, :] - normal * mean_gx[None, :])
    tl.store(out + p[:, None] * C + c[None, :], back.to(out.dtype.element_ty), here)


def forward(
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [C] float32
    rstd: Tensor,  # [C] float32
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    amount: int,
    activation: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount], as x
    """One launch."""
    images, channels, height, width = x.shape
    shape = (images, channels, height + 2 * amount, width + 2 * amount)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = out.numel() // channels
    grid, blocks = _blocks(pixels, channels, TILE)
    _forward[grid](
        x,
        mean,
        rstd,
        weight,
        bias,
        out,
        pixels,
        height,
        width,
        AMOUNT=amount,
        ACTIVATION=activation,
        **blocks,
    )
    return out


def backward(
    grad: Tensor,  # [B, C, H + 2 amount, W + 2 amount] channels last
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [C] float32
    rstd: Tensor,  # [C] float32
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    amount: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:  # of x, as x; of weight and bias, [C] float32
    """Three launches: sums, the sum of sums, and the gradient of x through the statistics too."""
    channels, height, width = x.shape[1:]
    pixels = x.numel() // channels
    grid, blocks = _blocks(pixels, channels, BACKWARD_TILE)
    programs = min(PROGRAMS, grid[0])
    partial = torch.empty(programs, 2, channels, dtype=torch.float32, device=x.device)
    constants = {"AMOUNT": amount, "ACTIVATION": activation} | blocks
    given = grad, x, mean, rstd, weight, bias
    _sums[(programs, grid[1])](*given, partial, pixels, height, width, **constants)
    sums, out = partial.sum(0), torch.empty_like(x)
    _input_gradient[grid](*given, sums, out, pixels, height, width, **constants)
    return out, sums[1].clone(), sums[0].clone()


def _blocks(pixels: int, channels: int, tile: int) -> tuple[tuple[int, int], dict[str, int]]:
    block_c = min(WIDEST, triton.next_power_of_2(channels))
    block_p = max(1, tile // block_c)
    grid = (triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c))
    return grid, {"C": channels, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 8}
