"""PNG: samples by libpng in imagecodecs, the other chunks by this module.

Pillow reduces 16-bit RGB to 8 bits, and cannot write it. The checksum of every chunk is verified. libpng gets only the
chunks that hold pixels, because it unpacks texts and profiles without limit, and prints warnings about them.
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
from dipfast.image.colour import Space, of_codes, of_gamma, png_chunk
from dipfast.image.source import Header, Source, Stored

_COLOURS = {0: "gray", 2: "rgb", 3: "palette", 4: "gray", 6: "rgb"}
_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
# Chunks about colour that are carried over, and their lengths in bytes.
_KEPT = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"cICP": 4, b"mDCV": 24, b"cLLI": 8}
_XMP = b"XML:com.adobe.xmp\0"
_MAX_UNPACKED = 1 << 26  # bytes of an unpacked profile or text; a larger one is an attack
_METRES_AN_INCH = 0.0254


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for a broken or animated PNG."""
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
    """Decode to gray or RGB of 8 or 16 bits, with alpha if there is alpha or a transparent colour."""
    found: dict[bytes, bytes] = {}
    kept, pixels, xmp = b"", [memoryview(data)[:8]], None
    for kind, at, length in _chunks(BytesIO(data)):
        body = memoryview(data)[at : at + length]
        if data[at + length : at + length + 4] != _checksum(kind, body):
            raise ItemError("unreadable", f"corrupt PNG: the checksum of {kind.decode('latin-1')} is wrong")
        if kind in _PIXELS:
            pixels.append(memoryview(data)[at - 8 : at + length + 4])
        if length == _KEPT.get(kind):
            kept += _chunk(kind, bytes(body))
        if kind == b"iTXt" and bytes(body[: len(_XMP)]) == _XMP:
            xmp = _text(bytes(body[len(_XMP) :]))
        if kind != b"IDAT":
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
        space=_space(found),
        xmp=xmp,
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """Encode [H, W, S] uint8 or uint16 as a PNG with the source's profile, EXIF, XMP, density and colour chunks."""
    data = bytes(imagecodecs.png_encode(samples[..., 0] if samples.shape[2] == 1 else samples))
    extra = source.png_colour
    if not extra and source.space is not None and (body := png_chunk(source.space)):
        extra = _chunk(b"cICP", body)
    if source.icc:
        extra += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(source.icc, 9))
    if source.dpi:
        extra += _chunk(b"pHYs", struct.pack(">IIB", *(round(n / _METRES_AN_INCH) for n in source.dpi), 1))
    if source.exif:
        extra += _chunk(b"eXIf", source.exif)
    if source.xmp:
        extra += _chunk(b"iTXt", _XMP + bytes(4) + source.xmp)
    after_ihdr = 8 + 12 + 13
    return data[:after_ihdr] + extra + data[after_ihdr:]


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, place and length of the body of each chunk up to IEND; raise ItemError if there is no IEND."""
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
    icc = _unpacked(body[body.index(b"\0") + 2 :])
    if icc is None:
        raise ItemError("unreadable", "corrupt PNG: its ICC profile does not end")
    return icc


def _unpacked(packed: bytes) -> bytes | None:
    unpacker = zlib.decompressobj()
    whole = unpacker.decompress(packed, _MAX_UNPACKED)
    return whole if unpacker.eof else None


def _text(body: bytes) -> bytes | None:
    """Return the text of an iTXt chunk from what follows its keyword; None if it is broken, which harms no pixels."""
    text = body[2:].split(b"\0", 2)[-1]
    try:
        return _unpacked(text) if body[:1] == b"\1" else text
    except zlib.error:
        return None


def _space(found: dict[bytes, bytes]) -> Space | None:
    """Return the colour space by cICP, else by sRGB, else by gAMA and cHRM, which count in units of 1e-5."""
    codes, gamma, corners = (found.get(kind, b"") for kind in (b"cICP", b"gAMA", b"cHRM"))
    if len(codes) == 4:
        return of_codes(codes[0], codes[1])
    if b"sRGB" in found:
        return None
    exponent = int.from_bytes(gamma, "big") if len(gamma) == 4 else 0
    chromaticities = tuple(n / 1e5 for n in struct.unpack(">8I", corners)) if len(corners) == 32 else None
    return of_gamma(chromaticities, 1e5 / exponent if exponent else None)


def _dpi(body: bytes | None) -> tuple[float, float] | None:
    if body is None or len(body) != 9 or body[8] != 1:
        return None
    x, y = struct.unpack(">II", body[:8])
    return x * _METRES_AN_INCH, y * _METRES_AN_INCH
