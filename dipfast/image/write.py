"""Writing of restored pixels with everything that the source had.

A depth, an alpha or a float range that the format cannot hold is an error, whose message names the setting to change;
nothing is reduced silently. `check_output` raises the same error before an hour is spent on the fit.
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
from dipfast.image import colour, heif, jpeg, measures, png, samples, tiff, webp
from dipfast.image.colour import matters, png_chunk, profile
from dipfast.image.source import FORMATS, Source, failing_as

_EXTENSIONS = {
    **dict.fromkeys((".png", ".apng"), "png"),
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"), "jpeg"),
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    ".webp": "webp",
    **dict.fromkeys((".avif", ".avifs"), "avif"),
}
_DEPTHS = {"png": (8, 16), "tiff": (8, 16, 32), "jpeg": (8,), "webp": (8,), "avif": (8,)}
_JPEG_EXIF = 65533 - 6  # bytes of EXIF, at most: those of a segment without its prefix
_JPEG_XMP = 65533 - 29  # the same for XMP
_ENCODERS: dict[str, Callable[[NDArray[Any], Source], bytes]] = {
    "png": png.encode,
    "jpeg": jpeg.encode,
    "tiff": tiff.encode,
    "webp": webp.encode,
    "avif": heif.avif_encode,
}


def write(
    path: str | os.PathLike[str],
    pixels: NDArray[Any],  # [C, H, W] in [0, 1]
    source: Source,
    *,
    bit_depth: int | str = "source",
) -> None:
    """Write pixels in the format that the path's extension names, and create missing folders.

    The file is replaced in one step, so that no reader sees a part of it. ``bit_depth`` is 8, 16 or "source". Raises
    UsageError for an unknown extension, ItemError of kind unwritable for the disk, and otherwise what `encode` raises.
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
    """Return the bytes of a file of ``format``: png, jpeg, tiff, webp or avif. The same input gives the same bytes.

    PNG and TIFF are lossless; JPEG, WebP and AVIF are written at quality 95, always with lossless alpha. Alpha is
    converted to the size and depth of the pixels. The density, the sides in EXIF and XMP and the tags of a GeoTIFF are
    adapted to their size. Colours that are not sRGB and have no profile get one, or in a PNG their code points. A CMYK
    source is written as RGB. A float source is written to a TIFF as float32 in its own range, and to a PNG in 16 bits.
    Raises UsageError for wrong arguments, and ItemError of kind unsupported if the format cannot hold the source,
    non-finite for NaN or infinity, and unwritable if the encoder fails, as for a WebP side over 16383.
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
    """Raise the error that `write` would raise for this source, path and depth, before there are pixels to write."""
    with failing_as("unsupported", os.fspath(path)):
        _depth(source, format_of(path), bit_depth)


def losses(source: Source, format: str, colours: str) -> list[str]:
    """Return a sentence about each part of the source's metadata that a file of ``format`` cannot hold.

    ``colours`` is gray or rgb. The pixels are not affected; an empty list means that everything is carried over.
    """
    kept, lost = _kept(source, format, colours), []
    if source.space is not None and matters(source.space, colours) and not (kept.icc or kept.png_colour or kept.space):
        lost.append(
            f"{format} cannot name the picture's colours ({source.space.name}), which will be taken for sRGB; "
            "a template ending in .png may"
        )
    if kept.tags != source.tags and any(tag.code in measures.GEO_TAGS for tag in source.tags):
        lost.append(f"{format} holds no GeoTIFF tags, so they were left out; a template ending in .tif keeps them")
    if source.xmp and not kept.xmp:
        lost.append("the XMP speaks of parts of the file that were not restored, or is too long: it was left out")
    if source.dpi and format == "jpeg" and max(source.dpi) > jpeg.MOST_DENSITY:
        lost.append(f"jpeg holds at most {jpeg.MOST_DENSITY} dots per inch, so the density was left out")
    return lost


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format that the extension names: png, jpeg, tiff, webp or avif; raise UsageError for another."""
    extension = Path(path).suffix.lower()
    if extension not in _EXTENSIONS:
        usual = {format: extension for extension, format in reversed(_EXTENSIONS.items())}
        endings = ", ".join(usual[format] for format in FORMATS)
        raise UsageError(f"{os.fspath(path)}: the extension must be one of {endings}")
    return _EXTENSIONS[extension]


def _kept(source: Source, format: str, colours: str) -> Source:
    """Return the source without what a file of ``format`` cannot hold; ``colours`` is gray or rgb."""
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
    """Return the bit depth to write, 8, 16 or 32 (float); raise the error that `encode` documents if there is none."""
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
    """Return straight colours from premultiplied ones, for formats that have only straight alpha."""
    if source.alpha is None:
        return pixels
    alpha = samples.alpha_plane(source.alpha, 32, *pixels.shape[1:])
    straight: NDArray[Any] = np.divide(pixels, alpha, out=np.zeros_like(pixels), where=alpha > 0)
    return straight.clip(0, 1)
