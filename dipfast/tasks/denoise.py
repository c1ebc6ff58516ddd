"""Denoising: the data term is the noise's. Gaussian, Poisson, salt and pepper.

A is the identity, but for what clipping leaves of it on the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipfast.tasks.grain import Measured, measure
from dipfast.tasks.operators import Clipping, Identity, Operator, Saturation
from dipfast.tasks.problem import (
    ClippedGaussian,
    PoissonDeviance,
    PoissonVariance,
    Problem,
    WeightedSquare,
    mean_absolute,
)
from dipfast.tasks.range import Range

LEAST_NOISE = 0.25  # of the strongest channel's deviation: one with less counts as if it had that much
LEAST_WHITE = 0.75  # of a given sigma, what the high frequencies hold of it at least, if the noise is white


def denoise(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    range: Range,
    counts: np.ndarray | None = None,  # [1, H, W] bool
) -> Problem:
    """The problem that ``task``, the manifest's section, poses for ``observed``.

    ``range`` is the one that the picture fills. Noise is measured where ``counts`` is true, everywhere unless it is
    given; a picture that is too small to tell has none.
    """
    noise = task["noise"]
    y = range.to_unit(torch.from_numpy(observed)[None])
    if noise["type"] == "salt-pepper":
        return Problem(Identity(), mean_absolute, y, y, range=range)
    bounds = range.lower, range.upper
    found = measure(y[0].numpy(), counts, bounds)
    if noise["type"] == "poisson":
        peak = torch.tensor(noise["peak"])
        deviance, variance = PoissonDeviance(0.1 / peak, range), PoissonVariance(peak, range)
        facts = {"peak": noise["peak"]} | found.facts
        operator: Operator = Saturation(peak, range)
        return Problem(operator, deviance, y, y, variance, grain=found.grain, range=range, facts=facts)
    to_sigma = [255 * width for width in range.width.flatten().tolist()]
    each = _by_channel(y, range, counts) if range.apart else [found] * len(to_sigma)
    if noise["sigma"] == "auto":
        levels = [one.std if found.grain.reach else one.high for one in each]
        sigmas = [factor * level for factor, level in zip(to_sigma, levels, strict=True)]
        sigma = math.hypot(*sigmas) / math.sqrt(len(sigmas))
        about: dict[str, float | str] = {"sigma": _tidy(sigma), "sigma_source": "estimated"}
        if range.apart:
            about["sigma_by_channel"] = ", ".join(str(_tidy(one)) for one in sigmas)
    else:
        sigmas = [float(noise["sigma"])] * len(to_sigma)
        about = {"sigma": sigmas[0], "sigma_source": "given"}
        whites = [factor * one.high / sigmas[0] for factor, one in zip(to_sigma, each, strict=True)]
        white = round(sum(whites) / len(whites), 3)
        if white:
            about["whiteness"] = white
        if white >= LEAST_WHITE:  # then what the middle frequencies hold above the highest is the picture's own
            found = found.within(0)
    std = torch.tensor([sigma / factor for sigma, factor in zip(sigmas, to_sigma, strict=True)]).view(1, -1, 1, 1)
    clipped = noise.get("clipped", True)
    operator = Clipping(std, *bounds) if clipped else Identity()
    residual = ClippedGaussian(std, clipped, 1, *bounds)
    term = WeightedSquare(_weights(std) if range.apart else torch.ones_like(std))
    return Problem(operator, term, y, y, residual, grain=found.grain, range=range, facts=about | found.facts)


def _by_channel(y: Tensor, range: Range, counts: np.ndarray | None) -> list[Measured]:
    """The noise of each channel, in a range of its own."""
    parts = map(range.channel, torch.arange(y.shape[1]).tolist())
    planes = zip(y[0].numpy()[:, None], parts, strict=True)
    return [measure(plane, counts, (part.lower, part.upper)) for plane, part in planes]


def _weights(std: Tensor) -> Tensor:  # [1, C, 1, 1], both
    """How much the squared errors of each channel count: as the noise is weak, and 1 on the mean."""
    least = LEAST_NOISE * float(std.max()) or 1.0
    weights = 1 / std.clamp_min(least).square()
    return weights / weights.mean()


def _tidy(sigma: float) -> float:
    """Round ``sigma`` to three decimals, or to four digits where it is small."""
    return round(sigma, 3) if sigma >= 0.1 else float(f"{sigma:.4g}")
