"""What several kernels do to a tile of numbers in registers: activations, mirrored borders, upsampled reads."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def activate(u, NAME: tl.constexpr):
    """The activation of that name, in float32."""
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
def slope(u, NAME: tl.constexpr):
    """The derivative of that activation."""
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
def mirror(i, SIZE):
    """Where a reflection padding reads: i of [-SIZE + 1, 2 SIZE - 2] to [0, SIZE - 1], borders not repeated."""
    i = tl.where(i < 0, -i, i)
    return tl.where(i >= SIZE, 2 * (SIZE - 1) - i, i)


@triton.jit
def clamp(i, SIZE):
    """The nearest of [0, SIZE - 1]."""
    return tl.minimum(tl.maximum(i, 0), SIZE - 1)


@triton.jit
def read_upsampled(x, p, c, here, height, width, C: tl.constexpr, MODE: tl.constexpr):
    """A tile [P, C] of x at twice its size: fine pixels p, channels c. ``height`` and ``width`` are x's own.

    MODE: none (p are x's own pixels), nearest, or bilinear with half-pixel centres.
    """
    if MODE == "none":
        return tl.load(x + p[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
    else:
        j, rest = p % (2 * width), p // (2 * width)
        i, image = rest % (2 * height), rest // (2 * height)
        row, column = i // 2, j // 2
        first = (image * height + row) * width
        near = tl.load(x + (first + column)[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
        if MODE == "nearest":
            return near
        else:
            beside = clamp(column + 2 * (j % 2) - 1, width)
            second = (image * height + clamp(row + 2 * (i % 2) - 1, height)) * width
            across = tl.load(x + (first + beside)[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
            down = tl.load(x + (second + column)[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
            far = tl.load(x + (second + beside)[:, None] * C + c[None, :], here, other=0.0).to(tl.float32)
            return 0.75 * (0.75 * near + 0.25 * across) + 0.25 * (0.75 * down + 0.25 * far)
