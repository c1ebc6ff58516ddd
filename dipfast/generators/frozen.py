"""A network with frozen statistics, over pictures of any size: a plain denoiser, rendered tile by tile.

A generator normalises by the statistics of what it sees. One that was fitted on windows has to be given some, once:
those of the whole picture, or of windows spread over a large one. Then each value of its answer depends on the pixels
within its reach alone, so a picture can be rendered in tiles that overlap by that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from dipfast.generators.architecture import Architecture
from dipfast.generators.folded import FoldedNet, fold

SAMPLED = 1 << 16  # pixels of a larger picture that statistics are taken from
WINDOW = 64  # pixels a side of the windows that they are in
TILE = 512  # pixels a side, beside the overlap


def freeze(architecture: Architecture, state: Mapping[str, Tensor], shown: Tensor) -> FoldedNet:
    """Return the generator with the statistics that it has at ``shown`` [1, D, H, W], on the CPU, in float32."""
    return fold(architecture, state, sample(shown, 2 ** len(architecture.levels)), torch.float32)


def sample(shown: Tensor, multiple: int) -> Tensor:  # [1, D, H, W] -> the same, or [N, D, 64, 64]
    """Return what statistics are taken from: the picture, or where it is large, windows from the cells of a grid."""
    _, _, height, width = shown.shape
    if height * width <= SAMPLED or min(height, width) < WINDOW:
        return shown
    rows = max(1, round(math.sqrt(SAMPLED / WINDOW**2 * height / width)))
    columns = max(1, SAMPLED // WINDOW**2 // rows)
    tops, lefts = (list(_centred(side, count, multiple)) for side, count in ((height, rows), (width, columns)))
    return torch.cat([shown[..., top : top + WINDOW, left : left + WINDOW] for top in tops for left in lefts])


def _centred(side: int, count: int, multiple: int) -> Iterator[int]:
    """Yield where windows in the middle of ``count`` cells of ``side`` begin."""
    for cell in range(count):
        start = int((cell + 0.5) * side / count - WINDOW / 2)
        yield min(max(0, start), side - WINDOW) // multiple * multiple


def reach(architecture: Architecture) -> int:
    """Return how many pixels away a pixel can change a value of the answer, at most; a multiple of the coarsest pixel.

    ``architecture`` has at least one level.
    """
    total = 0
    for level in architecture.levels:
        for block in level.blocks:
            total += block.margin * 2**block.halvings
        total += 2 ** (level.halvings + 1)  # of the upsampling, which may interpolate
    multiple = 2 ** len(architecture.levels)
    return -(-total // multiple) * multiple


@torch.no_grad()
def render(
    net: Callable[[Tensor], Tensor],  # a `FoldedNet`, or an exported model of one
    architecture: Architecture,
    shown: Tensor,  # [1, D, H, W]
) -> Tensor:  # [1, C, H, W]
    """Return what ``net`` gives at ``shown``, tile by tile; sides are multiples of the coarsest pixel."""
    _, _, height, width = shown.shape
    halo = reach(architecture)
    answer = shown.new_empty(1, architecture.head.outputs, height, width)
    for top in range(0, height, TILE):
        for left in range(0, width, TILE):
            above, before = max(0, top - halo), max(0, left - halo)
            part = shown[..., above : top + TILE + halo, before : left + TILE + halo]
            found = net(part.contiguous(memory_format=torch.channels_last))
            rows, columns = slice(top - above, top - above + TILE), slice(left - before, left - before + TILE)
            answer[..., top : top + TILE, left : left + TILE] = found[..., rows, columns]
    return answer
