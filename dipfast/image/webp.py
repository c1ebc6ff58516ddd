"""WebP: pixels by libwebp in imagecodecs and Pillow, header and metadata by this module.

Pillow would allocate the whole canvas to tell its size. The format has no gray, so a gray image is written as RGB.
"""

import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from dipfast.errors import ItemError
from dipfast.image import colour, exif
from dipfast.image.source import Header, Source, Stored

_ANIMATED, _ALPHA = 0x02, 0x10
# Bytes before a frame's picture: half of left and top, width and height less one, duration, flags.
_FRAME = 16


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for a truncated WebP, and for one of several frames."""
    width, height, alpha = _canvas(file)
    if exif.orientation(_body(file, b"EXIF")) >= 5:
        width, height = height, width
    return Header("webp", width, height, channels=3, alpha=alpha, bit_depth=8)


def decode(data: bytes) -> Stored:
    """Decode to RGB or RGBA of 8 bits, with the stored colours of transparent pixels."""
    file = BytesIO(data)
    width, height, alpha = _canvas(file)
    block, frame = _body(file, b"EXIF"), _body(file, b"ANMF")
    if frame is None:
        samples = np.asarray(imagecodecs.webp_decode(data, hasalpha=alpha))
    else:
        samples = _framed(frame, width, height, alpha)
    return Stored(
        samples=samples,
        mode="rgb",
        orientation=exif.orientation(block),
        icc=_body(file, b"ICCP"),
        exif=block,
        xmp=_body(file, b"XMP "),
        lossless=frame[_FRAME : _FRAME + 4] == b"VP8L" if frame else _body(file, b"VP8L") is not None,
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """Encode [H, W, S] uint8, lossless if the source was, else at quality 95 with lossless alpha.

    Profile, EXIF and XMP are written too. Gray becomes RGB, by its profile if it has one, which is then dropped.
    """
    icc = source.icc
    if samples.shape[2] < 3:
        samples = np.concatenate([colour.to_rgb(samples[..., :1], "gray", icc), samples[..., 1:]], axis=2)
        icc = None
    out = BytesIO()
    options: dict[str, Any] = {"lossless": True} if source.lossless else {"quality": 95}
    picture = PillowImage.fromarray(samples)
    options |= {"icc_profile": icc or b"", "exif": source.exif or b"", "xmp": source.xmp or b""}
    picture.save(out, "WEBP", exact=True, **options)
    return out.getvalue()


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and length of the body of each chunk; raise ItemError if the file is shorter than it claims."""
    end = file.seek(0, 2)
    file.seek(4)
    stop = 8 + int.from_bytes(file.read(4), "little")
    if end < stop:
        raise ItemError("unreadable", f"truncated WebP: {end} bytes of {stop}")
    at = 12
    while at + 8 <= stop:
        file.seek(at)
        kind, length = struct.unpack("<4sI", file.read(8))
        yield kind, at + 8, length
        at += 8 + length + length % 2


def _body(file: BinaryIO, wanted: bytes) -> bytes | None:
    for kind, at, length in _chunks(file):
        if kind == wanted:
            file.seek(at)
            return file.read(length)
    return None


def _framed(frame: bytes, width: int, height: int, alpha: bool) -> NDArray[Any]:
    """Decode the single frame of an animation on a transparent or black canvas, which it may not fill."""
    left, top = 2 * int.from_bytes(frame[:3], "little"), 2 * int.from_bytes(frame[3:6], "little")
    right, bottom = (start + 1 + int.from_bytes(frame[at : at + 3], "little") for start, at in ((left, 6), (top, 9)))
    if right > width or bottom > height:
        raise ItemError("unreadable", "corrupt WebP: its frame is larger than its canvas")
    flags = bytes([_ALPHA if alpha else 0, 0, 0, 0])
    chunks = b"WEBPVP8X" + struct.pack("<I", 10) + flags + frame[6:12] + frame[_FRAME:]
    still = b"RIFF" + struct.pack("<I", len(chunks)) + chunks
    canvas = np.zeros((height, width, 4 if alpha else 3), np.uint8)
    canvas[top:bottom, left:right] = imagecodecs.webp_decode(still, hasalpha=alpha)
    return canvas


def _canvas(file: BinaryIO) -> tuple[int, int, bool]:
    """Return width, height and whether there is alpha, from the first chunk; raise ItemError for several frames."""
    for kind, at, _ in _chunks(file):
        file.seek(at)
        head = file.read(10).ljust(10, b"\0")
        if kind == b"VP8X":
            frames = sum(1 for name, _, _ in _chunks(file) if name == b"ANMF")
            if head[0] & _ANIMATED and frames != 1:
                raise ItemError("unsupported", f"an animated WebP of {frames} frames: only a single one is restored")
            sides = int.from_bytes(head[4:7], "little") + 1, int.from_bytes(head[7:10], "little") + 1
            return *sides, bool(head[0] & _ALPHA)
        if kind == b"VP8L" and head[0] == 0x2F:
            bits = int.from_bytes(head[1:5], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, bool(bits >> 28 & 1)
        if kind == b"VP8 " and head[3:6] == b"\x9d\x01\x2a":
            width, height = struct.unpack("<HH", head[6:10])
            return width & 0x3FFF, height & 0x3FFF, False
        break
    raise ItemError("unreadable", "corrupt WebP: no picture in its first chunk")
