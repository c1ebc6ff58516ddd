"""The inverse problems: each owns its forward operator and its data term. A task never sees the network."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dipfast.errors import DipfastError
from dipfast.tasks.degrade import Damaged, check_crop, degrade
from dipfast.tasks.denoise import denoise
from dipfast.tasks.impulses import impulses, without
from dipfast.tasks.inpaint import filled, inpaint
from dipfast.tasks.jpeg import jpeg
from dipfast.tasks.mask import check_mask_size, known_pixels
from dipfast.tasks.problem import Problem
from dipfast.tasks.range import outliers, range_of
from dipfast.tasks.superres import superres

OTHERWISE_CLEAN = 2.0  # sigma in 8-bit units, below which only impulses are changed where there are any

__all__ = [
    "Damaged",
    "Problem",
    "check_crop",
    "check_mask_size",
    "degrade",
    "filled",
    "known_pixels",
    "padded_multiple",
    "pose",
    "scale",
]


def pose(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, h, w] float32 in [0, 1]
    known: np.ndarray | None = None,  # [1, h, w] bool, for inpainting
    visible: np.ndarray | None = None,  # [1, h, w] bool, where alpha shows the colours; everywhere unless given
) -> Problem:
    """The inverse problem that ``task`` (the manifest's section, every default filled in) poses for ``observed``."""
    kind = task["type"]
    if kind == "inpaint" and known is None:
        raise DipfastError("pose(): task inpaint needs `known`")
    hit = impulses(observed) if _takes_impulses(task) else None
    if hit is not None:
        observed = without(observed, hit)
    # An impulse is noise where nobody said what the noise is; elsewhere it is kept, as every outlier is.
    parts = [part for part in (known, visible) if part is not None]
    counts = np.logical_and.reduce(parts) if parts else None
    range = range_of(observed, counts, joint=kind == "jpeg")
    if kind == "inpaint":
        assert known is not None
        problem = inpaint(task, observed, known, range)
    elif kind == "denoise":
        problem = denoise(task, observed, range, counts)
    else:
        problem = {"jpeg": jpeg, "superres": superres}[kind](task, observed, range)
    outlying = outliers(observed, range)
    if counts is not None:
        outlying &= counts  # what a hole or a hidden place holds is no value of the picture
    facts: dict[str, float | str] = {} if range.is_whole else {"range": range.text}
    if hit is not None:
        facts["impulses"] = round(float(hit.mean()), 4)
        if float(problem.facts["sigma"]) < OTHERWISE_CLEAN:
            problem = replace(problem, keep=torch.from_numpy(~hit)[None].float())
    facts |= {"outliers_kept": int(outlying.sum())} if outlying.any() else {}
    return replace(problem, outlying=outlying if outlying.any() else None, facts=problem.facts | facts)


def _takes_impulses(task: Mapping[str, Any]) -> bool:
    """Whether nobody said what the noise is, so that it may be impulses."""
    return task["type"] == "denoise" and task["noise"].get("sigma") == "auto"


def scale(task: Mapping[str, Any]) -> int:
    """How many times larger the picture sought is than the picture given."""
    return int(task.get("scale", 1))


def padded_multiple(task: Mapping[str, Any], multiple: int) -> int:
    """What the sides of the picture given must divide by, for the picture sought to divide by ``multiple``."""
    return multiple // math.gcd(multiple, scale(task))
