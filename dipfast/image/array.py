"""Arrays of Python's callers to images and back, in the dtype and shape in which they came."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import UsageError
from dipfast.image import samples
from dipfast.image.source import Image, Source, bit_depth_of


def from_array(array: NDArray[Any]) -> Image:
    """[H, W] or [H, W, C], C = 1 to 4, uint8, uint16 or float in [0, 1] -> Image. Of 2 and 4 the last is
    alpha.

    Raises UsageError for anything else: another dtype or shape, an empty array, a value outside [0, 1], NaN.
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
    """[C, H, W] in [0, 1] -> [H, W] or [H, W, C], in the form of `like`.

    like: the array that went into `from_array`, whose dtype, number of axes and alpha come back; or the
    source of a file that was read, which gives uint8, uint16 or float32 in its own range, with alpha last. H
    and W are those of the pixels. Raises UsageError where the colour channels differ, ItemError (non-finite)
    for NaN.
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
