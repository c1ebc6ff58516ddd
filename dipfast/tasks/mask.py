"""Inpainting masks: from a picture that a person or a program made to the known pixels.

Accepted are black and white of any depth; 0 and 1, or two other values; marks of one colour on black or white; and
paint on a transparent layer, whose marks are in its alpha. Anything else is refused with a message that says what was
found, because a fit to the wrong pixels takes as long as one to the right ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from dipfast.errors import ItemError

DARK, BRIGHT = 0.25, 0.75  # values below and above count as black and white, those between as gray
ONE_COLOUR = 0.125  # largest difference within a channel of paint that counts as one colour
GRAY = 0.05  # largest share of gray pixels in a mask, not counting soft edges
SOFT = 0.25  # largest share of gray pixels in a mask, counting soft edges
EDGE = 5  # side in pixels of the window that holds both black and white at a soft edge


def colour_of(known: str) -> str:
    """Return the colour that marks known pixels: ``known`` itself, white or black, or white for auto."""
    return "white" if known == "auto" else known


def known_pixels(
    mask: np.ndarray,  # [C, H, W] float32 in [0, 1]
    known: str,
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    opacity: np.ndarray | None = None,  # [H, W] float32 in [0, 1]
) -> np.ndarray:  # [1, H, W] bool
    """Return which pixels of ``observed`` are known by ``mask``, True where they are.

    ``known`` is white, black or auto, the colour that marks known pixels; ``opacity`` is the mask's alpha. Raises
    ItemError for a mask of another size than the picture, one that is not black and white, and one that marks no or all
    pixels as known. For auto it also raises where the mask seems inverted: all known pixels have one colour and the
    others do not, or the mask is a little white paint on a transparent layer, which may mean either.
    """
    check_mask_size(mask.shape, observed.shape)
    layer = None if opacity is None else _painted(mask, opacity, known)
    plane = _stretched(_brightness(mask) if layer is None else layer)
    gray = _gray_share(plane)
    if gray > 0:
        also = "" if opacity is None or opacity.min() > DARK else "; its alpha is no mask, for its colours are not one"
        found = f"{gray:.0%} of its pixels are gray, {_values(mask)}{also}"
        raise ItemError("mask", f"task.mask should be black and white; {found}")
    colour = colour_of(known)
    pixels: np.ndarray = (plane > 0.5 if colour == "white" else plane <= 0.5)[None]
    _check_coverage(pixels, colour, mask)
    if known == "auto":
        _check_polarity(pixels, observed)
    return pixels


def check_mask_size(mask: Sequence[int], image: Sequence[int]) -> None:
    """Raise ItemError where the shapes [C, H, W] of a mask and its image differ in height or width."""
    if tuple(mask[1:]) != tuple(image[1:]):
        sizes = "×".join(map(str, mask[:0:-1])), "×".join(map(str, image[:0:-1]))
        raise ItemError("mask", f"task.mask should have the image's size {sizes[1]}, has {sizes[0]}")


def _painted(mask: np.ndarray, opacity: np.ndarray, known: str) -> np.ndarray | None:
    """Return paint of one colour on a transparent layer as a mask [H, W]; None for another kind of mask.

    White paint becomes white on black, and paint of any other colour black on white. Raises ItemError for a layer
    without paint, and for auto where white paint covers less than half of it.
    """
    if opacity.max() == 0:
        raise ItemError("mask", "task.mask is wholly transparent: nothing is marked in it")
    visible = opacity > opacity.max() / 2
    if visible.all():
        return None
    paint = mask[:, visible]
    if np.ptp(paint, axis=1).max() > ONE_COLOUR:
        return None
    if paint.mean(axis=1).min() <= BRIGHT:
        return 1 - opacity
    if known == "auto" and visible.mean() < 0.5:
        raise ItemError(
            "mask",
            f"task.mask is white paint on {1 - visible.mean():.0%} of transparency: set task.known to white if the "
            "paint marks what is known, to black if it marks what is to be filled in",
        )
    return opacity


def _brightness(mask: np.ndarray) -> np.ndarray:
    """Return the mask in gray [H, W]: marks of any colour are bright on black, and dark on white."""
    low, high = mask.min(axis=0), mask.max(axis=0)
    has_black, has_white = bool((high < DARK).any()), bool((low > BRIGHT).any())
    return mask.mean(axis=0) if has_black == has_white else high if has_black else low


def _stretched(plane: np.ndarray) -> np.ndarray:
    """Stretch a mask [H, W] to black and white if it has two values, or if all of it is dark."""
    least, most = plane.min(), plane.max()
    two = bool(((plane == least) | (plane == most)).all())
    if least < most and (two or (least == 0 and most < DARK)):
        plane = (plane - least) / (most - least)
    return np.ascontiguousarray(plane, dtype=np.float32)


def _gray_share(plane: np.ndarray) -> float:
    """Return the share of gray pixels; 0 where they are few, or lie on soft edges between black and white."""
    middling = (plane > DARK) & (plane < BRIGHT)
    share = float(middling.mean())
    if share <= GRAY:
        return 0.0
    levels = torch.from_numpy(np.stack([plane, 1 - plane]).astype(np.float32))[None]
    brightest, darkest = F.max_pool2d(levels, EDGE, 1, EDGE // 2)[0].numpy()
    elsewhere = float((middling & ~((brightest > BRIGHT) & (darkest > BRIGHT))).mean())
    return share if elsewhere > GRAY or share > SOFT else 0.0


def _values(mask: np.ndarray) -> str:
    """Return in words which values the mask has, in 8-bit units."""
    found = [f"{value * 255:.3g}" for value in np.unique(mask)]
    if len(found) == 1:
        return f"which is {found[0]} of 255 everywhere"
    return f"with values {f'from {found[0]} to {found[-1]}' if len(found) > 4 else ', '.join(found)} of 255"


def _check_coverage(known: np.ndarray, colour: str, mask: np.ndarray) -> None:
    """Raise ItemError where no pixel or every pixel is known."""
    if not known.any():
        found = f"the mask, {_values(mask)}, has no {colour} pixel: nothing is known"
        raise ItemError("mask", f"task.known is {colour}, but {found}")
    if known.all():
        found = f"all of the mask, {_values(mask)}, is {colour}: nothing is to be filled in"
        raise ItemError("mask", f"task.known is {colour}, and {found}")


def _check_polarity(known: np.ndarray, observed: np.ndarray) -> None:
    """Raise ItemError where the known pixels have one colour and the unknown ones do not.

    People paint over a hole in one colour, and no picture has only one.
    """
    spread = [float(observed[:, region].std(axis=1).max()) for region in (known[0], ~known[0])]
    if spread[0] < 1 / 255 and spread[1] > 5 / 255:
        raise ItemError(
            "mask",
            "task.mask seems to be upside down: all pixels that it marks white, as known, are of one colour, and the "
            "others are not; set task.known to black, or to white if it is right",
        )
