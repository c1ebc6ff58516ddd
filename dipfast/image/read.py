"""Reading of image files: the first bytes tell the format, the header is checked against the limits, then decoded."""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from dipfast import remote
from dipfast.errors import ItemError
from dipfast.files import open_regular, read_small
from dipfast.image import bitmap, colour, exif, heif, jp2, jpeg, jxl, measures, png, pnm, samples, tiff, webp
from dipfast.image.colour import ADOBE_GAMMA, ADOBE_RGB, Space
from dipfast.image.source import COLOURS, Header, Image, Limits, Source, Stored, bit_depth_of, failing_as

_HEADERS: dict[str, Callable[[BinaryIO], Header]] = {
    "png": png.header,
    "jpeg": jpeg.header,
    "tiff": tiff.header,
    "webp": webp.header,
    "avif": heif.avif_header,
    "heif": heif.heif_header,
    "jxl": jxl.header,
    "jp2": jp2.header,
    "bmp": bitmap.bmp_header,
    "gif": bitmap.gif_header,
    "tga": bitmap.tga_header,
    "pnm": pnm.header,
}
_DECODERS: dict[str, Callable[[bytes], Stored]] = {
    "png": png.decode,
    "jpeg": jpeg.decode,
    "tiff": tiff.decode,
    "webp": webp.decode,
    "avif": heif.avif_decode,
    "heif": heif.heif_decode,
    "jxl": jxl.decode,
    "jp2": jp2.decode,
    "bmp": bitmap.bmp_decode,
    "gif": bitmap.gif_decode,
    "tga": bitmap.tga_decode,
    "pnm": pnm.decode,
}
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"GIF8": "gif",
    b"8BPS": "psd",
    b"%PDF": "pdf",
    b"\0\0\0\x0cjP": "jp2",
    b"\0\0\0\x0cJXL ": "jxl",
    b"\xff\x0a": "jxl",
    b"\xff\x4f\xff\x51": "jp2",
}
_MOST_DPI = 1e8  # dots per inch; the most that a PNG holds
_SMALL_BYTES = 1 << 16  # a file of at most so many bytes is read at once for its header
_GIVES_UP = "the decoder gives up: "
_HEIF = (b"heic", b"heix", b"hevc", b"mif1", b"msf1")


def probe(path: str | os.PathLike[str], limits: Limits | None = None) -> Header:
    """Read the header of a file, or of an object by its address (`dipfast.remote`), without decoding the pixels.

    Without ``limits`` those of `Limits()` hold. Raises ItemError of kind unreadable (missing, empty, truncated or no
    image), unsupported (another format, several pages, unusual samples) or too-large (bytes, pixels, aspect).
    """
    limits, name = limits or Limits(), os.fspath(path)
    with failing_as("unreadable", name, _GIVES_UP):
        data = None if remote.is_remote(name) else read_small(name, min(_SMALL_BYTES, limits.max_bytes))
        if data:
            return _header(BytesIO(data), limits)
        with _opened(name, limits) as file:
            return _header(file, limits)


def read(path: str | os.PathLike[str], limits: Limits | None = None) -> Image:
    """Read a file as an upright image of float32 [C, H, W] in [0, 1], after all limits have been checked.

    CMYK becomes sRGB, by its profile if it has one, which is then dropped. Palettes become RGB, with alpha for a
    transparent colour, and 1-bit samples become gray of 8 bits. Float samples outside [0, 1] are scaled to it
    (`float_range`). Raises ItemError as `probe` does, and of kind non-finite for floats with NaN or infinity.
    """
    limits, name = limits or Limits(), os.fspath(path)
    with failing_as("unreadable", name, _GIVES_UP), _opened(name, limits) as file:
        data = file.read(limits.max_bytes)  # not more, if it has grown since
        header = _header(BytesIO(data), limits)
        stored = _DECODERS[header.format](data)
        _check_honest(stored, header)
        return _assembled(stored, header.format)


def luma_steps(path: str | os.PathLike[str], limits: Limits | None = None) -> NDArray[np.int64] | None:
    """Return the quantisation steps of a JPEG file's luma, [8, 8]; None for a file of another format.

    Raises ItemError as `probe` does.
    """
    limits, name = limits or Limits(), os.fspath(path)
    with failing_as("unreadable", name, _GIVES_UP), _opened(name, limits) as file:
        return jpeg.luma_steps(file) if _header(file, limits).format == "jpeg" else None


