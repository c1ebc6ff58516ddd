"""Super-resolution: the wanted picture, reduced by a known low-pass, is the given one."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from dipfast.settings.task import SuperRes
from dipfast.tasks.operators import Downsampling
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range


def superres(task: SuperRes, observed: np.ndarray, range: Range) -> Problem:
    """Return the problem of enlarging ``observed`` [C, h, w] float32 in [0, 1], which fills ``range``."""
    full = torch.from_numpy(observed)[None]
    y = range.to_unit(full)
    guide = F.interpolate(y, scale_factor=task.scale, mode="bicubic", align_corners=False)
    guide = guide.clamp(range.lower, range.upper)
    operator = Downsampling.of(task.scale, task.kernel)
    return Problem(operator, mean_square, y, guide, exact=task.keep_given, range=range, given=range.of_full(full))
