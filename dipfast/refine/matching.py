"""Block matching: for each patch of a grid, the patches nearby that are most like it.

Patches are compared by their first principal components, as products of matrices: the squared distance of a and b is
|a|^2 - 2 a b + |b|^2, and |a|^2 does not change the order. All is batched torch, with no loop over shifts or pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

FAR = 1e9  # more than any squared distance: places outside of the picture
SIDE_BY_SIDE = 8  # references of a row whose windows are compared in one product, since they overlap


def nearest_patches(
    components: Tensor,  # [H, W, R], the principal components of the patch at each place
    rows: range,  # of the references
    stride: int,  # columns from one reference to the next, from 0
    reach: int,  # places that a window extends to each side of its reference
    count: int,  # of patches for each reference, itself included
) -> Tensor:  # [references, count] int64: row * W + column, in no particular order
    """Return the places of the ``count`` patches that are nearest to each reference, all within its window.

    References are at every ``stride``-th column of ``rows``, the last column included if it divides. Where a window
    reaches beyond the picture, the rest of it must hold at least ``count`` places.
    """
    _, width, _ = components.shape
    side = 2 * reach + 1
    columns = (width - 1) // stride + 1
    blocks = -(-columns // SIDE_BY_SIDE)
    beyond = (blocks * SIDE_BY_SIDE - 1) * stride + side - width - reach  # columns that the last block's windows need
    values = F.pad(components, (0, 0, reach, max(0, beyond)))
    squares = F.pad(components.square().sum(-1), (reach, max(0, beyond)), value=FAR)
    found = [_of_row(values, squares, row, columns, stride, reach, count) for row in rows]
    shift = torch.cat(found).view(len(rows), columns, count)
    at_row = torch.tensor(list(rows), device=shift.device).view(-1, 1, 1)
    at_column = (torch.arange(columns, device=shift.device) * stride).view(1, -1, 1)
    places = (at_row + shift // side - reach) * width + at_column + shift % side - reach
    return places.flatten(0, 1)


def _of_row(
    values: Tensor,  # [H, W', R], components, padded at the sides
    squares: Tensor,  # [H, W'], their squared norms, padded by `FAR`
    row: int,
    columns: int,
    stride: int,
    reach: int,
    count: int,
) -> Tensor:  # [columns, count]
    """Return for each reference of ``row`` the nearest places of its window, as row * side + column of it."""
    height, _, rank = values.shape
    side, span = 2 * reach + 1, (SIDE_BY_SIDE - 1) * stride + 2 * reach + 1
    above, below = max(0, reach - row), max(0, row + reach + 1 - height)
    seen = slice(max(0, row - reach), row + reach + 1)
    around = F.pad(values[seen], (0, 0, 0, 0, above, below)).unfold(1, span, SIDE_BY_SIDE * stride)
    blocks = around.shape[1]
    around = around.permute(1, 2, 0, 3).reshape(blocks, rank, side * span)
    norms = F.pad(squares[seen], (0, 0, above, below), value=FAR).unfold(1, span, SIDE_BY_SIDE * stride)
    norms = norms.permute(1, 0, 2).reshape(blocks, 1, side * span)
    last = (blocks * SIDE_BY_SIDE - 1) * stride + 1
    own = values[row, reach : reach + last : stride].reshape(blocks, SIDE_BY_SIDE, rank)
    distances = torch.baddbmm(norms, own, around, alpha=-2)  # [blocks, references, side * span]
    strides = (SIDE_BY_SIDE * side * span, side * span + stride, span, 1)  # each reference's own window
    windows = distances.as_strided((blocks, SIDE_BY_SIDE, side, side), strides)
    windows = windows.reshape(blocks * SIDE_BY_SIDE, side * side)[:columns]
    windows[:, reach * side + reach] = -FAR  # a reference is always of its own group
    return windows.topk(count, dim=1, largest=False, sorted=False).indices
