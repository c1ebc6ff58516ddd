"""JPEG, read and written by Pillow, with a check that libjpeg does not make: that the data reach the last block."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.JpegImagePlugin import JpegImageFile

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.source import Header, Source, Stored, without_warnings

_MODES = {"L": "gray", "RGB": "rgb", "CMYK": "cmyk"}
_END = b"\xff\xd9"
_START, _DATA, _END_CODE = 0xD8, 0xDA, 0xD9  # markers
_ALONE = (0x01, *range(0xD0, 0xD8))  # markers without a length and a body
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
_AFTER_DATA = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")  # any marker but a restart, which belongs to the data
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
# Frames with arithmetic coding, which drops zeros at the end, so that appended bytes are data to it.
_ARITHMETIC = {0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF}
MOST_DENSITY = 65535  # dots per inch
_PADDING = 64  # as many zeros at the end can hardly be coded data
_NOISE = hashlib.shake_128(b"filler").digest(4096).replace(b"\xff", b"\xfe")  # without 0xff it holds no marker
_FILLERS = (_NOISE, bytes(255 - byte or 1 for byte in _NOISE).replace(b"\xff", b"\xfe"))


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for a colour model other than gray, RGB (YCbCr) and CMYK."""
    picture = _opened(file)
    width, height = picture.size
    if exif.orientation(picture.info.get("exif")) >= 5:
        width, height = height, width
    return Header("jpeg", width, height, 1 if picture.mode == "L" else 3, alpha=False, bit_depth=8)


def luma_steps(file: BinaryIO) -> NDArray[np.int64]:
    """Return the quantisation steps of the luma, [8, 8] in natural order, as the header has them."""
    tables = _opened(file).quantization
    return np.array(tables[min(tables)], np.int64).reshape(8, 8)


def decode(data: bytes) -> Stored:
    """Decode the first picture of the file, without the gain maps and previews that phones append.

    libjpeg fills missing data with gray and gives no error. To detect a truncated picture, or a header that claims more
    rows than there are, the data are decoded again with bytes appended: they change nothing in a whole picture, but
    they change the fill of a truncated one. A loss in the middle of the data is often not detected. With arithmetic
    coding the test is not possible, and the end marker must be there. Raises ItemError for a truncated picture.
    """
    layout = _layout(data)
    body = data[: layout.end] if layout.ended else _without_padding(data[: layout.end])
    picture = _opened(BytesIO(body + _END))
    samples = np.asarray(picture)
    tellable = layout.frame not in _ARITHMETIC
    refilled = (_opened(BytesIO(body + filler + _END)) for filler in (_fillers(body, layout) if tellable else ()))
    if not all(np.array_equal(samples, np.asarray(again)) for again in refilled):
        raise ItemError("unreadable", "truncated JPEG: its data end before its last row")
    if not (layout.ended or (tellable and layout.has_all_passes())):
        raise ItemError("unreadable", "truncated JPEG: it has no end marker, and it may lack more")
    block = picture.info.get("exif")
    dpi = picture.info.get("dpi")
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode=_MODES[picture.mode],
        orientation=exif.orientation(block),
        icc=picture.info.get("icc_profile"),
        exif=block,
        xmp=picture.info.get("xmp"),
        dpi=(float(dpi[0]), float(dpi[1])) if dpi else None,
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """Encode [H, W, 1 | 3] uint8 at quality 95 without chroma subsampling, with profile, EXIF, XMP and density."""
    options: dict[str, Any] = {"quality": 95, "subsampling": 0}
    if source.icc:
        options["icc_profile"] = source.icc
    if source.exif:
        options["exif"] = exif.PREFIX + source.exif
    if source.xmp:
        options["xmp"] = source.xmp
    if source.dpi and max(source.dpi) <= MOST_DENSITY:
        options["dpi"] = tuple(round(n) for n in source.dpi)
    out = BytesIO()
    PillowImage.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples).save(out, "JPEG", **options)
    return out.getvalue()


def _opened(file: BinaryIO) -> JpegImageFile:
    """Open a file by Pillow's class: without its registry, its warning of large images, and multi-picture reading."""
    file.seek(0)
    with without_warnings():
        picture = JpegImageFile(file)
    if picture.mode not in _MODES:
        raise ItemError("unsupported", f"JPEG mode {picture.mode}")
    return picture


@dataclass
class _Layout:
    """What the markers of a JPEG's first picture say."""

    frame: int = 0  # the marker that names the coding
    components: bytes = b""  # the components' numbers
    # Of each scan: the components' numbers, the first and the last coefficient, and the bit that it refines.
    passes: list[tuple[bytes, int, int, int]] = field(default_factory=list)
    data: int = 0  # place where the last scan's data begin
    end: int = 0  # place where they end
    ended: bool = False  # whether an end marker follows

    def has_all_passes(self) -> bool:
        """Return whether the scans of progressive data hold every coefficient of every component to the last bit."""
        there = {one: set[int]() for one in self.components}
        for names, first, last, bit in self.passes:
            for one in set(names) & there.keys() if bit == 0 else ():
                there[one].update(range(first, min(last, 63) + 1))
        return bool(there) and all(len(coefficients) == 64 for coefficients in there.values())


def _layout(data: bytes) -> _Layout:
    """Parse the markers up to the end of the first picture; raise ItemError if there is none."""
    found, at = _Layout(end=len(data)), 2
    while match := _MARKER.search(data, at):
        code, body = match[1][0], match.end() + 2
        stop = match.end() + int.from_bytes(data[match.end() : body], "big")
        if code in _ALONE:
            at = match.end()
            continue
        if code in (_START, _END_CODE) or not body <= stop <= len(data):
            found.end, found.ended = match.start(), code == _END_CODE
            break
        at = stop
        if code in _FRAMES:
            found.frame, found.components = code, data[body + 6 : stop : 3]
        if code == _DATA:
            names = data[body + 1 : stop - 3 : 2]
            found.passes.append((names, data[stop - 3], data[stop - 2], data[stop - 1] & 15))
            after = _AFTER_DATA.search(data, stop)
            found.data, at = stop, after.start() if after else len(data)
    if not found.data:
        raise ItemError("unreadable", "truncated JPEG: it ends before its picture")
    return found


def _without_padding(body: bytes) -> bytes:
    """Return data without an end marker without the zeros that pad the file, or without half of an end marker."""
    short = body.rstrip(b"\0")
    if len(body) - len(short) >= _PADDING:
        return short + b"\0" if short.endswith(b"\xff") else short  # in coded data a zero follows 0xff
    return body.rstrip(b"\xff")


def _fillers(body: bytes, layout: _Layout) -> Iterator[bytes]:
    """Yield two complementary fillers that a decoder reads as more data, at any place between restart markers."""
    restarts = _RESTART.findall(body, layout.data)
    following = restarts[-1][0] + 1 if restarts else 0
    for noise in _FILLERS:
        yield noise + b"".join(bytes([0xFF, 0xD0 + (following + k) % 8]) + noise for k in range(8))
