"""Blind spots: values hidden from the network, on which it is judged (Noise2Self, Batson and Royer, ICML 2019).

Where the noise of a value does not depend on that of its neighbours, a network that does not see the value cannot
learn its noise, only the scene below it. The latent is then the noisy picture itself. If neighbouring pixels share
noise, they are hidden together with the value (Broaddus et al., ISBI 2020), and so are channels that share it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.settings.generator import ImageInput, Latent
from dipfast.tasks.problem import NoiseCorrelation

JUDGED = 0.4  # most of the values judged in a step, over the pixels of a hidden square (LOG.md, 2026-11-28)


@dataclass(frozen=True)
class BlindMask:
    """Which values are hidden: a random ``share`` on which the network is judged, and ``radius`` pixels around each."""

    share: float
    radius: int
    whole_pixels: bool  # whether all channels of a pixel are hidden together

    def draw(self, uniform: Tensor) -> Tensor:  # [1, C, H, W] in [0, 1) -> [1, C, H, W] bool
        """Return the values that the network is judged on, from random numbers."""
        if self.whole_pixels:
            uniform = uniform[:, :1].expand_as(uniform)
        return uniform < self.share

    def cover(self, judged: Tensor) -> Tensor:  # [1, C, H, W] bool -> [1, C, H, W] bool
        """Return all values that are hidden where those ``judged`` are."""
        if not self.radius:
            return judged
        return F.max_pool2d(judged.float(), 2 * self.radius + 1, 1, self.radius) > 0


def blind_mask(latent: Latent, correlation: NoiseCorrelation) -> BlindMask | None:
    """Return the mask that ``latent`` asks for; None for a network that sees all.

    Its radius `auto` is that of the noise's ``correlation``.
    """
    if not isinstance(latent, ImageInput) or latent.blind is None:
        return None
    whole_pixels = latent.reach == "auto" and correlation.across_channels
    radius = correlation.radius if latent.reach == "auto" else latent.reach or 0
    return BlindMask(min(latent.blind, JUDGED / (2 * radius + 1) ** 2), radius, whole_pixels)


def hide(
    picture: Tensor,  # [1, C, H, W]
    hidden: Tensor,  # [1, C, H, W] bool
    radius: int = 0,
) -> Tensor:  # [1, C, H, W]
    """Replace each ``hidden`` value of ``picture`` by the mean of the visible values within ``radius`` + 1 pixels.

    A value without a visible neighbour becomes 0.
    """
    seen, side = (~hidden).to(picture.dtype), 2 * radius + 3
    around = [F.avg_pool2d(x, side, 1, radius + 1) for x in (picture * seen, seen)]  # zeros beyond the border
    return torch.where(hidden, around[0] / around[1].clamp_min(1 / (2 * side**2)), picture)
