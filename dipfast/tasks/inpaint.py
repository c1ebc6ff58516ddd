"""Inpainting: the picture is known at the pixels that a mask marks, and the generator fills in the others."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.settings.task import Inpaint
from dipfast.tasks.mask import colour_of
from dipfast.tasks.operators import Masking
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range

SMOOTHINGS = 4  # smoothing passes at each scale of `filled`
WIDE = 0.05  # largest share of unknown pixels without a known neighbour in scattered holes (LOG.md, 2026-11-28)


def inpaint(
    task: Inpaint,
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: np.ndarray,  # [1, H, W] bool
    range: Range,
) -> Problem:
    """Return the inpainting problem of ``task``.

    The mean square is taken over all pixels, with an error of 0 at unknown ones, as in the code of Ulyanov et al.
    (2018). A latent of type `image` shows the roughly filled picture where the holes are scattered, and nothing where
    they are wide, because a network that is shown the rough filling of a wide hole copies it.
    """
    mask = torch.from_numpy(known)[None].float()
    y = range.to_unit(torch.from_numpy(observed)[None]) * mask
    scattered = is_scattered(mask > 0)
    facts: dict[str, float | str] = {
        "known": colour_of(task.known),
        "unknown_fraction": round(1 - float(mask.mean()), 6),
        "holes": "scattered" if scattered else "wide",
    }
    keep = mask if task.keep_known else None
    rough = filled(y, mask > 0) if scattered else torch.zeros_like(y)
    return Problem(Masking(mask), mean_square, y, y, rough=rough, keep=keep, range=range, facts=facts)


def is_scattered(known: Tensor) -> bool:  # [1, 1, H, W] bool
    """Return whether nearly all unknown pixels have a known neighbour."""
    alone = F.max_pool2d(known.float(), 3, 1, 1) == 0
    return float(alone.sum()) <= WIDE * float((~known).sum())


def filled(
    picture: Tensor,  # [1, C, H, W]
    known: Tensor,  # [1, 1, H, W] bool
) -> Tensor:  # [1, C, H, W]
    """Return ``picture`` with its unknown pixels filled from known ones nearby.

    The picture is filled at half the size first, by recursion, then enlarged, and its unknown pixels are replaced
    `SMOOTHINGS` times by the mean of their four neighbours: a multigrid approximation of harmonic inpainting.
    """
    if bool(known.all()) or max(picture.shape[2:]) == 1:
        return picture
    share = F.avg_pool2d(known.float(), 2, ceil_mode=True)
    small = F.avg_pool2d(picture * known, 2, ceil_mode=True) / share.clamp_min(0.25)
    rough = F.interpolate(filled(small, share > 0), picture.shape[2:], mode="bilinear")
    for _ in range(SMOOTHINGS):
        x = F.pad(torch.where(known, picture, rough), (1, 1, 1, 1), mode="replicate")
        rough = (x[..., 1:-1, 2:] + x[..., 1:-1, :-2] + x[..., 2:, 1:-1] + x[..., :-2, 1:-1]) / 4
    return torch.where(known, picture, rough)
