"""Flecks: places where a fit differs from the noisy picture by more than the noise explains, and how they are mended.

One seed of several may go to black over a few pixels, and then the mean of all is too dark there. The local mean of the
residual, y - A x over a Gaussian window, is then many times what white noise leaves of it. So a seed is left out of the
mean where it is off, and where all seeds are off, the local mean of the residual is added: the answer then has the
local mean of what was observed. If more than `MOST` of the values are off, the noise is not what it was said to be, and
nothing is changed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks import Problem
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance

WINDOW = 2  # pixels each way
OFF = 6.0  # deviations of the local mean; in a picture of 12 megapixels none is off by chance
MOST = 0.02  # of the values
ROUNDS = 3  # in which what is missing is added; each leaves less


def mended(
    picture: Tensor,  # [1, C, H, W], the answer
    members: Tensor | None,  # [K, C, H, W], whose mean it is
    problem: Problem,
) -> tuple[Tensor, int]:
    """Return the answer without flecks, and how many values were mended: none unless noise is white and known."""
    noise = problem.expected_residual
    if (
        not isinstance(noise, ClippedGaussian | PoissonVariance)
        or problem.noise_correlation.radius
        or problem.block is not None
    ):
        return picture, 0
    if members is not None:
        off = torch.cat([_off(member[None], problem, noise)[1] for member in members])  # [K, C, H, W]
        counts = ~F.max_pool2d(off.float(), 2 * WINDOW + 1, 1, WINDOW).bool()
        some = counts.any(0, keepdim=True) & off.any(0, keepdim=True).any()
        robust = (members * counts).sum(0, keepdim=True) / counts.sum(0, keepdim=True).clamp_min(1)
        picture = torch.where(some & ~counts.all(0, keepdim=True), robust, picture)
    changed = torch.zeros_like(picture, dtype=torch.bool)
    for _ in range(ROUNDS):
        missing, off = _off(picture, problem, noise)
        picture = torch.where(off, picture + missing, picture)
        changed |= off
    return picture, int(changed.sum())


def _off(picture: Tensor, problem: Problem, noise: ClippedGaussian | PoissonVariance) -> tuple[Tensor, Tensor]:
    """Return the local mean of the residual, and where it is more than noise explains: [1, C, H, W] each."""
    missing, power = _local_mean(problem.target - problem.operator(picture))
    off = missing.abs() > OFF * power * noise.deviation(picture)
    return missing, off & (off.float().mean() <= MOST)


def _local_mean(residual: Tensor) -> tuple[Tensor, float]:
    """Return ``residual`` under a Gaussian window of deviation 1, and what that leaves of white noise's deviation.

    Values beyond the border count as 0, so that less is left there.
    """
    at = torch.arange(-WINDOW, WINDOW + 1, device=residual.device, dtype=residual.dtype)
    taps = torch.exp(-at.square() / 2)
    taps = taps / taps.sum()
    x = F.conv2d(residual.transpose(0, 1), taps.view(1, 1, 1, -1), padding=(0, WINDOW))
    x = F.conv2d(x, taps.view(1, 1, -1, 1), padding=(WINDOW, 0))
    return x.transpose(0, 1), float(taps.square().sum())
