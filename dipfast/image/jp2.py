"""JPEG 2000: JP2, JPX of one picture, and bare codestreams of up to 16 bits, read only.

The header is parsed here, because the decoder, OpenJPEG in imagecodecs, tells no size before it has decoded. Palettes,
CMYK, signed samples, and channels of different sizes or depths are refused.
"""

import struct
from io import BytesIO
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.boxes import Box, boxes
from dipfast.image.colour import Space, of_codes
from dipfast.image.samples import spread
from dipfast.image.source import Header, Stored

_CODESTREAM = b"\xff\x4f\xff\x51"
_SRGB, _GRAY, _SYCC = 16, 17, 18  # enumerated colour spaces; OpenJPEG converts sYCC to RGB
_OPACITY, _PREMULTIPLIED = 1, 2
_EXIF, _XMP = b"JpgTiffExif->JP2", bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_MOST_TILES = 65535
_METRES_AN_INCH = 0.0254


class _Codestream(NamedTuple):
    """What a codestream's header says."""

    width: int
    height: int
    samples: int
    bits: int


class _Container(NamedTuple):
    """What the boxes around the codestream say."""

    space: Space | None = None
    icc: bytes | None = None
    alpha_kind: str = "straight"
    dpi: tuple[float, float] | None = None
    exif: bytes | None = None
    has_colours: bool = False  # whether a colour box was read; only the first one counts
    xmp: bytes | None = None


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for an unsupported layout and for a header that contradicts itself."""
    found, _ = _parsed(file)
    colours = 1 if found.samples < 3 else 3
    return Header("jp2", found.width, found.height, colours, found.samples > colours, 8 if found.bits <= 8 else 16)


def decode(data: bytes) -> Stored:
    """Decode lossy or lossless data; integers are spread over 8 or 16 bits."""
    found, around = _parsed(BytesIO(data))
    samples = np.asarray(imagecodecs.jpeg2k_decode(data, numthreads=1))
    return Stored(
        samples=spread(samples.reshape(*samples.shape[:2], -1), found.bits),
        mode="gray" if found.samples < 3 else "rgb",
        alpha_kind=around.alpha_kind,
        icc=around.icc,
        exif=exif.upright(around.exif),
        dpi=around.dpi,
        space=around.space,
        xmp=around.xmp,
    )


def _parsed(file: BinaryIO) -> tuple[_Codestream, _Container]:
    file.seek(0)
    if file.read(4) == _CODESTREAM:
        return _codestream(file, 0), _Container()
    streams, around = [], _Container()
    for box in boxes(file):
        if box.kind == b"jp2c":
            streams.append(box)
        elif box.kind == b"jp2h":
            around = _header_box(file, box, around)
        elif box.kind == b"uuid" and box.length > 16:
            name, body = box.body(file, 16), box.body(file)[16:]
            around = around._replace(exif=body) if name == _EXIF else around
            around = around._replace(xmp=body) if name == _XMP else around
    if not streams:
        raise ItemError("unreadable", "truncated JPEG 2000: it holds no whole codestream")
    if len(streams) > 1:
        raise ItemError("unsupported", f"a JPEG 2000 file of {len(streams)} pictures: only a single one is restored")
    return _codestream(file, streams[0].at), around


def _codestream(file: BinaryIO, at: int) -> _Codestream:
    """Parse the SIZ marker: sizes on the reference grid, then a byte of depth and two of spacing for each component."""
    file.seek(at)
    head = file.read(42)
    if len(head) < 42 or head[:4] != _CODESTREAM:
        raise ItemError("unreadable", "corrupt JPEG 2000: no codestream begins where one should")
    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top = struct.unpack(">8I", head[8:40])
    count = int.from_bytes(head[40:42], "big")
    components = file.read(3 * count)
    width, height = right - left, bottom - top
    if min(width, height, tile_width, tile_height) < 1 or len(components) < 3 * count:
        raise ItemError("unreadable", f"corrupt JPEG 2000: its header claims {width}x{height} pixels")
    if -(-(right - tile_left) // tile_width) * -(-(bottom - tile_top) // tile_height) > _MOST_TILES:
        raise ItemError("unreadable", "corrupt JPEG 2000: more tiles than there may be")
    if not 1 <= count <= 4:
        raise ItemError("unsupported", f"a JPEG 2000 of {count} channels")
    if components[1::3] + components[2::3] != bytes([1]) * (2 * count):
        raise ItemError("unsupported", "a JPEG 2000 whose channels differ in size")
    depths = set(components[::3])
    bits = depths.pop()
    if depths or bits & 0x80 or bits >= 16:
        raise ItemError(
            "unsupported", "a JPEG 2000 whose samples are signed, differ in depth or have more than 16 bits"
        )
    return _Codestream(width, height, count, bits + 1)


def _header_box(file: BinaryIO, outer: Box, found: _Container) -> _Container:
    for box in boxes(file, outer):
        body = box.body(file)
        if box.kind == b"pclr":
            raise ItemError("unsupported", "a JPEG 2000 with a palette")
        if box.kind == b"colr" and not found.has_colours:
            found = _colours(body, found)
        elif box.kind == b"cdef":
            kinds = [kind for _, kind, _ in struct.iter_unpack(">HHH", body[2 : 2 + (len(body) - 2) // 6 * 6])]
            if any(kind not in (0, _OPACITY, _PREMULTIPLIED) for kind in kinds):
                raise ItemError("unsupported", "a JPEG 2000 with channels beside colours and alpha")
            found = found._replace(alpha_kind="premultiplied" if _PREMULTIPLIED in kinds else "straight")
        elif box.kind == b"res ":
            found = found._replace(dpi=_resolution(file, box))
    return found


def _colours(body: bytes, found: _Container) -> _Container:
    method, found = body[:1], found._replace(has_colours=True)
    if method in (b"\2", b"\3"):
        return found._replace(icc=body[3:])
    if method == b"\5":
        return found._replace(space=of_codes(*struct.unpack(">HH", body[3:7].ljust(4, b"\2"))))
    number = int.from_bytes(body[3:7], "big")
    if method == b"\1" and number not in (_SRGB, _GRAY, _SYCC):
        raise ItemError("unsupported", f"a JPEG 2000 in colour space {number}, which is neither sRGB nor gray")
    return found


def _resolution(file: BinaryIO, outer: Box) -> tuple[float, float] | None:
    """Return dots per inch of the capture, or else of the display, from fractions times powers of ten per metre."""
    found = {box.kind: box.body(file) for box in boxes(file, outer)}
    body = found.get(b"resc", found.get(b"resd", b""))
    if len(body) != 10:
        return None
    over_y, under_y, over_x, under_x, ten_y, ten_x = struct.unpack(">4H2b", body)
    if not (under_x and under_y):
        return None
    return over_x / under_x * 10.0**ten_x * _METRES_AN_INCH, over_y / under_y * 10.0**ten_y * _METRES_AN_INCH
