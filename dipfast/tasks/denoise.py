"""Denoising: the data term is the noise's. Gaussian, Poisson, salt and pepper.

A is the identity, but for what clipping leaves of it on the mean.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from dipfast.tasks.operators import Clipping, Identity, Operator, Saturation
from dipfast.tasks.problem import ClippedGaussian, PoissonDeviance, PoissonVariance, Problem, mean_absolute, mean_square

NORMAL_QUARTILE = 0.6744897501960817  # the median of |n| for a standard normal n


def denoise(task: Mapping[str, Any], observed: np.ndarray) -> Problem:
    """``observed``: [C, H, W] float32 in [0, 1]. ``task``: the manifest's section."""
    noise = task["noise"]
    y = torch.from_numpy(observed)[None]
    if noise["type"] == "gaussian":
        sigma = estimate_sigma(observed) if noise["sigma"] == "auto" else float(noise["sigma"])
        std, clipped = torch.tensor(sigma / 255), noise.get("clipped", True)
        facts: dict[str, float | str] = {"sigma": sigma, "sigma_source": "estimated"}
        if noise["sigma"] != "auto":
            facts["sigma_source"] = "given"
            if white := whiteness(observed, std):
                facts["whiteness"] = white
        operator: Operator = Clipping(std) if clipped else Identity()
        return Problem(operator, mean_square, y, y, ClippedGaussian(std, about_mean=clipped), facts=facts)
    if noise["type"] == "poisson":
        peak = torch.tensor(noise["peak"])
        deviance, variance = PoissonDeviance(0.1 / peak), PoissonVariance(peak)
        return Problem(Saturation(peak), deviance, y, y, variance, facts={"peak": noise["peak"]})
    return Problem(Identity(), mean_absolute, y, y)


def whiteness(observed: np.ndarray, std: Tensor) -> float:
    """What the finest details of ``observed`` [C, H, W] hold over what white noise of deviation ``std`` leaves there.

    1 where they hold nothing but noise; the picture's own come to it. Noise that neighbours share, or that is less
    than was said, leaves less: at a blur of 0.6 pixels half of it. 0: the picture is too small or too flat to tell.
    """
    y = torch.from_numpy(observed)[None]
    expected = ClippedGaussian(std).deviation(avg_pool2d(y, 5, 1, 2, count_include_pad=False)).median()
    return round(estimate_sigma(observed) / 255 / float(expected), 3)


def estimate_sigma(observed: np.ndarray) -> float:
    """Standard deviation of white noise in 8-bit units, from the wavelet details of ``observed`` [C, H, W].

    Median absolute deviation of the finest diagonal band, of db2 (Donoho and Johnstone 1994), and the mean of the
    channels'. A picture too small or too flat to tell has 0. Noise that was clipped to [0, 1] is underestimated in dark
    and light parts.
    """
    import pywt

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a picture smaller than the filter
        details = [pywt.dwtn(channel, "db2")["dd"] for channel in observed]
    medians = [np.median(np.abs(detail[detail != 0])) if detail.any() else 0.0 for detail in details]
    return round(255 * float(np.mean(medians)) / NORMAL_QUARTILE, 3)
