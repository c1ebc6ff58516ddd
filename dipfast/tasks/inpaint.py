"""Inpainting: the picture is known where a mask says so, and the generator fills in the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from dipfast.errors import ItemError
from dipfast.tasks.operators import Masking
from dipfast.tasks.problem import Problem, mean_square


def inpaint(
    task: Mapping[str, Any],
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: np.ndarray,  # [1, H, W] bool
) -> Problem:
    """The mean square runs over all pixels, unknown ones counting zero, as in the first paper's code."""
    mask = torch.from_numpy(known)[None].float()
    y = torch.from_numpy(observed)[None] * mask
    facts: dict[str, float | str] = {
        "known": _colour_of(task["known"]),
        "unknown_fraction": round(1 - float(mask.mean()), 6),
    }
    return Problem(Masking(mask), mean_square, y, y, keep=mask if task["keep_known"] else None, facts=facts)


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
    if mask.shape[1:] != observed.shape[1:]:
        sizes = "×".join(map(str, mask.shape[:0:-1])), "×".join(map(str, observed.shape[:0:-1]))
        raise ItemError("mask", f"task.mask should have the image's size {sizes[1]}, has {sizes[0]}")
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
