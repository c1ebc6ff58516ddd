"""Restored pixels to a file, with all that the source had; what the format cannot hold is an error.

Never reduced without a word: depth, alpha and a float range that the format cannot hold are refused, and the
message names the setting. `check_output` asks the same question before an hour is spent on the fit.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import ItemError, UsageError
from dipfast.files import write_atomic
from dipfast.image import avif, colour, jpeg, measures, png, samples, tiff, webp
from dipfast.image.guard import failing_as
from dipfast.image.source import FORMATS, Source
from dipfast.image.space import matters, png_chunk, profile

_EXTENSIONS = {
    **dict.fromkeys((".png", ".apng"), "png"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    ".webp": "webp",
    **dict.fromkeys((".avif", ".avifs"), "avif"),
}
_DEPTHS = {"png": (8, 16), "tiff": (8, 16, 32), "jpeg": (8,), "webp": (8,), "avif": (8,)}
_JPEG_EXIF = 65533 - 6  # bytes: a segment, less the marker that begins it
_JPEG_XMP = 65533 - 29
_ENCODERS: dict[str, Callable[[NDArray[Any], Source], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": webp.encode,
    "avif": avif.encode,
}


def write(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],  # [C, H, W] in [0, 1]
    source: Source,
    *,
    bit_depth: int | str = "source",
) -> None:
    """Encode by the path's extension and put the file there in one step, making its folders.

    A reader sees the old file or the new one, never a part. bit_depth: 8, 16 or "source". Raises UsageError
    for an extension that names no format, and otherwise as `encode`; `unwritable` for the disk.
    """
    with failing_as("unwritable", os.fspath(path)):
        write_atomic(path, encode(pixels, source, format_of(path), bit_depth=bit_depth))


def encode(
    pixels: NDArray[Any],  # [C, H, W] in [0, 1]
    source: Source,
    format: str,
    *,
    bit_depth: int | str = "source",
) -> bytes:
    """The bytes of a file of that format: png, jpeg, tiff, webp or avif. The same input gives the same bytes.

    PNG and TIFF are lossless; JPEG, WebP and AVIF are written at quality 95, alpha always losslessly. Alpha
    follows the pixels in size and depth, and is untouched where those are its own; density, sides in EXIF and
    XMP and the tags of a GeoTIFF follow their size. Colours that are not sRGB and have no profile get one, or
    in a PNG their name. A CMYK source is written as RGB. A float source goes into a TIFF as float32 in its own
    range, into a PNG as 16 bits. Raises UsageError for wrong arguments; ItemError `unsupported` where the
    format cannot hold the source, `non-finite` for NaN, `unwritable` where the encoder gives up (a WebP side
    over 16383).
    """
    depth = _depth(source, format, bit_depth)
    if source.alpha_kind == "premultiplied" and format != "tiff":
        pixels = _divided_by_alpha(pixels, source)
    stored = samples.to_stored(pixels, source, depth)
    kept = _kept(source, format, "gray" if pixels.shape[0] == 1 else "rgb")
    kept = measures.fitted(kept, *pixels.shape[1:])
    with failing_as("unwritable", f"cannot be encoded as {format}"):
        return _ENCODERS[format](stored, kept)


def check_output(source: Source, path: str | os.PathLike[str], *, bit_depth: int | str = "source") -> None:
    """Raise what `write` would raise for this source, path and depth, before there are pixels to write."""
    with failing_as("unsupported", os.fspath(path)):
        _depth(source, format_of(path), bit_depth)


def losses(source: Source, format: str, colours: str) -> list[str]:
    """What a file of that format does not hold of the source, be it gray or rgb, though the picture is as good as any.

    A sentence each; empty where all is carried.
    """
    kept, said = _kept(source, format, colours), []
    if source.space is not None and matters(source.space, colours) and not (kept.icc or kept.png_colour or kept.space):
        said.append(
            f"{format} cannot name the picture's colours ({source.space.name}), which will be taken for sRGB; "
            "a template ending in .png may"
        )
    if kept.tags != source.tags and any(tag.code in measures.GEO_TAGS for tag in source.tags):
        said.append(f"{format} holds no GeoTIFF tags, so they were left out; a template ending in .tif keeps them")
    if source.xmp and not kept.xmp:
        said.append("the XMP speaks of parts of the file that were not restored, or is too long: it was left out")
    if source.dpi and format == "jpeg" and max(source.dpi) > jpeg.MOST_DENSITY:
        said.append(f"jpeg holds at most {jpeg.MOST_DENSITY} dots per inch, so the density was left out")
    return said


def format_of(path: str | os.PathLike[str]) -> str:
    """png, jpeg, tiff, webp or avif, by extension. Raises UsageError for another."""
    extension = Path(path).suffix.lower()
    if extension not in _EXTENSIONS:
        usual = {format: extension for extension, format in reversed(_EXTENSIONS.items())}
        endings = ", ".join(usual[format] for format in FORMATS)
        raise UsageError(f"{os.fspath(path)}: the extension must be one of {endings}")
    return _EXTENSIONS[extension]


def _kept(source: Source, format: str, colours: str) -> Source:
    """The source with what that format holds of it, for gray or rgb."""
    icc = source.icc if colour.fits(source.icc, colours) else None
    chunks = source.png_colour if format == "png" else b""
    space, xmp = source.space, source.xmp
    if icc is None and space is not None and not chunks:
        icc = profile(space, colours)
    if xmp and (measures.is_foreign(xmp) or (format == "jpeg" and len(xmp) > _JPEG_XMP)):
        xmp = None
    return replace(
        source,
        icc=icc,
        png_colour=chunks,
        space=space if format == "png" and space is not None and png_chunk(space) else None,
        xmp=xmp,
        tags=source.tags if format == "tiff" else (),
    )


def _depth(source: Source, format: str, bit_depth: int | str) -> int:
    """8, 16 or 32 (float) for this source in this format, or the error that says why not."""
    if format not in FORMATS:
        raise UsageError(f"format must be one of {', '.join(FORMATS)}, not {format!r}")
    if bit_depth not in ("source", 8, 16):
        raise UsageError(f"bit_depth must be source, 8 or 16, not {bit_depth!r}")
    depth = source.bit_depth if bit_depth == "source" else int(bit_depth)
    if depth == 32 and format == "png":
        depth = 16
    if depth not in _DEPTHS[format]:
        named = "float" if depth == 32 else f"{depth}-bit"
        raise ItemError(
            "unsupported",
            f"{format} holds 8 bits, not {named} samples: "
            "set output.bit_depth: 8, or a template ending in .png or .tif",
        )
    if depth != 32 and (source.low, source.high) != (0.0, 1.0):
        raise ItemError(
            "unsupported",
            f"integers cannot hold floats from {source.low:g} to {source.high:g}: "
            "set output.bit_depth: source and a template ending in .tif",
        )
    if source.alpha is not None and format == "jpeg":
        raise ItemError("unsupported", "jpeg holds no alpha: set a template ending in .png, .tif, .webp or .avif")
    size = len(source.exif or b"")
    if format == "jpeg" and size > _JPEG_EXIF:
        raise ItemError("unsupported", f"jpeg holds {_JPEG_EXIF} bytes of EXIF, not {size}")
    return depth


def _divided_by_alpha(pixels: NDArray[Any], source: Source) -> NDArray[Any]:
    """Straight colours out of premultiplied ones, for formats that know no other."""
    if source.alpha is None:
        return pixels
    alpha = samples.alpha_plane(source.alpha, 32, *pixels.shape[1:])
    straight: NDArray[Any] = np.divide(pixels, alpha, out=np.zeros_like(pixels), where=alpha > 0)
    return straight.clip(0, 1)
