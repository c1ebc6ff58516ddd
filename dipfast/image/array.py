"""NumPy arrays of Python's callers as images, and the padding of pixels to the sides that a generator needs."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import UsageError
from dipfast.image import samples
from dipfast.image.source import Image, Source, bit_depth_of


def from_array(array: NDArray[Any]) -> Image:
    """Return an array [H, W] or [H, W, 1 to 4] of uint8, uint16 or floats in [0, 1] as an image.

    The last of 2 or 4 channels is alpha. Raises UsageError for another dtype or shape, an empty array, and floats
    outside [0, 1] or NaN.
    """
    if not isinstance(array, np.ndarray):
        raise UsageError(f"an image must be a numpy array, not {type(array).__name__}")
    if array.dtype.kind not in "uf" or (array.dtype.kind == "u" and array.dtype.itemsize > 2):
        raise UsageError(f"an image array must be uint8, uint16 or float, not {array.dtype}")
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] > 4):
        raise UsageError(f"an image array must be [H, W] or [H, W, 1 to 4], not {list(array.shape)}")
    low, high = array.min(), array.max()
    if array.dtype.kind == "f" and not (low >= 0 and high <= 1):
        raise UsageError(f"a float image array must lie in [0, 1], not in [{low:g}, {high:g}]")
    planes = array[..., None] if array.ndim == 2 else array
    colours = 1 if planes.shape[2] < 3 else 3
    source = Source(
        format="array",
        mode="gray" if colours == 1 else "rgb",
        bit_depth=bit_depth_of(array.dtype),
        alpha=planes[..., -1].copy() if planes.shape[2] > colours else None,
    )
    return Image(samples.to_unit(planes[..., :colours]), source)


def to_array(pixels: NDArray[Any], like: NDArray[Any] | Source) -> NDArray[Any]:
    """Return pixels [C, H, W] in [0, 1] as an array [H, W] or [H, W, C] in the form of ``like``.

    ``like`` is an array that went into `from_array`, which gives the dtype, the number of axes and alpha; or the source
    of a file, which gives uint8, uint16 or float32 in its own range, and alpha as the last channel. Raises UsageError
    where the numbers of colour channels differ, and ItemError of kind non-finite for NaN or infinity.
    """
    source = like if isinstance(like, Source) else from_array(like).source
    colours = 1 if source.mode in ("gray", "bilevel") else 3
    if pixels.ndim != 3 or pixels.shape[0] != colours:
        raise UsageError(f"pixels must be [{colours}, H, W], not {list(pixels.shape)}")
    stored = samples.to_stored(pixels, source, source.bit_depth)
    if not isinstance(like, Source):
        stored = stored.astype(like.dtype)
        if source.alpha is not None and stored.shape[:2] == like.shape[:2]:
            stored[..., -1] = like[..., -1]
    flat = stored.shape[2] == 1 if isinstance(like, Source) else like.ndim == 2
    return stored[..., 0] if flat else stored


def pad(pixels: NDArray[Any], multiple: int | tuple[int, int], minimum: int = 1) -> NDArray[Any]:
    """Pad [..., H, W] at the bottom and right, each side to the least multiple that is at least ``minimum`` pixels.

    ``multiple`` is that of both sides, or of (height, width). The padding is a reflection without the edge, repeated
    where the image is smaller than the padding; a side of 1 is repeated. Raises UsageError for an empty image, and for
    a multiple or minimum below 1.
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
    """Return the top left [..., height, width] of pixels, which undoes `pad`; raise UsageError if that is smaller."""
    if not (0 < height <= pixels.shape[-2] and 0 < width <= pixels.shape[-1]):
        raise UsageError(f"height and width must lie in {list(pixels.shape[-2:])}, not {height} and {width}")
    return pixels[..., :height, :width]
