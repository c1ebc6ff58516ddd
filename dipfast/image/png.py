"""PNG: libpng through imagecodecs for the samples, the chunks around them by hand.

Pillow opens 16-bit RGB as 8-bit, and cannot write it. Every chunk's checksum is verified, and libpng sees only those
that hold pixels: it unpacks texts and profiles without being asked, and prints their names when they are odd.
"""

import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.source import Header, Source, Stored

_COLOURS = {0: "gray", 2: "rgb", 3: "palette", 4: "gray", 6: "rgb"}
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_KEPT = (b"gAMA", b"cHRM", b"sRGB", b"cICP")
_MAX_ICC = 1 << 26  # bytes unpacked; a profile is a few kilobytes, a bomb is not
_METRE = 0.0254  # in an inch


def header(file: BinaryIO) -> Header:
    """Raises ItemError for a broken or animated PNG."""
    found: dict[bytes, bytes] = {}
    for kind, at, length in _chunks(file):
        if not found and kind != b"IHDR":
            raise ItemError("unreadable", "a PNG must begin with IHDR")
        wanted = kind in (b"IHDR", b"eXIf", b"acTL")
        found[kind] = file.read(length) if wanted and file.seek(at) == at else b""
    if int.from_bytes(found.get(b"acTL", b"")[:4], "big") > 1:
        raise ItemError("unsupported", "an animated PNG: only a single frame is restored")
    width, height, depth, colour = struct.unpack(">IIBB", found[b"IHDR"][:10])
    if colour not in _COLOURS:
        raise ItemError("unreadable", f"PNG colour type {colour} does not exist")
    if exif.orientation(found.get(b"eXIf")) >= 5:
        width, height = height, width
    alpha = colour >= 4 or b"tRNS" in found
    channels = 1 if _COLOURS[colour] == "gray" else 3
    return Header("png", width, height, channels, alpha, 16 if depth == 16 else 8)


def decode(data: bytes) -> Stored:
    """8 or 16 bit gray, gray + alpha, RGB or RGBA, whatever it was stored as; colour keys become alpha."""
    found: dict[bytes, bytes] = {}
    kept, pixels = b"", [memoryview(data)[:8]]
    for kind, at, length in _chunks(BytesIO(data)):
        body = memoryview(data)[at : at + length]
        if data[at + length : at + length + 4] != _checksum(kind, body):
            raise ItemError("unreadable", f"corrupt PNG: the checksum of {kind.decode('latin-1')} is wrong")
        if kind in _PIXELS:
            pixels.append(memoryview(data)[at - 8 : at + length + 4])
        if kind in _KEPT:
            kept += _chunk(kind, bytes(body))
        elif kind != b"IDAT":
            found[kind] = bytes(body)
    depth, colour = found[b"IHDR"][8:10]
    samples = np.asarray(imagecodecs.png_decode(b"".join(pixels)))
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode="bilevel" if (depth, colour) == (1, 0) else _COLOURS[colour],
        orientation=exif.orientation(found.get(b"eXIf")),
        icc=_profile(found.get(b"iCCP")),
        exif=found.get(b"eXIf"),
        dpi=_dpi(found.get(b"pHYs")),
        png_colour=kept,
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """[H, W, S] uint8 or uint16 -> a PNG with the source's profile, EXIF, density and colour chunks."""
    data = bytes(imagecodecs.png_encode(samples[..., 0] if samples.shape[2] == 1 else samples))
    extra = source.png_colour
    if source.icc:
        extra += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(source.icc, 9))
    if source.dpi:
        extra += _chunk(b"pHYs", struct.pack(">IIB", *(round(n / _METRE) for n in source.dpi), 1))
    if source.exif:
        extra += _chunk(b"eXIf", source.exif)
    after_ihdr = 8 + 12 + 13
    return data[:after_ihdr] + extra + data[after_ihdr:]


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Each chunk's name, where its body begins, and how long that is, up to IEND."""
    kind, at = b"", 8
    while kind != b"IEND":
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            raise ItemError("unreadable", "truncated PNG: it ends before its IEND chunk")
        length, kind = struct.unpack(">I4s", head)
        yield kind, at + 8, length
        at += length + 12


def _checksum(kind: bytes, body: bytes | memoryview) -> bytes:
    return struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + _checksum(kind, body)


def _profile(body: bytes | None) -> bytes | None:
    if body is None:
        return None
    unpacker = zlib.decompressobj()
    icc = unpacker.decompress(body[body.index(b"\0") + 2 :], _MAX_ICC)
    if not unpacker.eof:
        raise ItemError("unreadable", "corrupt PNG: its ICC profile does not end")
    return icc


def _dpi(body: bytes | None) -> tuple[float, float] | None:
    if body is None or len(body) != 9 or body[8] != 1:
        return None
    x, y = struct.unpack(">II", body[:8])
    return x * _METRE, y * _METRE
