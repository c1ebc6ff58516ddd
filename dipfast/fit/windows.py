"""Windows: a fit whose steps see a batch of small parts of the picture, one from each cell of a grid over it.

So a step costs the same for every picture, and one program fits pictures of all sizes. The cells of the grid cover the
picture, so the statistics of a batch are near those of the whole; with windows drawn anywhere they would wander from
step to step. After the fit they are frozen (`generators.frozen`), and the network is a plain convolutional one.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.settings.fit import Windows
from dipfast.tasks import Problem
from dipfast.tasks.problem import NoiseModel

SMOOTH = 5  # pixels a side of the mean that stands for the picture where the strength of noise depends on it
ALIGNED = 2  # windows begin at multiples of it


class WindowSource:
    """A picture on the device, from which each step draws its windows.

    All that depends on the size of the picture is a number on the device, so a captured step serves every picture that
    has room in the buffer.
    """

    def __init__(self, problem: Problem, windows: Windows, device: torch.device) -> None:
        self.side, self.count = window_side(problem, windows), windows.count
        channels, height, width = problem.shape
        self.picture = torch.zeros(2 * channels, height * width, device=device)  # and the deviation of its noise
        self.height, self.width, self.columns = (torch.zeros((), device=device) for _ in range(3))
        self.numbers = torch.arange(self.count, device=device)
        steps = torch.arange(self.side, device=device)
        self.rows_within, self.columns_within = steps[:, None], steps[None]
        self.adopt(problem)

    def takes(self, problem: Problem) -> bool:
        """Return whether there is room for the picture of ``problem``."""
        channels, height, width = problem.shape
        return 2 * channels == len(self.picture) and height * width <= self.picture.shape[1]

    def adopt(self, problem: Problem) -> None:
        """Take over the picture of ``problem``."""
        _, _, height, width = problem.target.shape
        deviation = _deviation(problem).expand_as(problem.target)
        self.picture[:, : height * width] = torch.cat((problem.target, deviation), 1)[0].flatten(1)
        self.height.fill_(height)
        self.width.fill_(width)
        self.columns.fill_(grid_columns(height, width, self.count))

    def draw(self, random: torch.Generator) -> tuple[Tensor, Tensor]:  # [B, C, w, w], both
        """Return windows of the picture at random places, one from each cell, and the deviation of their noise."""
        within = torch.rand(2, self.count, generator=random, device=self.picture.device)
        rows = self.count / self.columns
        cell = torch.stack((torch.div(self.numbers, self.columns, rounding_mode="floor"), self.numbers % self.columns))
        sides, cells = torch.stack((self.height, self.width)), torch.stack((rows, self.columns))
        corner = ((cell + within) * (sides / cells)[:, None] - self.side / 2) / ALIGNED
        last = (sides - self.side)[:, None]
        top, left = torch.minimum((corner.round() * ALIGNED).clamp_min(0), last).long()
        width = self.width.long()
        places = (top[:, None, None] + self.rows_within) * width + left[:, None, None] + self.columns_within
        found = self.picture[:, places.flatten()].view(-1, self.count, self.side, self.side).transpose(0, 1)
        picture, deviation = found.chunk(2, dim=1)
        return picture, deviation


def _deviation(problem: Problem) -> Tensor:  # [1, C or 1, H or 1, W or 1]
    """Return the deviation of the noise, at a local mean of the picture; 0 where it is not known."""
    if not isinstance(problem.expected_residual, NoiseModel):
        return problem.target.new_zeros(1, 1, 1, 1)
    smooth = F.avg_pool2d(problem.target, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    return problem.expected_residual.deviation(smooth)


def window_side(problem: Problem, windows: Windows) -> int:
    """Return the side of the windows in pixels: as asked, or that of a picture that is smaller."""
    return min(windows.side, *problem.shape[1:])


def grid_columns(height: int, width: int, count: int) -> int:
    """Return the columns of a grid of ``count`` cells over the picture whose cells are nearest to squares."""
    whole = [number for number in range(1, count + 1) if count % number == 0]
    return min(whole, key=lambda columns: abs(math.log(width / columns * (count / columns) / height)))


def windowed(problem: Problem, windows: Windows) -> Problem:
    """Return the problem that a batch of windows is, with zeros in place of them."""
    side = window_side(problem, windows)
    empty = problem.target.new_zeros(windows.count, problem.shape[0], side, side)
    return replace(problem, target=empty, guide=empty, keep=None, rough=None, given=None, outlying=None)
