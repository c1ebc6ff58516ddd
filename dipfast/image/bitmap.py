"""BMP, TGA and GIF: read by Pillow, 8 bits a channel, not written.

A GIF's header is parsed here, because Pillow allocates a frame's memory as soon as it opens the file. A TGA has no
signature, so a file counts as one if no other format fits and its whole header is plausible.
"""

import struct
from io import BytesIO
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.TgaImagePlugin import TgaImageFile

from dipfast.errors import ItemError
from dipfast.image.source import COLOURS, Header, Stored, without_warnings

_MODES = {"1": "bilevel", "L": "gray", "LA": "gray", "P": "palette", "RGB": "rgb", "RGBA": "rgb"}
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)  # bytes
_EMBEDDED = b"DEBM"  # the colour space type of the longest header (V5) for a profile inside the file
_TGA_DEPTHS = {
    1: (8,),
    2: (16, 24, 32),
    3: (8, 16),
    9: (8,),
    10: (16, 24, 32),
    11: (8, 16),
}  # type -> bits a pixel
_TGA_FOOTER = 26  # bytes that Pillow reads from the end of the file
_GIF_IMAGE, _GIF_EXTENSION, _GIF_CONTROL, _GIF_FILLING = 0x2C, 0x21, 0xF9, 0x00


def is_bmp(head: bytes) -> bool:
    """Return whether ``head``, the first bytes of a file, has a BMP's signature and a known size of the DIB header."""
    return head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS


def is_tga(head: bytes) -> bool:
    """Return whether ``head``, the first bytes of a file, makes a plausible TGA header."""
    if len(head) < 18:
        return False
    has_map, kind, map_length, map_depth = head[1], head[2], int.from_bytes(head[5:7], "little"), head[7]
    depth, flags = head[16], head[17]
    mapped = has_map == 1 and map_length > 0 and map_depth in (16, 24, 32)
    has_sides = any(head[12:14]) and any(head[14:16])
    is_known = depth in _TGA_DEPTHS.get(kind, ()) and flags & 0xC0 == 0 and flags & 0x0F in (0, 1, 8)
    return is_known and has_sides and (mapped if kind in (1, 9) else has_map == 0)


def bmp_header(file: BinaryIO) -> Header:
    """Read the header of a BMP; raise what Pillow raises for an unknown layout."""
    picture = _opened(BmpImageFile, file)
    return _header("bmp", picture, picture.mode == "RGBA")


def bmp_decode(data: bytes) -> Stored:
    """Decode a BMP of 1 to 8 bits of gray or palette or 16 to 32 bits of colour, with the profile of a V5 header."""
    picture = _opened(BmpImageFile, BytesIO(data))
    x, y = picture.info.get("dpi", (0.0, 0.0))
    icc = None
    if int.from_bytes(data[14:18], "little") == _BMP_HEADERS[-1] and data[70:74] == _EMBEDDED:
        at, length = struct.unpack("<II", data[126:134])
        icc = data[14 + at : 14 + at + length]
    return _stored(picture, picture.mode == "RGBA", icc=icc, dpi=(x, y) if x and y else None)


def tga_header(file: BinaryIO) -> Header:
    """Read the header of a TGA; raise what Pillow raises for an unknown layout."""
    return _header("tga", _opened(TgaImageFile, file), _tga_has_alpha(file))


def tga_decode(data: bytes) -> Stored:
    """Decode a TGA of gray, colours or a palette, with alpha if the header gives it any bits."""
    file = BytesIO(data.ljust(_TGA_FOOTER, b"\0"))
    return _stored(_opened(TgaImageFile, file), _tga_has_alpha(file))


def gif_header(file: BinaryIO) -> Header:
    """Read the header of a GIF; raise ItemError for an animation and for a file without a picture."""
    file.seek(0)
    found = _gif(file.read())
    return Header("gif", found.width, found.height, 1 if found.is_gray else 3, found.has_alpha, bit_depth=8)


