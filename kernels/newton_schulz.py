"""Muon's Newton-Schulz iteration over a batch of matrices: the contract, and the plain twin that tests it."""

from __future__ import annotations

import torch
from torch import Tensor

from .checks import FLOATS, LARGEST, require, require_kernels

QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan (2024), https://kellerjordan.github.io/posts/muon/
MOST_ROWS = {torch.float32: 32, torch.bfloat16: 128, torch.float16: 128}  # rows of a matrix that one program can hold


def plain(
    matrices: Tensor,  # [N, rows, columns]
    steps: int,
) -> Tensor:  # [N, rows, columns]
    """Divide x by its norm, then replace it ``steps`` times by a x + (b g + c g g) x, with g = x x^T.

    This is the plain twin of `newton_schulz`, in any precision. It is cheapest for fewer rows than columns. Rows and
    columns of zeros stay zeros and change nothing else.
    """
    a, b, c = QUINTIC
    x = matrices / (matrices.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


@torch.library.custom_op("dipfast::newton_schulz", mutates_args=())
def newton_schulz(
    matrices: Tensor,  # [N, rows, columns] float32, bfloat16 or float16
    steps: int,
) -> Tensor:  # [N, rows, columns]
    """Compute `plain` in one launch, with sums in float32.

    Matrices of more than `MOST_ROWS` rows are left to `plain`, whose batched products use a GPU well at that size.
    There is no gradient. Raises RuntimeError where Triton cannot run, and for other shapes or dtypes than stated.
    """
    require_kernels("newton_schulz", matrices)
    require("newton_schulz: matrices", matrices, FLOATS)
    if matrices.dim() != 3:
        raise RuntimeError(f"newton_schulz: matrices should have 3 dimensions, has {matrices.dim()}")
    if 2 * matrices.numel() > LARGEST:
        raise RuntimeError(f"newton_schulz: matrices should have up to {LARGEST // 2} elements, has {matrices.numel()}")
    if steps < 1:
        raise RuntimeError(f"newton_schulz: steps should be at least 1, is {steps}")
    if matrices.shape[1] > MOST_ROWS[matrices.dtype]:
        return plain(matrices, steps)
    from . import newton_schulz_triton as kernel

    with torch.cuda.device_of(matrices):
        return kernel.iterate(matrices.contiguous(), steps, QUINTIC)


@newton_schulz.register_fake
def _(matrices: Tensor, steps: int) -> Tensor:
    return torch.empty_like(matrices, memory_format=torch.contiguous_format)
