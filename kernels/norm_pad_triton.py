"""The kernel of `norm_pad`: normalisation by given statistics, activation and padding in one pass, and its gradients.

In the forward pass, a padded pixel reads the pixel that it repeats. In the backward pass, a pixel gathers the gradients
of all padded pixels that read it, so no two programs add to one place, and results repeat bit for bit. The kernel has
not been measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = 512  # of the sums, at most; a constant on all devices, so that the order of summation is one too
TILE, BACKWARD_TILE = 4096, 2048  # elements of one program
WIDEST = 128  # channels of one program


@triton.jit
def _activate(u, NAME: tl.constexpr):
    """Apply the activation ``NAME``."""
    if NAME == "leaky_relu":
        return tl.where(u > 0, u, 0.2 * u)
    elif NAME == "relu":
        return tl.maximum(u, 0.0)
    elif NAME == "elu":
        return tl.where(u > 0, u, tl.exp(tl.minimum(u, 0.0)) - 1.0)
    elif NAME == "swish":
        return u * tl.sigmoid(u)
    else:
        return u


@triton.jit
def _slope(u, NAME: tl.constexpr):
    """Return the derivative of the activation ``NAME``."""
    if NAME == "leaky_relu":
        return tl.where(u > 0, 1.0, 0.2)
    elif NAME == "relu":
        return tl.where(u > 0, 1.0, 0.0)
    elif NAME == "elu":
        return tl.where(u > 0, 1.0, tl.exp(tl.minimum(u, 0.0)))
    elif NAME == "swish":
        half = tl.sigmoid(u)
        return half * (1.0 + u * (1.0 - half))
    else:
        return tl.zeros_like(u) + 1.0


@triton.jit
def _source(i, size, MODE: tl.constexpr):
    """Return the row (or column) of ``size`` that a padded one reads; ``i`` is 0 at the first that is not padding."""
    if MODE == "reflection":
        i = tl.where(i < 0, -i, i)
        return tl.where(i >= size, 2 * (size - 1) - i, i)
    else:
        return tl.minimum(tl.maximum(i, 0), size - 1)


@triton.jit
def _reader(i, size, N: tl.constexpr, AMOUNT: tl.constexpr, MODE: tl.constexpr):
    """Return the ``N``-th padded row (or column) that may read row ``i``, and whether it does; the 0-th always does."""
    if N == 0:
        return i + AMOUNT, i >= 0
    elif MODE == "reflection":
        if N == 1:  # reflected at the first row
            return AMOUNT - i, (i >= 1) & (i <= AMOUNT)
        else:  # reflected at the last row
            return AMOUNT + 2 * (size - 1) - i, (i >= size - 1 - AMOUNT) & (i <= size - 2)
    elif N <= AMOUNT:  # padding before the first row
        return i * 0 + N - 1, i == 0
    else:  # padding after the last row
        return i + N, i == size - 1


@triton.jit
def _gathered(grad, p, c, here, height, width, C: tl.constexpr, AMOUNT: tl.constexpr, MODE: tl.constexpr):
    """Return for each pixel of a tile the sum of the gradients of all padded pixels that read it."""
    wide = width + 2 * AMOUNT
    j, rest = p % width, p // width
    i, image = rest % height, rest // height
    first = image * (height + 2 * AMOUNT)
    own = (first + i + AMOUNT) * wide + j + AMOUNT
    g = tl.load(grad + own[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    border = (i <= AMOUNT) | (i >= height - 1 - AMOUNT) | (j <= AMOUNT) | (j >= width - 1 - AMOUNT)
    if AMOUNT > 0 and tl.sum(border.to(tl.int32), 0) > 0:
        READERS: tl.constexpr = 3 if MODE == "reflection" else 1 + 2 * AMOUNT
        for vertical in tl.static_range(READERS):
            row, row_reads = _reader(i, height, vertical, AMOUNT, MODE)
            for horizontal in tl.static_range(READERS):
                if vertical + horizontal > 0:
                    column, column_reads = _reader(j, width, horizontal, AMOUNT, MODE)
                    reads = here & (row_reads & column_reads)[:, None]
                    other = (first + row) * wide + column
                    g += tl.load(grad + other[:, None] * C + c[None, :], reads, other=0.0).to(tl.float32)
    return g


@triton.jit
def _forward(
    x,  # [B, H, W, C]
    mean,  # [C]
    rstd,  # [C]
    weight,  # [C]
    bias,  # [C]
    out,  # [B, H + 2 AMOUNT, W + 2 AMOUNT, C]
    pixels,  # of out
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    MODE: tl.constexpr,
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
    source = (image * height + _source(i - AMOUNT, height, MODE)) * width + _source(j - AMOUNT, width, MODE)
    tile = tl.load(x + source[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    u = (tile - middle[None, :]) * gain[None, :] + offset[None, :]
    tl.store(out + p[:, None] * C + c[None, :], _activate(u, ACTIVATION).to(out.dtype.element_ty), here)


@triton.jit
def _sums(
    grad,  # [B, H + 2 AMOUNT, W + 2 AMOUNT, C]
    x,  # [B, H, W, C]
    mean,  # [C]
    rstd,  # [C]
    weight,  # [C]
    bias,  # [C]
    sums_g,  # [programs, C]
    sums_gx,  # [programs, C]
    pixels,  # of x
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    MODE: tl.constexpr,
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
        g = _gathered(grad, p, c, here, height, width, C, AMOUNT, MODE)
        g *= _slope(normal * w[None, :] + b[None, :], ACTIVATION)
        sum_g += g
        sum_gx += g * normal
    tl.store(sums_g + program * C + c, tl.sum(sum_g, 0), c < C)
    tl.store(sums_gx + program * C + c, tl.sum(sum_gx, 0), c < C)


@triton.jit
def _input_gradient(
    grad,  # [B, H + 2 AMOUNT, W + 2 AMOUNT, C]
    x,  # [B, H, W, C]
    mean,  # [C]
    rstd,  # [C]
    weight,  # [C]
    bias,  # [C]
    sum_g,  # [C]
    sum_gx,  # [C]
    out,  # [B, H, W, C]
    pixels,  # of x
    height,
    width,
    C: tl.constexpr,
    AMOUNT: tl.constexpr,
    MODE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    middle, inverse = tl.load(mean + c, c < C, other=0.0), tl.load(rstd + c, c < C, other=0.0)
    w, b = tl.load(weight + c, c < C, other=0.0), tl.load(bias + c, c < C, other=0.0)
    mean_g = tl.load(sum_g + c, c < C, other=0.0) / pixels
    mean_gx = tl.load(sum_gx + c, c < C, other=0.0) / pixels
    p = tl.program_id(0) * BLOCK_P + tl.arange(0, BLOCK_P)
    here = (p < pixels)[:, None] & (c < C)[None, :]
    tile = tl.load(x + p[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    normal = (tile - middle[None, :]) * inverse[None, :]
    g = _gathered(grad, p, c, here, height, width, C, AMOUNT, MODE)
    g *= _slope(normal * w[None, :] + b[None, :], ACTIVATION)
    back = (w * inverse)[None, :] * (g - mean_g[None, :] - normal * mean_gx[None, :])
    tl.store(out + p[:, None] * C + c[None, :], back.to(out.dtype.element_ty), here)


def forward(
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [C] float32
    rstd: Tensor,  # [C] float32
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    activation: str,
    amount: int,
    mode: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount], as x
    """Normalise, activate and pad in one launch."""
    images, channels, height, width = x.shape
    shape = (images, channels, height + 2 * amount, width + 2 * amount)
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    pixels = out.numel() // channels
    grid, constants = _layout(pixels, channels, TILE)
    constants |= {"AMOUNT": amount, "MODE": mode, "ACTIVATION": activation}
    _forward[grid](x, mean, rstd, weight, bias, out, pixels, height, width, **constants)
    return out


def backward(
    grad: Tensor,  # [B, C, H + 2 amount, W + 2 amount] channels last
    x: Tensor,  # [B, C, H, W] channels last
    mean: Tensor,  # [C] float32
    rstd: Tensor,  # [C] float32
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    activation: str,
    amount: int,
    mode: str,
) -> tuple[Tensor, Tensor, Tensor]:  # of x, as x; of weight and bias, [C] float32
    """Compute the gradients in four launches: sums of each program, the totals of both sums, and the gradient of x."""
    channels, height, width = x.shape[1:]
    pixels = x.numel() // channels
    grid, constants = _layout(pixels, channels, BACKWARD_TILE)
    constants |= {"AMOUNT": amount, "MODE": mode, "ACTIVATION": activation}
    programs = min(PROGRAMS, grid[0])
    given = grad, x, mean, rstd, weight, bias
    partial = [torch.empty(programs, channels, dtype=torch.float32, device=x.device) for _ in range(2)]
    _sums[(programs, grid[1])](*given, *partial, pixels, height, width, **constants)
    sum_g, sum_gx = (sums.sum(0) for sums in partial)
    out = torch.empty_like(x)
    _input_gradient[grid](*given, sum_g, sum_gx, out, pixels, height, width, **constants)
    return out, sum_gx, sum_g


def _layout(pixels: int, channels: int, tile: int) -> tuple[tuple[int, int], dict[str, int | str]]:
    """Return the grid of programs over pixels and channels, and the kernel's constants."""
    block_c = min(WIDEST, triton.next_power_of_2(channels))
    block_p = max(1, tile // block_c)
    grid = (triton.cdiv(pixels, block_p), triton.cdiv(channels, block_c))
    return grid, {"C": channels, "BLOCK_P": block_p, "BLOCK_C": block_c, "num_warps": 8}
