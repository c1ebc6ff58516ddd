"""Whether an answer stays within the values that were observed around it: where it does not, a user must hear of it.

A restored value lies between the least and the greatest of its surroundings, give or take the noise and what a
sharper edge adds. A fit that went astray does not: white squares in a hole, black flecks in a shadow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks import Problem, scale
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance

REACH = 7  # pixels a side of what counts as around, of the picture observed
DEVIATIONS = 3.0  # of the noise
SHARE = {"denoise": 0.05, "jpeg": 0.15, "inpaint": 0.25, "superres": 0.25}  # of the picture's range, that is allowed
TAIL = 0.001


@dataclass(frozen=True)
class Outside:
    """Values of an answer beyond what is around them: how many, by how much at most (of the full range), and where."""

    count: int
    most: float
    row: int
    column: int


def outside(
    pixels: np.ndarray,  # [C, H, W], the answer in the full range
    observed: np.ndarray,  # [C, h, w]
    known: np.ndarray | None,  # [1, h, w] bool
    problem: Problem,
    task: Mapping[str, Any],
) -> Outside | None:
    """Where ``pixels`` leave the range of what was observed around them by more than is allowed, if anywhere."""
    told = observed if known is None else observed[:, known[0]]
    span = float(np.ptp(np.quantile(told, (TAIL, 1 - TAIL))))
    allowed = SHARE[task["type"]] * span + DEVIATIONS * _deviation(problem)
    y = torch.from_numpy(observed)[None]
    counts = torch.ones_like(y[:, :1], dtype=torch.bool) if known is None else torch.from_numpy(known)[None]
    times = scale(task)
    low, high = (
        (sign * _greatest(sign * y, counts)).repeat_interleave(times, 2).repeat_interleave(times, 3) for sign in (-1, 1)
    )
    answer = torch.from_numpy(pixels)[None]
    beyond = torch.maximum(low - answer, answer - high)[0] - allowed
    count = int((beyond > 0).any(0).sum())
    if not count:
        return None
    place = int(beyond.amax(0).argmax())
    return Outside(count, float(beyond.max()) + allowed, *divmod(place, pixels.shape[2]))


def _greatest(values: Tensor, counts: Tensor) -> Tensor:  # [1, C, h, w], [1, 1, h, w] bool -> [1, C, h, w]
    """The greatest value around each pixel, of those that count; further away in a wide hole."""
    values = values.masked_fill(~counts, -torch.inf)
    side, found = REACH, torch.full_like(values, -torch.inf)
    while not bool(torch.isfinite(found).all()):
        rows = F.max_pool2d(values, (side, 1), 1, (side // 2, 0))
        found = torch.where(torch.isfinite(found), found, F.max_pool2d(rows, (1, side), 1, (0, side // 2)))
        side = 2 * side + 1
    return found


def _deviation(problem: Problem) -> float:
    """Of the noise at its strongest, in the full range; 0 where it is not known."""
    noise = problem.expected_residual
    if not isinstance(noise, ClippedGaussian | PoissonVariance):
        return 0.0
    width = float(problem.range.width.max())
    if isinstance(noise, ClippedGaussian):
        return width * float(noise.std.max())
    return width * float(noise.deviation(problem.target).max())
