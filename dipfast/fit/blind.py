"""Blind spots: values hidden from the network, on which it is judged (Noise2Self, Batson and Royer, ICML 2019).

Where the noise of a value says nothing of its neighbours', a network that does not see the value cannot learn its
noise, only what lies beneath. The latent is then the noisy picture itself.

Gaussian noise of known deviation allows a judgement where the network does see, too: more of it, n, is drawn at each
step, the network is shown y + a n and held against y - n / a, whose noises are independent (Recorrupted-to-Recorrupted,
Pang et al., CVPR 2021).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.problem import DataTerm

SEEN_WEIGHT = 0.1  # of an error where the network sees, over that of one where it is blind (LOG.md)


@dataclass(frozen=True)
class Look:
    """What the network is shown in one step, and what it is judged on. All [1, C, H, W]."""

    latent: Tensor
    hidden: Tensor | None = None  # bool; None: it is judged on all
    aim: Tensor | None = None  # for the values that are seen; None: those are not judged

    def losses(self, fitted: Tensor, target: Tensor, data_term: DataTerm) -> tuple[Tensor, Tensor | None]:
        """The data term where the network was blind, and what the values that it saw add to it; 0-D each."""
        if self.hidden is None:
            return data_term(fitted, target), None
        blind = data_term(torch.where(self.hidden, fitted, target), target)
        if self.aim is None:
            return blind, None
        return blind, SEEN_WEIGHT * ((fitted - self.aim).square() * ~self.hidden).mean()

    def recorrupted(self, drawn: Tensor, strength: float) -> Look:
        """With ``drawn``, noise of the picture's own kind, added ``strength`` times to what is seen."""
        assert self.hidden is not None
        latent = torch.where(self.hidden, self.latent, self.latent + strength * drawn)
        return Look(latent, self.hidden, self.latent - drawn / strength)


def hide(
    picture: Tensor,  # [1, C, H, W]
    hidden: Tensor,  # [1, C, H, W] bool
) -> Tensor:  # [1, C, H, W]
    """``picture`` with the mean of the eight neighbours that are seen, in place of each value that is hidden.

    A value with no neighbour that is seen becomes 0.
    """
    seen = (~hidden).to(picture.dtype)
    around = [F.avg_pool2d(x, 3, 1, 1) for x in (picture * seen, seen)]  # over nine, zeros beyond the border
    return torch.where(hidden, around[0] / around[1].clamp_min(1 / 18), picture)