def gif_decode(data: bytes) -> Stored:
    """Decode a GIF to RGB, or to gray if its palette is gray; the transparent colour becomes alpha."""
    found, picture = _gif(data), _opened(GifImageFile, BytesIO(data))
    samples = np.asarray(picture.convert("RGBA" if found.has_alpha else "RGB"))
    if found.is_gray:
        samples = samples[..., [0, 3] if found.has_alpha else [0]]
    return Stored(samples, "gray" if found.is_gray else "palette")


class _Gif(NamedTuple):
    width: int
    height: int
    is_gray: bool
    has_alpha: bool


def _gif(data: bytes) -> _Gif:
    try:
        return _gif_parsed(data)
    except (struct.error, IndexError):
        raise ItemError("unreadable", "truncated GIF: it ends before its picture") from None


def _gif_parsed(data: bytes) -> _Gif:
    """Parse a GIF of one frame, which may be larger than the screen that the header declares."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    palette, at = _gif_palette(data, flags, 13)
    found, has_alpha = None, False
    while at < len(data) and data[at] in (_GIF_IMAGE, _GIF_EXTENSION, _GIF_FILLING):
        kind = data[at]
        if kind == _GIF_IMAGE:
            if found is not None:
                raise ItemError("unsupported", "an animated GIF: only a single frame is restored")
            left, top, across, down, flags = struct.unpack_from("<4HB", data, at + 1)
            own, at = _gif_palette(data, flags, at + 10)
            colours = own or palette
            is_gray = colours[::3] == colours[1::3] == colours[2::3]
            found = _Gif(max(width, left + across), max(height, top + down), is_gray, has_alpha)
            at = _gif_after_blocks(data, at + 1)
        elif kind == _GIF_EXTENSION:
            has_alpha |= data[at + 1] == _GIF_CONTROL and bool(data[at + 3] & 1)
            at = _gif_after_blocks(data, at + 2)
        else:
            at += 1
    if found is None:
        raise IndexError
    return found


def _gif_palette(data: bytes, flags: int, at: int) -> tuple[bytes, int]:
    """Return the palette at ``at``, empty if the flags declare none, and the place after it."""
    end = at + (3 << ((flags & 7) + 1) if flags & 0x80 else 0)
    return data[at:end], end


def _gif_after_blocks(data: bytes, at: int) -> int:
    """Return the place after the chain of blocks at ``at``, each of which begins with its length; the last has 0."""
    while at < len(data) and data[at]:
        at += 1 + data[at]
    return at + 1


def _opened(kind: type[ImageFile], file: BinaryIO) -> ImageFile:
    """Open a file by Pillow's class of one format, without Pillow's registry of formats and its limits."""
    file.seek(0)
    with without_warnings():
        picture = kind(file)
    if picture.mode not in _MODES:
        raise ItemError("unsupported", f"{picture.format} mode {picture.mode}")
    return picture


def _tga_has_alpha(file: BinaryIO) -> bool:
    file.seek(17)
    return bool(file.read(1)[0] & 0x0F) and _opened(TgaImageFile, file).mode in ("LA", "P", "RGBA")


def _header(format: str, picture: ImageFile, has_alpha: bool) -> Header:
    width, height = picture.size
    return Header(format, width, height, COLOURS[_MODES[picture.mode]], has_alpha, bit_depth=8)


def _stored(
    picture: ImageFile, has_alpha: bool, icc: bytes | None = None, dpi: tuple[float, float] | None = None
) -> Stored:
    mode = _MODES[picture.mode]
    wanted = {"bilevel": "L", "gray": "LA" if has_alpha else "L"}.get(mode, "RGBA" if has_alpha else "RGB")
    samples = np.asarray(picture.convert(wanted))
    return Stored(samples.reshape(*samples.shape[:2], -1), mode, icc=icc, dpi=dpi)
