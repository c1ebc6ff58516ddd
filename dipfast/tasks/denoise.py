"""Denoising: A is the identity, or the mean effect of clipping, and the data term follows from the kind of noise.

The kinds are Gaussian noise, photon (Poisson) noise, and salt and pepper.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from dipfast.settings.task import Denoise, GaussianNoise, PoissonNoise, SaltPepperNoise
from dipfast.tasks.jpeg import quantisation_of
from dipfast.tasks.noise import NoiseEstimate, estimate_noise
from dipfast.tasks.operators import Clipping, Identity, Operator, Saturation
from dipfast.tasks.problem import (
    ClippedGaussian,
    NoiseBound,
    PoissonDeviance,
    PoissonVariance,
    Problem,
    WeightedSquare,
    mean_absolute,
)
from dipfast.tasks.range import Range

LEAST_NOISE = 0.25  # least deviation that a channel is weighted by, over that of the noisiest channel
NO_NOISE = 0.7 / 255  # of the range that a picture fills: one whose noise is measured to be weaker is left as it is
COARSE_QUALITY = 75  # of a JPEG without noise, up to which it is told that task jpeg removes its blocks
LEAST_WHITE = 0.75  # least share of a given sigma at high frequencies for the noise to count as white


def denoise(
    task: Denoise,
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    range: Range,
    valid: np.ndarray | None = None,  # [1, H, W] bool
) -> Problem:
    """Return the denoising problem of ``task``.

    ``range`` is the range that the picture fills. The noise is estimated from the pixels where ``valid`` is true, from
    all of them where it is None. A sigma is in 8-bit units of the full range.
    """
    noise = task.noise
    y = range.to_unit(torch.from_numpy(observed)[None])
    if isinstance(noise, SaltPepperNoise):
        return Problem(Identity(), mean_absolute, y, y, range=range)
    estimate = estimate_noise(y[0].numpy(), valid, (range.lower, range.upper))
    if isinstance(noise, PoissonNoise):
        return _poisson(noise, y, range, estimate)
    return _gaussian(noise, y, range, valid, estimate)


def _poisson(noise: PoissonNoise, y: Tensor, range: Range, estimate: NoiseEstimate) -> Problem:
    """Return the problem of photon noise with a known number of photons at white."""
    peak = torch.tensor(noise.peak)
    deviance, variance = PoissonDeviance(0.1 / peak, range), PoissonVariance(peak, range)  # a tenth of a photon
    facts = {"peak": noise.peak} | estimate.facts
    operator, correlation = Saturation(peak, range), estimate.correlation
    return Problem(operator, deviance, y, y, variance, noise_correlation=correlation, range=range, facts=facts)


def _gaussian(
    noise: GaussianNoise, y: Tensor, range: Range, valid: np.ndarray | None, estimate: NoiseEstimate
) -> Problem:
    """Return the problem of Gaussian noise of a given or an estimated deviation."""
    to_sigma = [255 * width for width in range.width.flatten().tolist()]
    each = _by_channel(y, range, valid) if range.apart else [estimate] * len(to_sigma)
    if noise.sigma == "auto":
        levels = [one.level for one in each]
        sigmas = [factor * level for factor, level in zip(to_sigma, levels, strict=True)]
        sigma = math.hypot(*sigmas) / math.sqrt(len(sigmas))
        facts: dict[str, float | str] = {"sigma": _rounded(sigma), "sigma_source": "estimated"}
        if range.apart:
            facts["sigma_by_channel"] = ", ".join(str(_rounded(one)) for one in sigmas)
    else:
        sigmas = [noise.sigma] * len(to_sigma)
        facts = {"sigma": sigmas[0], "sigma_source": "given"}
        whites = [factor * one.high / sigmas[0] for factor, one in zip(to_sigma, each, strict=True)]
        white = round(sum(whites) / len(whites), 3)
        if white:
            facts["whiteness"] = white
        if white >= LEAST_WHITE:  # what the middle frequencies hold beyond that is detail of the picture
            estimate = estimate.with_radius(0)
    std = torch.tensor([sigma / factor for sigma, factor in zip(sigmas, to_sigma, strict=True)]).view(1, -1, 1, 1)
    clipped, bounds = noise.clipped, (range.lower, range.upper)
    operator: Operator = Clipping(std, *bounds) if clipped else Identity()
    residual = ClippedGaussian(std, clipped, 1, *bounds)
    term, correlation = WeightedSquare(_weights(std) if range.apart else torch.ones_like(std)), estimate.correlation
    facts |= estimate.facts
    bound = NoiseBound(estimate.bound, not correlation.radius) if noise.sigma == "auto" else None
    if bound is not None and noise.force:
        bound = replace(bound, std=None)
    elif bound is not None and estimate.bound < NO_NOISE:
        coded = quantisation_of(range.to_full(y))
        facts |= {} if coded is None or coded.quality > COARSE_QUALITY else {"jpeg_quality": coded.quality}
        bound = replace(bound, std=0.0)
    return Problem(operator, term, y, y, residual, noise_correlation=correlation, range=range, bound=bound, facts=facts)


def _by_channel(y: Tensor, range: Range, valid: np.ndarray | None) -> list[NoiseEstimate]:
    """Estimate the noise of each channel, which has a range of its own."""
    parts = map(range.channel, torch.arange(y.shape[1]).tolist())
    planes = zip(y[0].numpy()[:, None], parts, strict=True)
    return [estimate_noise(plane, valid, (part.lower, part.upper)) for plane, part in planes]


def _weights(std: Tensor) -> Tensor:  # [1, C, 1, 1], both
    """Return weights of the channels' squared errors: inverse variances, limited by `LEAST_NOISE`, with a mean of 1."""
    least = LEAST_NOISE * float(std.max()) or 1.0
    weights = 1 / std.clamp_min(least).square()
    return weights / weights.mean()


def _rounded(sigma: float) -> float:
    """Round ``sigma`` to three decimals, or to four digits where it is small."""
    return round(sigma, 3) if sigma >= 0.1 else float(f"{sigma:.4g}")
