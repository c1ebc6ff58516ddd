"""Removal of JPEG's artefacts: the generator is fitted to the decoded picture, and stops before it shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dipfast.tasks.operators import Identity
from dipfast.tasks.problem import Problem, mean_square

BLOCK = 8  # pixels a side


def jpeg(task: Mapping[str, Any], observed: np.ndarray) -> Problem:
    """``observed``: [C, H, W] float32 in [0, 1], the decoded picture."""
    y = torch.from_numpy(observed)[None]
    return Problem(Identity(), mean_square, y, y, block=BLOCK)
