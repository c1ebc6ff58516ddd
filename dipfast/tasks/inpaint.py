"""Inpainting: the picture is known where a mask says so, and the generator fills in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.mask import colour_of
from dipfast.tasks.operators import Masking
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range

SMOOTHINGS = 4  # of each scale of a filled picture; more gain nothing (LOG.md)
WIDE = 0.05  # share of the unknown pixels with no known one beside them; where it is more, a filled picture misleads


def inpaint(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: np.ndarray,  # [1, H, W] bool
    range: Range,
) -> Problem:
    """The mean square runs over all pixels, unknown ones counting zero, as in the first paper's code.

    A latent of type `image` shows the picture filled where what is missing is scattered, and nothing where holes are
    wide: a network that is shown a wide hole filled copies the filling.
    """
    mask = torch.from_numpy(known)[None].float()
    y = range.to_unit(torch.from_numpy(observed)[None]) * mask
    scattered = is_scattered(mask > 0)
    facts: dict[str, float | str] = {
        "known": colour_of(task["known"]),
        "unknown_fraction": round(1 - float(mask.mean()), 6),
        "holes": "scattered" if scattered else "wide",
    }
    keep = mask if task["keep_known"] else None
    rough = filled(y, mask > 0) if scattered else torch.zeros_like(y)
    return Problem(Masking(mask), mean_square, y, y, rough=rough, keep=keep, range=range, facts=facts)


def is_scattered(known: Tensor) -> bool:  # [1, 1, H, W] bool
    """Whether nearly all pixels that are not known have one beside them that is."""
    alone = F.max_pool2d(known.float(), 3, 1, 1) == 0
    return float(alone.sum()) <= WIDE * float((~known).sum())


def filled(
    picture: Tensor,  # [1, C, H, W]
    known: Tensor,  # [1, 1, H, W] bool
) -> Tensor:  # [1, C, H, W]
    """``picture`` with what is not known made of what is near: of half its size, then of its neighbours' means."""
    if bool(known.all()) or max(picture.shape[2:]) == 1:
        return picture
    share = F.avg_pool2d(known.float(), 2, ceil_mode=True)
    small = F.avg_pool2d(picture * known, 2, ceil_mode=True) / share.clamp_min(0.25)
    rough = F.interpolate(filled(small, share > 0), picture.shape[2:], mode="bilinear")
    for _ in range(SMOOTHINGS):
        x = F.pad(torch.where(known, picture, rough), (1, 1, 1, 1), mode="replicate")
        rough = (x[..., 1:-1, 2:] + x[..., 1:-1, :-2] + x[..., 2:, 1:-1] + x[..., :-2, 1:-1]) / 4
    return torch.where(known, picture, rough)
