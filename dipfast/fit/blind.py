"""Blind spots: values hidden from the network, on which it is judged (Noise2Self, Batson and Royer, ICML 2019).

Where the noise of a value says nothing of its neighbours', a network that does not see the value cannot learn its
noise, only what lies beneath. The latent is then the noisy picture itself. Where neighbours share their noise, they are
hidden with the value (Broaddus et al., ISBI 2020); where the channels of a pixel do, so are they.

Gaussian noise of known deviation allows a judgement where the network does see, too: more of it, n, is drawn at each
step, the network is shown y + a n and held against y - n / a, whose noises are independent (Recorrupted-to-Recorrupted,
Pang et al., CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.problem import DataTerm, NoiseCorrelation

JUDGED = 0.4  # over the pixels of a square, at most the share of the values that is judged in a step (LOG.md)
SEEN_WEIGHT = 0.1  # of an error where the network sees, over that of one where it is blind (LOG.md)


@dataclass(frozen=True)
class Spots:
    """Where a network is blind: at ``share`` of the values, on which it is judged, and ``reach`` pixels around them."""

    share: float
    reach: int
    together: bool  # the channels of a pixel

    def draw(self, uniform: Tensor) -> Tensor:  # [1, C, H, W] in [0, 1) -> the same, bool
        """The values that the network is judged on."""
        if self.together:
            uniform = uniform[:, :1].expand_as(uniform)
        return uniform < self.share

    def cover(self, judged: Tensor) -> Tensor:  # [1, C, H, W] bool, both
        """All that is hidden with the values that are ``judged``."""
        if not self.reach:
            return judged
        return F.max_pool2d(judged.float(), 2 * self.reach + 1, 1, self.reach) > 0


def spots_of(latent: Mapping[str, Any], correlation: NoiseCorrelation) -> Spots | None:
    """What the manifest's `generator.input` comes to for noise of ``correlation``; None for a network that sees all."""
    blind, reach = latent.get("blind"), latent.get("reach") or 0
    if blind is None:
        return None
    together = reach == "auto" and correlation.across_channels
    reach = correlation.radius if reach == "auto" else reach
    return Spots(min(blind, JUDGED / (2 * reach + 1) ** 2), reach, together)


@dataclass(frozen=True)
class Look:
    """What the network is shown in one step, and what it is judged on. All [1, C, H, W]."""

    latent: Tensor
    judged: Tensor | None = None  # bool, the values that it is judged on as blind; None: it is judged on all
    hidden: Tensor | None = None  # bool, those and what is hidden with them
    aim: Tensor | None = None  # for the values that are seen; None: those are not judged

    def losses(self, fitted: Tensor, target: Tensor, data_term: DataTerm) -> tuple[Tensor, Tensor | None]:
        """The data term where the network was blind, and what the values that it saw add to it; 0-D each."""
        if self.judged is None:
            return data_term(fitted, target), None
        blind = data_term(torch.where(self.judged, fitted, target), target)
        if self.aim is None or self.hidden is None:
            return blind, None
        return blind, SEEN_WEIGHT * ((fitted - self.aim).square() * ~self.hidden).mean()

    def recorrupted(self, drawn: Tensor, strength: float) -> Look:
        """With ``drawn``, noise of the picture's own kind, added ``strength`` times to what is seen."""
        assert self.hidden is not None
        latent = torch.where(self.hidden, self.latent, self.latent + strength * drawn)
        return replace(self, latent=latent, aim=self.latent - drawn / strength)


def hide(
    picture: Tensor,  # [1, C, H, W]
    hidden: Tensor,  # [1, C, H, W] bool
    reach: int = 0,
) -> Tensor:  # [1, C, H, W]
    """``picture`` with the mean of what is seen within ``reach`` + 1 pixels in place of each value that is hidden.

    A value with no neighbour that is seen becomes 0.
    """
    seen, side = (~hidden).to(picture.dtype), 2 * reach + 3
    around = [F.avg_pool2d(x, side, 1, reach + 1) for x in (picture * seen, seen)]  # zeros beyond the border
    return torch.where(hidden, around[0] / around[1].clamp_min(1 / (2 * side**2)), picture)
