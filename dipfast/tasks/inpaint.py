"""Inpainting: the picture is known where a mask says so, and the generator fills in the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.errors import ItemError
from dipfast.tasks.operators import Masking
from dipfast.tasks.problem import Problem, mean_square

SMOOTHINGS = 4  # of each scale of a filled picture; more gain nothing (LOG.md)
WIDE = 0.05  # share of the unknown pixels with no known one beside them; where it is more, a filled picture misleads


def inpaint(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: np.ndarray,  # [1, H, W] bool
) -> Problem:
    """The mean square runs over all pixels, unknown ones counting zero, as in the first paper's code.

    A latent of type `image` shows the picture filled where what is missing is scattered, and nothing where holes are
    wide: a network that is shown a wide hole filled copies the filling.
    """
    mask = torch.from_numpy(known)[None].float()
    y = torch.from_numpy(observed)[None] * mask
    scattered = is_scattered(mask > 0)
    facts: dict[str, float | str] = {
        "known": _colour_of(task["known"]),
        "unknown_fraction": round(1 - float(mask.mean()), 6),
        "holes": "scattered" if scattered else "wide",
    }
    keep = mask if task["keep_known"] else None
    rough = filled(y, mask > 0) if scattered else torch.zeros_like(y)
    return Problem(Masking(mask), mean_square, y, y, rough=rough, keep=keep, facts=facts)


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


def _colour_of(known: str) -> str:
    """The colour that marks known pixels. ``known``: white, black, or auto for white."""
    return "white" if known == "auto" else known


def known_pixels(
    mask: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: str,
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
) -> np.ndarray:  # [1, H, W] bool
    """True where the picture is known. ``known`` is the manifest's: white, black or auto.

    Raises ItemError where the mask has another size, is not black and white, or knows nothing or everything; and for
    `auto` where it seems to be upside down: all that it calls known is of one colour while the rest is a picture.
    """
    check_mask_size(mask.shape, observed.shape)
    gray = mask.mean(axis=0, keepdims=True)
    middling = float(((gray > 0.25) & (gray < 0.75)).mean())
    if middling > 0.05:
        raise ItemError("mask", f"task.mask should be black and white; {middling:.0%} of its pixels are gray")
    colour = _colour_of(known)
    pixels = gray > 0.5 if colour == "white" else gray <= 0.5
    _check_coverage(pixels, colour)
    if known == "auto":
        _check_polarity(pixels, observed)
    return pixels


def check_mask_size(mask: Sequence[int], image: Sequence[int]) -> None:
    """Raises ItemError where the shapes [C, H, W] of a mask and its image are not of one height and width."""
    if tuple(mask[1:]) != tuple(image[1:]):
        sizes = "×".join(map(str, mask[:0:-1])), "×".join(map(str, image[:0:-1]))
        raise ItemError("mask", f"task.mask should have the image's size {sizes[1]}, has {sizes[0]}")


def _check_coverage(known: np.ndarray, colour: str) -> None:
    if not known.any():
        raise ItemError("mask", f"task.known is {colour}, but the mask has no {colour} pixel: nothing is known")
    if known.all():
        raise ItemError("mask", f"task.known is {colour}, and all of the mask is {colour}: nothing is to be filled in")


def _check_polarity(known: np.ndarray, observed: np.ndarray) -> None:
    """A hole is usually painted over with one colour; a picture never has only one."""
    spread = [float(observed[:, region].std(axis=1).max()) for region in (known[0], ~known[0])]
    if spread[0] < 1 / 255 and spread[1] > 5 / 255:
        raise ItemError(
            "mask",
            "task.mask seems to be upside down: all pixels that it marks white, as known, are of one colour, and the "
            "others are not; set task.known to black, or to white if it is right",
        )
