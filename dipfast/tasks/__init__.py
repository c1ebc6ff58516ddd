"""The inverse problems. A task defines its forward operator and its data term, and never sees the network."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch

from dipfast.errors import DipfastError
from dipfast.settings.task import Denoise, GaussianNoise, Inpaint, Jpeg, SuperRes, Task
from dipfast.tasks.degrade import Damaged, check_crop, degrade
from dipfast.tasks.denoise import denoise
from dipfast.tasks.impulses import impulses, without
from dipfast.tasks.inpaint import filled, inpaint
from dipfast.tasks.jpeg import jpeg, quality_of
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
    "quality_of",
    "scale",
]


def pose(
    task: Task,
    observed: np.ndarray,  # [C, h, w] float32 in [0, 1]
    known: np.ndarray | None = None,  # [1, h, w] bool, the known pixels, for inpainting
    visible: np.ndarray | None = None,  # [1, h, w] bool, the pixels that are not transparent; None for all
) -> Problem:
    """Return the inverse problem of restoring ``observed`` by ``task``.

    The range and the noise are estimated from the known and visible pixels. Raises DipfastError for inpainting without
    ``known``.
    """
    # Impulses count as noise only where the noise is not given; otherwise they are kept, as outliers are.
    noise = task.noise if isinstance(task, Denoise) else None
    hit = impulses(observed) if isinstance(noise, GaussianNoise) and noise.sigma == "auto" else None
    if hit is not None:
        observed = without(observed, hit)
    parts = [part for part in (known, visible) if part is not None]
    valid = np.logical_and.reduce(parts) if parts else None
    range = range_of(observed, valid, joint=isinstance(task, Jpeg))
    match task:
        case Inpaint():
            if known is None:
                raise DipfastError("pose(): task inpaint needs `known`")
            problem = inpaint(task, observed, known, range)
        case Denoise():
            problem = denoise(task, observed, range, valid)
        case Jpeg():
            problem = jpeg(task, observed, range)
        case SuperRes():
            problem = superres(task, observed, range)
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


def scale(task: Task) -> int:
    """Return the factor of each side from the given to the wanted picture."""
    return task.scale if isinstance(task, SuperRes) else 1


def padded_multiple(task: Task, multiple: int) -> int:
    """Return what the given picture's sides must divide by for the wanted picture's to divide by ``multiple``."""
    return multiple // math.gcd(multiple, scale(task))
