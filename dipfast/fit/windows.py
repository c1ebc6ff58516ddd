"""Windows: the parts of a picture that a fit sees, one from the middle of each cell of a grid over it.

A step then costs the same for every large picture, and one program fits all of them. The windows stay where they are
from step to step, because the network normalises by the statistics of all it sees: with windows drawn anew in each
step these wander, and the fit is worse by more than the unseen parts are worth (LOG.md, 2026-12-01). A small picture
is covered by its windows. After the fit the statistics are frozen (`generators.frozen`), and the network is a plain
convolutional one, which is applied to the whole picture.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from dipfast.settings.fit import Windows
from dipfast.settings.shapes import window_grid
from dipfast.tasks import Problem


def sampled(problem: Problem, windows: Windows, all_of_them: bool = False) -> Problem:
    """Return the problem that a batch of windows of ``problem`` is, [B, C, side, side].

    ``all_of_them``: as many windows as ``windows`` say, even where fewer cover the picture.
    """
    _, height, width = problem.shape
    side = min(windows.side, height, width)
    rows, columns = window_grid(windows, height, width, all_of_them)
    corners = [(top, left) for top in starts(height, side, rows) for left in starts(width, side, columns)]
    batch = torch.cat([problem.target[..., top : top + side, left : left + side] for top, left in corners])
    return replace(problem, target=batch, guide=batch, keep=None, rough=None, given=None, outlying=None)


def starts(length: int, side: int, cells: int) -> list[int]:
    """Return where windows of ``side`` begin: spread from end to end if they cover ``length``, else in mid-cell."""
    if cells * side >= length:
        return [number * (length - side) // max(1, cells - 1) for number in range(cells)]
    return [int((number + 0.5) * length / cells - side / 2) for number in range(cells)]
