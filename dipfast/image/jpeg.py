"""JPEG through Pillow, and the one check that libjpeg does not make: that the data reach the last block."""

from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.JpegImagePlugin import JpegImageFile

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.guard import without_warnings
from dipfast.image.source import Header, Source, Stored

_MODES = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}
_END = b"\xff\xd9"
# Frames whose arithmetic coder drops trailing zeros, so that filler is data to them.
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
_FILLER = bytes(range(1, 251)) * 16  # no 0xff in it, so no marker


def header(file: BinaryIO) -> Header:
    """Raises ItemError for a colour model that is not gray, RGB (YCbCr) or CMYK."""
    picture = _opened(file)
    width, height = picture.size
    if exif.orientation(picture.info.get("exif")) >= 5:
        width, height = height, width
    return Header("jpeg", width, height, 1 if picture.mode == "L" else 3, alpha=False, bit_depth=8)


def decode(data: bytes) -> Stored:
    """The first picture of the file; gain maps and previews that phones append are left out, as viewers do.

    libjpeg fills what is missing with gray and says nothing. Bytes put before the end marker change nothing
    in a whole picture, but they change that fill, so decoding twice finds a header that claims more rows than
    there are. A piece lost in the middle it often does not find.
    """
    markers, scan = _segments(data)
    end = data.find(_END, scan)
    if end < 0:
        raise ItemError("unreadable", "truncated JPEG: it has no end marker")
    picture = _opened(BytesIO(data))
    samples = np.asarray(picture)
    if not _ARITHMETIC & markers:
        again = np.asarray(_opened(BytesIO(data[:end] + _FILLER + data[end:])))
        if not np.array_equal(samples, again):
            raise ItemError("unreadable", "corrupt JPEG: its data end before its last row")
    block = picture.info.get("exif")
    dpi = picture.info.get("dpi")
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode=_MODES[picture.mode],
        orientation=exif.orientation(block),
        icc=picture.info.get("icc_profile"),
        exif=block,
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """[H, W, 1 | 3] uint8 -> quality 95 without chroma subsampling, with profile, EXIF and density."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0}
    if source.icc:
        options["icc_profile"] = source.icc
    if source.exif:
        options["exif"] = exif.PREFIX + source.exif
    if source.dpi:
        options["dpi"] = tuple(round(n) for n in source.dpi)
    out = BytesIO()
    PillowImage.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(out, "JPEG", **options)
    return out.getvalue()


def _opened(file: BinaryIO) -> JpegImageFile:
    """Pillow's own class: no registry, no bomb warning, no multi-picture reading."""
    file.seek(0)
    with without_warnings():
        picture = JpegImageFile(file)
    if picture.mode not in _MODES:
        raise ItemError("unsupported", f"JPEG mode {picture.mode}")
    return picture


def _segments(data: bytes) -> tuple[set[int], int]:
    """The markers before the first scan, and where that begins: behind any thumbnail, itself a JPEG."""
    markers: set[int] = set()
    at = 2
    while data[at : at + 2] != b"\xff\xda" and at < len(data):
        filling = data[at : at + 2] == b"\xff\xff"
        markers.update(data[at + 1 : at + 2])
        at += 1 if filling else 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return markers, at
