"""The kernel of `newton_schulz`: one program iterates one matrix x, and holds x x^T in registers.

The matrix itself is in memory in two copies. A step reads one and writes the other, one block of columns after the
other, so that no thread overwrites what another still reads, and one barrier a step is enough. At the sizes of a fit
both copies stay in the GPU's cache. The kernel has not been measured on a GPU yet.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .checks import interpreted

BLOCK = 64  # columns that a program handles at once


@triton.jit
def _product(x, y, total, WIDEN: tl.constexpr):
    """Return ``total`` + ``x`` ``y`` in float32. ``WIDEN`` is for the interpreter, which cannot multiply bfloat16."""
    if WIDEN:
        return tl.dot(x.to(tl.float32), y.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(x, y, total, input_precision="ieee")


@triton.jit
def _iterate(
    matrices,  # [N, rows, columns]
    scratch,  # [2, N, ROWS, wide], padded with rows and columns of zeros
    out,  # [N, rows, columns]
    rows,
    columns,
    wide,  # a multiple of BLOCK
    steps,
    a,
    b,
    c,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDEN: tl.constexpr,
):
    matrix, count = tl.program_id(0), tl.num_programs(0)
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, BLOCK)[None, :]
    given = matrix * rows * columns + row * columns + column
    own = matrix * ROWS * wide + row * wide + column
    squares = tl.zeros([ROWS, BLOCK], tl.float32)
    for start in range(0, wide, BLOCK):
        here = (row < rows) & (start + column < columns)
        x = tl.load(matrices + given + start, here, other=0.0).to(tl.float32)
        squares += x * x
    norm = tl.sqrt_rn(tl.sum(tl.sum(squares, 1), 0)) + 1e-7
    for start in range(0, wide, BLOCK):
        here = (row < rows) & (start + column < columns)
        x = tl.load(matrices + given + start, here, other=0.0).to(tl.float32)
        tl.store(scratch + own + start, tl.div_rn(x, norm).to(out.dtype.element_ty))
    for step in range(steps):
        tl.debug_barrier()  # the next lines read what other threads have written
        now = scratch + (step % 2) * count * ROWS * wide
        after = scratch + (1 - step % 2) * count * ROWS * wide
        gram = tl.zeros([ROWS, ROWS], tl.float32)
        for start in range(0, wide, BLOCK):
            x = tl.load(now + own + start)
            gram = _product(x, tl.trans(x), gram, WIDEN)
        low = gram.to(out.dtype.element_ty)  # in both terms: its rounding cancels near 1, where b + 2 c is small
        square = _product(low, low, tl.zeros([ROWS, ROWS], tl.float32), WIDEN)
        turn = (b * low.to(tl.float32) + c * square).to(out.dtype.element_ty)
        for start in range(0, wide, BLOCK):
            x = tl.load(now + own + start)
            y = _product(turn, x, a * x.to(tl.float32), WIDEN).to(out.dtype.element_ty)
            if step == steps - 1:
                tl.store(out + given + start, y, (row < rows) & (start + column < columns))
            else:
                tl.store(after + own + start, y)


def iterate(
    matrices: Tensor,  # [N, rows, columns] contiguous
    steps: int,
    quintic: tuple[float, float, float],
) -> Tensor:  # [N, rows, columns]
    """Run the iteration in one launch."""
    count, rows, columns = matrices.shape
    high, wide = max(16, triton.next_power_of_2(rows)), triton.cdiv(columns, BLOCK) * BLOCK
    scratch, out = matrices.new_empty(2, count, high, wide), torch.empty_like(matrices)
    constants = {"ROWS": high, "BLOCK": BLOCK, "WIDEN": interpreted(), "num_warps": 8}
    _iterate[(count,)](matrices, scratch, out, rows, columns, wide, steps, *quintic, **constants)
    return out
