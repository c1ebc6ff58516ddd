"""The inverse problems. A task defines its forward operator and its data term, and never sees the network."""

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

OTHERWISE_CLEAN = 2.0  # a picture with impulses and less other noise, sigma in 8-bit units, is changed at impulses only

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
    known: np.ndarray | None = None,  # [1, h, w] bool, the known pixels, for inpainting
    visible: np.ndarray | None = None,  # [1, h, w] bool, the pixels that are not transparent; None for all
) -> Problem:
    """Return the inverse problem of restoring ``observed`` by ``task``, the manifest's section with defaults filled in.

    The range and the noise are estimated from the known and visible pixels. Raises DipfastError for inpainting without
    ``known``.
    """
    kind = task["type"]
    if kind == "inpaint" and known is None:
        raise DipfastError("pose(): task inpaint needs `known`")
    # Impulses count as noise only where the noise is not given; otherwise they are kept, as outliers are.
    hit = impulses(observed) if kind == "denoise" and task["noise"].get("sigma") == "auto" else None
    if hit is not None:
        observed = without(observed, hit)
    parts = [part for part in (known, visible) if part is not None]
    valid = np.logical_and.reduce(parts) if parts else None
    range = range_of(observed, valid, joint=kind == "jpeg")
    if kind == "inpaint":
        assert known is not None
        problem = inpaint(task, observed, known, range)
    elif kind == "denoise":
        problem = denoise(task, observed, range, valid)
    else:
        problem = {"jpeg": jpeg, "superres": superres}[kind](task, observed, range)
    if not range.is_whole:
        problem = replace(problem, facts=problem.facts | {"range": range.text})
    if hit is not None:
        problem = _with_impulses(problem, hit)
    outlying = outliers(observed, range)
    if valid is not None:
        outlying &= valid  # values in holes and under transparency are not the picture's
    if not outlying.any():
        return problem
    return replace(problem, outlying=outlying, facts=problem.facts | {"outliers_kept": int(outlying.sum())})


def _with_impulses(problem: Problem, hit: np.ndarray) -> Problem:
    """Record the share of pixels that are impulses, and keep all others if they are nearly free of noise."""
    keep = torch.from_numpy(~hit)[None].float() if float(problem.facts["sigma"]) < OTHERWISE_CLEAN else problem.keep
    return replace(problem, keep=keep, facts=problem.facts | {"impulses": round(float(hit.mean()), 4)})


def scale(task: Mapping[str, Any]) -> int:
    """Return the factor of each side from the given to the wanted picture."""
    return int(task.get("scale", 1))


def padded_multiple(task: Mapping[str, Any], multiple: int) -> int:
    """Return what the given picture's sides must divide by for the wanted picture's to divide by ``multiple``."""
    return multiple // math.gcd(multiple, scale(task))
