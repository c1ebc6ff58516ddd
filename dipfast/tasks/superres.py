"""Super-resolution: the picture sought, reduced by a known low-pass, is the picture given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from dipfast.tasks.operators import Downsampling
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range


def superres(task: Mapping[str, Any], observed: np.ndarray, range: Range) -> Problem:
    """``observed``: [C, h, w] float32 in [0, 1]; the picture sought is `scale` times as high and wide."""
    full = torch.from_numpy(observed)[None]
    y = range.to_unit(full)
    guide = F.interpolate(y, scale_factor=task["scale"], mode="bicubic", align_corners=False)
    guide = guide.clamp(range.lower, range.upper)
    operator = Downsampling.of(task["scale"], task["kernel"])
    exact = task.get("keep_given", True)
    return Problem(operator, mean_square, y, guide, exact=exact, range=range, given=range.of_full(full))
