"""How far the members of a fit differ, and the deviation of their mean's error that this foretells."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

SHARED = 5.0  # LOG.md
NEIGHBOURHOOD = 7  # pixels a side that a variance is averaged over


class Spread:
    """The running average of each member's outputs, kept at the step of the picture that is returned."""

    def __init__(self, members: int, picture: Tensor) -> None:  # [1, C, H, W]
        self.averages = picture.new_zeros(members, *picture.shape[1:])
        self.kept = torch.zeros_like(self.averages)

    def update(
        self,
        outputs: Sequence[Tensor],  # [1, C, H, W] each
        weight: Tensor | float,  # of these outputs in the average
        chosen: Tensor,  # 0-D bool: whether this step's picture is the one to return so far
    ) -> None:
        """Take the step's ``outputs`` in."""
        for average, output in zip(self.averages, outputs, strict=True):
            average.lerp_(output[0], weight)
        torch.where(chosen, self.averages, self.kept, out=self.kept)

    def tensors(self) -> dict[str, Tensor]:
        """What a rollback must restore."""
        return {"averages": self.averages, "kept": self.kept}

    def reset(self) -> None:
        """Forget everything, in place."""
        for tensor in self.tensors().values():
            tensor.zero_()

    def deviation(self) -> Tensor:  # [1, C, H, W]
        """Of the mean picture's error. Members have part of their error in common, which their spread does not show.

        With v the variance between K members, averaged over a neighbourhood, for two or three values tell little, and
        the common part some `SHARED` times one member's own: sqrt(v (SHARED + 1 / K)).
        """
        variance = self.kept.var(0, keepdim=True)
        side = min(NEIGHBOURHOOD, *((side - 1) | 1 for side in variance.shape[2:]))
        smooth = F.avg_pool2d(variance, side, 1, side // 2, count_include_pad=False)
        return (smooth * (SHARED + 1 / len(self.kept))).sqrt()
