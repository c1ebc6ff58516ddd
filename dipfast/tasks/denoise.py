"""Denoising: the data term is the noise's. Gaussian, Poisson, salt and pepper.

A is the identity, but for what clipping leaves of it on the mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dipfast.tasks.grain import measure
from dipfast.tasks.operators import Clipping, Identity, Operator, Saturation
from dipfast.tasks.problem import ClippedGaussian, PoissonDeviance, PoissonVariance, Problem, mean_absolute, mean_square

LEAST_WHITE = 0.75  # of a given sigma, what the high frequencies hold of it at least, if the noise is white


def denoise(task: Mapping[str, Any], observed: np.ndarray) -> Problem:
    """``observed``: [C, H, W] float32 in [0, 1]. ``task``: the manifest's section."""
    noise = task["noise"]
    y = torch.from_numpy(observed)[None]
    if noise["type"] == "salt-pepper":
        return Problem(Identity(), mean_absolute, y, y)
    found = measure(observed)
    if noise["type"] == "poisson":
        peak = torch.tensor(noise["peak"])
        deviance, variance = PoissonDeviance(0.1 / peak), PoissonVariance(peak)
        facts = {"peak": noise["peak"]} | found.facts
        return Problem(Saturation(peak), deviance, y, y, variance, grain=found.grain, facts=facts)
    if noise["sigma"] == "auto":
        sigma = round(255 * (found.std if found.grain.reach else found.high), 3)
        about: dict[str, float | str] = {"sigma": sigma, "sigma_source": "estimated"}
    else:
        sigma = float(noise["sigma"])
        about = {"sigma": sigma, "sigma_source": "given"}
        white = round(255 * found.high / sigma, 3)
        if white:
            about["whiteness"] = white
        if white >= LEAST_WHITE:  # then what the middle frequencies hold above the highest is the picture's own
            found = found.within(0)
    std, clipped = torch.tensor(sigma / 255), noise.get("clipped", True)
    operator: Operator = Clipping(std) if clipped else Identity()
    residual = ClippedGaussian(std, about_mean=clipped)
    return Problem(operator, mean_square, y, y, residual, grain=found.grain, facts=about | found.facts)
