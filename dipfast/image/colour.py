"""CMYK to RGB, and gray to RGB for a format that has no gray."""

from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dipfast.errors import ItemError

_SPACES = {"gray": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}


def fits(icc: bytes | None, space: str) -> bool:
    """Whether the profile describes gray, rgb or cmyk, by its header."""
    return icc is not None and len(icc) > 128 and icc[16:20] == _SPACES[space]


def to_rgb(samples: NDArray[Any], space: str, icc: bytes | None) -> NDArray[Any]:
    """[H, W, 1 | 4] uint8 or uint16, gray or cmyk -> [H, W, 3] sRGB of the same dtype.

    Through the profile where there is one for that space; without one, gray is repeated and CMYK is mixed as
    (1 - ink) (1 - key). Raises ItemError (unsupported) for a profile that cannot be used: guessed colours
    would be wrong without a word.
    """
    if fits(icc, space):
        return _through(samples, space, icc or b"")
    if space == "gray":
        return np.repeat(samples, 3, axis=2)
    full = int(np.iinfo(samples.dtype).max)
    light = full - samples.astype(np.uint32)
    mixed = (light[..., :3] * light[..., 3:] + full // 2) // full  # 65535² fits in 32 bits
    return mixed.astype(samples.dtype)


def _through(samples: NDArray[Any], space: str, icc: bytes) -> NDArray[Any]:
    samples = np.ascontiguousarray(samples[..., 0] if space == "gray" else samples)
    srgb = imagecodecs.cms_profile("srgb")
    try:
        return np.asarray(imagecodecs.cms_transform(samples, icc, srgb, colorspace=space, outcolorspace="rgb"))
    except RuntimeError as error:
        raise ItemError("unsupported", f"the {space} ICC profile cannot be used: {error}") from error
