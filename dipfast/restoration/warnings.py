"""What may have made a picture worse than need be, though nothing failed: for the record, the terminal and the page.

One cause is found here. A restored value lies between the least and the greatest of the values observed around it, give
or take the noise and what a sharper edge adds. A fit that went astray leaves that range: white squares in a hole, black
flecks in a shadow.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.settings.document import Settings
from dipfast.settings.generator import ImageInput
from dipfast.settings.task import Task
from dipfast.tasks import OTHERWISE_CLEAN, Problem, scale
from dipfast.tasks.denoise import LEAST_WHITE
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance

WINDOW = 7  # pixels a side of what counts as around, of the picture observed
DEVIATIONS = 3.0  # of the noise
SHARE = {"denoise": 0.05, "jpeg": 0.15, "inpaint": 0.25, "superres": 0.25}  # of the picture's range, that is allowed
TAIL = 0.001
MOSTLY = 0.8  # share of a change that is applied, below which it is told


def warnings_of(settings: Settings, facts: Mapping[str, Any]) -> list[str]:
    """Return the warnings of an item with ``settings`` and ``facts``, one sentence each."""
    return [*_of_noise(settings, facts), *_of_change(facts), *_of_answer(facts)]


def _of_change(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence where the picture was changed less than the fit would have it, or not at all."""
    applied = facts.get("change_applied", 1.0)
    told = "task.noise.sigma: NUMBER says how strong the noise is"
    if applied == 0:
        coded = facts.get("jpeg_quality")
        blocks = "" if coded is None else f"; it was coded as a JPEG of quality {coded}, whose blocks task jpeg removes"
        return [f"no noise was found, so the picture is left as it is{blocks}; {told}"]
    if applied < MOSTLY:
        return [
            f"the noise that was found (sigma {facts['sigma']:g}) explains {100 * applied:.0f} % of the change that "
            f"the fit asks for: the rest is detail of the picture, and was kept; {told}"
        ]
    return []


def _of_answer(facts: Mapping[str, Any]) -> list[str]:
    """Return warnings of what no restored picture should have."""
    if "outside" not in facts:
        return []
    return [
        f"{facts['outside']} pixels of the answer lie outside the range of what is around them, by up to "
        f"{255 * facts['outside_by']:.3g} of 255, the most at row {facts['outside_row']}, column "
        f"{facts['outside_column']}: look at them"
    ]


def _of_noise(settings: Settings, facts: Mapping[str, Any]) -> list[str]:
    """Return warnings of noise, or of JPEG's quantisation, that differs from what was told or assumed."""
    if "impulses" in facts:
        return [
            f"{100 * facts['impulses']:.2g} % of the pixels are specks of the lightest or darkest value: taken for "
            f"salt-and-pepper noise, {'the only noise' if facts['sigma'] < OTHERWISE_CLEAN else 'beside other noise'}, "
            "and filled from their neighbours; task.noise.type: salt-pepper fits such noise by itself, "
            "task.noise.sigma: NUMBER takes the pixels as they are"
        ]
    if facts.get("quality_source") == "assumed":
        return [
            f"no JPEG quantisation was found in the pixels, so quality {facts['quality']} was assumed; "
            "task.quality says another"
        ]
    latent, white = settings.generator.input, facts.get("whiteness")
    if not isinstance(latent, ImageInput) or latent.blind is None or white is None or white >= LEAST_WHITE:
        return []
    sigma, share = f"task.noise.sigma is {facts['sigma']:g}", f"{100 * white:.0f} %"
    less = f"{sigma}, but the finest details hold {share} of such noise: it is less"
    if latent.reach != "auto":
        return [
            f"{less}, or neighbouring pixels share it, which blind spots keep; generator.input.reach: auto hides them"
        ]
    if str(facts.get("noise_shared_by")).startswith("neighbours"):
        return []
    return [f"{less}; sigma: auto estimates it"]


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
    task: Task,
) -> Outside | None:
    """Return where ``pixels`` leave the range of what was observed around them by more than is allowed, if anywhere."""
    told = observed if known is None else observed[:, known[0]]
    span = float(np.ptp(np.quantile(told, (TAIL, 1 - TAIL))))
    allowed = SHARE[task.type] * span + DEVIATIONS * _deviation(problem)
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
    """Return the greatest value around each pixel, of those that count; further away in a wide hole."""
    values = values.masked_fill(~counts, -torch.inf)
    side, found = WINDOW, torch.full_like(values, -torch.inf)
    while not bool(torch.isfinite(found).all()):
        rows = F.max_pool2d(values, (side, 1), 1, (side // 2, 0))
        found = torch.where(torch.isfinite(found), found, F.max_pool2d(rows, (1, side), 1, (0, side // 2)))
        side = 2 * side + 1
    return found


def _deviation(problem: Problem) -> float:
    """Return the deviation of the noise at its strongest, in the full range; 0 where it is not known."""
    noise = problem.expected_residual
    if not isinstance(noise, ClippedGaussian | PoissonVariance):
        return 0.0
    width = float(problem.range.width.max())
    if isinstance(noise, ClippedGaussian):
        return width * float(noise.std.max())
    return width * float(noise.deviation(problem.target).max())
