"""Any size to what a generator needs, and back: reflected at the bottom and right, then cut. No cropping."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import UsageError


def pad(pixels: NDArray[Any], multiple: int | tuple[int, int], minimum: int = 1) -> NDArray[Any]:
    """[..., H, W] -> [..., H', W']: each side the least multiple that holds it, and is at least `minimum`.

    multiple: of both sides, or of (height, width). The added rows and columns are the image reflected without
    its edge, again and again where it is smaller than what is missing; a side of 1 is repeated. Raises
    UsageError for an empty image, or a multiple or minimum below 1.
    """
    multiples = multiple if isinstance(multiple, tuple) else (multiple, multiple)
    if min(*multiples, minimum) < 1:
        raise UsageError(f"multiple and minimum must be at least 1, not {multiple} and {minimum}")
    if pixels.ndim < 2 or 0 in pixels.shape:
        raise UsageError(f"pixels must be [..., H, W] and not empty, not {list(pixels.shape)}")
    sides = zip(pixels.shape[-2:], multiples, strict=True)
    missing = [-(-max(side, minimum) // step) * step - side for side, step in sides]
    if not any(missing):
        return pixels
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + [(0, n) for n in missing], mode="reflect")


def cut(pixels: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """[..., H', W'] -> its top left [..., height, width]: undoes `pad`. Raises UsageError if smaller."""
    if not (0 < height <= pixels.shape[-2] and 0 < width <= pixels.shape[-1]):
        raise UsageError(f"height and width must lie in {list(pixels.shape[-2:])}, not {height} and {width}")
    return pixels[..., :height, :width]
