"""Samples of a file to [0, 1] and back, exactly: v -> v / full -> v for every 8 and 16 bit value."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from dipfast.errors import ItemError, UsageError
from dipfast.image.source import Image, Source, bit_depth_of

_FULL = {8: 255, 16: 65535}
_DTYPES: dict[int, np.dtype[Any]] = {8: np.dtype("u1"), 16: np.dtype("u2"), 32: np.dtype("f4")}


def to_unit(samples: NDArray[Any], low: float = 0.0, high: float = 1.0) -> NDArray[np.float32]:
    """[H, W, C] -> [C, H, W] float32 in [0, 1]; floats by low and high, integers by their dtype's range."""
    planes = np.moveaxis(samples, 2, 0)
    if samples.dtype.kind == "f":
        if (low, high) != (0.0, 1.0):
            planes = (planes.astype(np.float64) - low) / (high - low)
        return np.ascontiguousarray(planes, dtype=np.float32)
    return np.ascontiguousarray(planes, dtype=np.float32) / np.float32(_FULL[bit_depth_of(samples.dtype)])


def spread(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Integers of 1 to 16 bits over the whole range of 8 or 16, whichever holds them, to nearest."""
    return stretched(samples, (1 << bits) - 1, 8 if bits <= 8 else 16)


def stretched(samples: NDArray[Any], most: int, depth: int) -> NDArray[Any]:
    """Integers of 0 to ``most`` over the whole range of 8 or 16 bits, to nearest."""
    full = _FULL[depth]
    if most == full:
        return samples.astype(_DTYPES[depth], copy=False)
    return ((samples.astype(np.uint32) * full + most // 2) // most).astype(_DTYPES[depth])


def float_range(samples: NDArray[Any]) -> tuple[float, float]:
    """What 0 and 1 stand for: themselves if all lies between, else numbers that all lies between.

    The lower one is 0, or the least value where that is negative, and they are a power of two apart: floats that are
    not negative come back to the bit. Raises ItemError (non-finite).
    """
    least, most = float(samples.min()), float(samples.max())
    if not np.isfinite([least, most]).all():
        raise ItemError("non-finite", "it holds NaN or infinite values")
    if least >= 0 and most <= 1:
        return 0.0, 1.0
    low = min(0.0, least)
    fraction, exponent = math.frexp((most - low) or 1.0)
    return low, low + math.ldexp(1.0, exponent - (fraction == 0.5))


def in_range_of(image: Image, like: Source) -> NDArray[np.float32]:
    """The pixels of ``image`` as they are in a float picture with the range of ``like``; integers are as they are."""
    own = image.source
    if (own.bit_depth, like.bit_depth) != (32, 32) or (own.low, own.high) == (like.low, like.high):
        return image.pixels
    values = own.low + image.pixels.astype(np.float64) * (own.high - own.low)
    return ((values - like.low) / (like.high - like.low)).astype(np.float32)


def to_stored(pixels: NDArray[Any], source: Source, depth: int, *, alpha: bool = True) -> NDArray[Any]:
    """[C, H, W] in [0, 1] -> [H, W, C or C + 1] uint8, uint16 or float32, the source's alpha last.

    Values outside [0, 1] are clipped, integers rounded to nearest. Raises UsageError for a wrong shape,
    ItemError (non-finite) for NaN or infinity: a black image must not pass for a result.
    """
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape or pixels.dtype.kind != "f":
        raise UsageError(f"pixels must be float [1 | 3, H, W], not {pixels.dtype} {list(pixels.shape)}")
    if not np.isfinite(pixels).all():
        raise ItemError("non-finite", "the restored pixels hold NaN or infinite values")
    colour = np.clip(np.moveaxis(pixels, 0, 2), 0, 1)
    if depth == 32:
        if (source.low, source.high) != (0.0, 1.0):
            colour = source.low + colour.astype(np.float64) * (source.high - source.low)
    else:
        colour = np.rint(colour.astype(np.float32) * _FULL[depth])
    colour = colour.astype(_DTYPES[depth])
    if source.alpha is None or not alpha:
        return np.ascontiguousarray(colour)
    plane = alpha_plane(source.alpha, depth, colour.shape[0], colour.shape[1])
    return np.ascontiguousarray(np.concatenate([colour, plane[..., None]], axis=2))


def opacity(image: Image) -> NDArray[np.float32] | None:
    """[H, W] float32 in [0, 1], of an image as it is displayed; None where it has no alpha."""
    return None if image.source.alpha is None else alpha_plane(image.source.alpha, 32, *image.pixels.shape[1:])


def alpha_plane(alpha: NDArray[Any], depth: int, height: int, width: int) -> NDArray[Any]:
    """[H, W] alpha in a depth (8, 16, or 32 for float in [0, 1]) and size; untouched where both are its own.

    Another size, as super-resolution has it, is interpolated linearly.
    """
    dtype = _DTYPES[depth]
    if alpha.shape != (height, width):
        plane = PillowImage.fromarray(alpha.astype(np.float32))
        resized = np.asarray(plane.resize((width, height), PillowImage.Resampling.BILINEAR))
        alpha = (resized if alpha.dtype.kind == "f" else np.rint(resized)).astype(alpha.dtype)
    if alpha.dtype == dtype:
        return alpha
    unit = alpha.astype(np.float64) / (1 if alpha.dtype.kind == "f" else _FULL[bit_depth_of(alpha.dtype)])
    if depth == 32:
        return unit.astype(dtype)
    return np.rint(np.clip(unit, 0, 1) * _FULL[depth]).astype(dtype)