@contextmanager
def _opened(name: str, limits: Limits) -> Iterator[BinaryIO]:
    if remote.is_remote(name):
        _check_bytes(remote.size(name), limits)
        data = remote.read(name, limits.max_bytes)
        _check_bytes(len(data), limits)
        yield BytesIO(data)
        return
    with open_regular(name) as file:
        _check_bytes(os.fstat(file.fileno()).st_size, limits)
        yield file


def _check_bytes(size: int | None, limits: Limits) -> None:
    if size == 0:
        raise ItemError("unreadable", "the file is empty")
    if size is not None and size > limits.max_bytes:
        raise ItemError("too-large", f"{size} bytes, max_bytes is {limits.max_bytes}")


def _header(file: BinaryIO, limits: Limits) -> Header:
    format = _sniffed(file.read(64))
    if format not in limits.formats:
        raise ItemError("unsupported", f"a {format} image, formats are {', '.join(limits.formats)}")
    header = _HEADERS[format](file)
    width, height = header.width, header.height
    if min(width, height) < 1:
        raise ItemError("unreadable", f"its header claims {width}x{height} pixels")
    if width * height > limits.max_pixels:
        raise ItemError("too-large", f"{width}x{height} pixels, max_pixels is {limits.max_pixels}")
    if max(width, height) > limits.max_aspect * min(width, height):
        raise ItemError("too-large", f"{width}x{height} pixels, max_aspect is {limits.max_aspect:g}")
    return header


def _sniffed(head: bytes) -> str:
    """Return the format by the first bytes of a file, whatever its name; raise ItemError if they tell none."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[4:8] == b"ftyp":
        brands = head[8 : max(12, min(len(head), int.from_bytes(head[:4], "big")))]
        if b"avif" in brands or b"avis" in brands:
            return "avif"
        if brands[:4] in _HEIF:
            return "heif"
    for magic, format in _MAGIC.items():
        if head.startswith(magic):
            return format
    if re.match(rb"P[1-6][\s#]|P7\n", head):
        return "pnm"
    for looks, format in ((bitmap.is_bmp, "bmp"), (bitmap.is_tga, "tga")):
        if looks(head):
            return format
    raise ItemError("unreadable", "no image that dipfast knows, by its first bytes")


def _check_honest(stored: Stored, header: Header) -> None:
    height, width = stored.samples.shape[:2]
    if stored.orientation >= 5:
        height, width = width, height
    if (width, height) != (header.width, header.height):
        raise ItemError("unreadable", f"it claims {header.width}x{header.height} pixels, holds {width}x{height}")


def _assembled(stored: Stored, format: str) -> Image:
    upright = exif.turned(stored.samples, stored.orientation)
    colours = COLOURS[stored.mode]
    planes, icc = upright[..., :colours], stored.icc
    if stored.mode == "cmyk":
        planes, icc = colour.to_rgb(planes, "cmyk", icc), None
    elif not colour.fits(icc, "gray" if colours == 1 else "rgb"):
        icc = None
    low, high = samples.float_range(planes) if planes.dtype.kind == "f" else (0.0, 1.0)
    has_alpha = upright.shape[2] > colours
    dpi = stored.dpi[::-1] if stored.dpi and stored.orientation >= 5 else stored.dpi
    source = Source(
        format=format,
        mode=stored.mode,
        bit_depth=bit_depth_of(planes.dtype),
        icc=icc,
        exif=measures.turned(exif.upright(stored.exif), stored.orientation, *upright.shape[:2]),
        alpha=np.ascontiguousarray(upright[..., -1]) if has_alpha else None,
        alpha_kind=stored.alpha_kind,
        low=low,
        high=high,
        dpi=dpi if dpi and all(0 < n < _MOST_DPI for n in dpi) else None,
        length_unit=stored.length_unit,
        png_colour=stored.png_colour,
        space=_space(stored, icc),
        xmp=stored.xmp,
        tags=stored.tags,
        size=upright.shape[:2],
        lossless=stored.lossless,
        notes=stored.notes,
    )
    return Image(samples.to_unit(planes, low, high), source)


def _space(stored: Stored, icc: bytes | None) -> Space | None:
    """Return the space of colours without a profile; None for sRGB, which CMYK was converted to."""
    if stored.mode == "cmyk":
        return None
    if stored.space is None and icc is None and exif.is_adobe_rgb(stored.exif):
        return Space(ADOBE_RGB, ADOBE_GAMMA, None, "Adobe RGB")
    return stored.space
