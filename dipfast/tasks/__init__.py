"""The inverse problems: each owns its forward operator and its data term. A task never sees the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dipfast.errors import DipfastError
from dipfast.tasks.degrade import Damaged, check_crop, degrade
from dipfast.tasks.denoise import denoise
from dipfast.tasks.inpaint import check_mask_size, inpaint, known_pixels
from dipfast.tasks.jpeg import jpeg
from dipfast.tasks.problem import Problem
from dipfast.tasks.superres import superres

__all__ = [
    "Damaged",
    "Problem",
    "check_crop",
    "check_mask_size",
    "degrade",
    "known_pixels",
    "padded_multiple",
    "pose",
    "scale",
]


def pose(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, h, w] float32 in [0, 1]
    known: np.ndarray | None = None,  # [1, h, w] bool, for inpainting
) -> Problem:
    """The inverse problem that ``task`` (the manifest's section, every default filled in) poses for ``observed``."""
    if task["type"] == "inpaint":
        if known is None:
            raise DipfastError("pose(): task inpaint needs `known`")
        return inpaint(task, observed, known)
    return {"denoise": denoise, "jpeg": jpeg, "superres": superres}[task["type"]](task, observed)


def scale(task: Mapping[str, Any]) -> int:
    """How many times larger the picture sought is than the picture given."""
    return int(task.get("scale", 1))


def padded_multiple(task: Mapping[str, Any], multiple: int) -> int:
    """What the sides of the picture given must divide by, for the picture sought to divide by ``multiple``."""
    return multiple // math.gcd(multiple, scale(task))
