"""Samples of files as values in [0, 1] and back, without loss for every value of 8 and 16 bits; and alpha."""

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
    """Map samples [H, W, C] to [C, H, W] float32 in [0, 1], floats from [low, high], integers from their full range."""
    planes = np.moveaxis(samples, 2, 0)
    if samples.dtype.kind == "f":
        if (low, high) != (0.0, 1.0):
            planes = (planes.astype(np.float64) - low) / (high - low)
        return np.ascontiguousarray(planes, dtype=np.float32)
    return np.ascontiguousarray(planes, dtype=np.float32) / np.float32(_FULL[bit_depth_of(samples.dtype)])


def spread(samples: NDArray[Any], bits: int) -> NDArray[Any]:
    """Spread integers of 1 to 16 ``bits`` over the full range of 8 or 16 bits, rounded to nearest."""
    return stretched(samples, (1 << bits) - 1, 8 if bits <= 8 else 16)


def stretched(samples: NDArray[Any], most: int, depth: int) -> NDArray[Any]:
    """Spread integers of 0 to ``most`` over the full range of ``depth`` 8 or 16 bits, rounded to nearest."""
    full = _FULL[depth]
    if most == full:
        return samples.astype(_DTYPES[depth], copy=False)
    return ((samples.astype(np.uint32) * full + most // 2) // most).astype(_DTYPES[depth])


def float_range(samples: NDArray[Any]) -> tuple[float, float]:
    """Return the values that 0 and 1 stand for: 0 and 1 if all samples lie between them, else a range that holds all.

    The lower end is 0, or the least sample if that is negative. The ends differ by a power of two, so that samples that
    are not negative are restored to the bit. Raises ItemError of kind non-finite.
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
    """Return the pixels of a float image as they would be in the range of ``like``; those of integers as they are."""
    own = image.source
    if (own.bit_depth, like.bit_depth) != (32, 32) or (own.low, own.high) == (like.low, like.high):
        return image.pixels
    values = own.low + image.pixels.astype(np.float64) * (own.high - own.low)
    return ((values - like.low) / (like.high - like.low)).astype(np.float32)


def to_stored(pixels: NDArray[Any], source: Source, depth: int, *, alpha: bool = True) -> NDArray[Any]:
    """Return pixels [C, H, W] in [0, 1] as [H, W, C or C + 1] uint8, uint16 or float32, with the source's alpha last.

    ``depth`` is 8, 16 or 32. Values outside [0, 1] are clipped, and integers rounded to nearest. Raises UsageError for
    a wrong shape, and ItemError of kind non-finite for NaN or infinity, which would become black otherwise.
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
    """Return the alpha of an upright image as [H, W] float32 in [0, 1]; None if it has none."""
    return None if image.source.alpha is None else alpha_plane(image.source.alpha, 32, *image.pixels.shape[1:])


def alpha_plane(alpha: NDArray[Any], depth: int, height: int, width: int) -> NDArray[Any]:
    """Return alpha [H, W] in a ``depth`` of 8, 16 or 32 bits (float in [0, 1]) and a size; unchanged if it has both.

    Another size, as super-resolution gives, is interpolated bilinearly.
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
