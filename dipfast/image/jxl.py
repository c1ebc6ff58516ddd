"""JPEG XL, read only.

The header is parsed here by ISO/IEC 18181-1, because the decoder, libjxl in imagecodecs, tells no size before it has
decoded. It gives no ICC profile either, so colours other than sRGB, or gray with sRGB's curve, are refused, because
they would change silently. So are animations, previews, and channels beside colours and one alpha. Compressed EXIF
(`brob`) is left out.
"""

from io import BytesIO
from typing import BinaryIO, NamedTuple

import imagecodecs
import numpy as np

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.boxes import boxes
from dipfast.image.samples import spread
from dipfast.image.source import Header, Stored

_CODESTREAM = b"\xff\x0a"
_HEAD = 4096  # bytes that hold the header of any picture that is not refused
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_SIDE = ((1, 9), (1, 13), (1, 18), (1, 30))  # (least, bits) of `_Bits.choice` for a side
_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))  # the same for an enumerated value
_GRAY, _D65, _SRGB_PRIMARIES, _SRGB_CURVE = 1, 1, 1, 13
_ALPHA = 0


class _Metadata(NamedTuple):
    """What the header says."""

    width: int
    height: int
    channels: int = 3
    alpha: str | None = None
    bits: int = 8
    is_float: bool = False


class _Bits:
    """A reader of bits, beginning with the lowest bit of each byte."""

    def __init__(self, data: bytes) -> None:
        self.number, self.left = int.from_bytes(data, "little"), 8 * len(data)

    def take(self, count: int) -> int:
        """Return the next ``count`` bits as a number; raise ItemError at the end of the data."""
        if count > self.left:
            raise ItemError("unreadable", "truncated JPEG XL: it ends in its header")
        value = self.number & ((1 << count) - 1)
        self.number >>= count
        self.left -= count
        return value

    def flag(self) -> bool:
        """Return the next bit."""
        return bool(self.take(1))

    def choice(self, ways: tuple[tuple[int, int], ...]) -> int:
        """Return least + a number of ``bits`` bits, from the pair (least, bits) that the next two bits choose."""
        least, bits = ways[self.take(2)]
        return least + self.take(bits)


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for an animation, a preview, another colour space, or more channels."""
    found = _metadata(_Bits(_codestream(file)))
    depth = 32 if found.is_float else 8 if found.bits <= 8 else 16
    return Header("jxl", found.width, found.height, found.channels, found.alpha is not None, depth)


def decode(data: bytes) -> Stored:
    """Decode the picture, which libjxl turns upright; integers are spread over 8 or 16 bits, floats become float32."""
    found = _metadata(_Bits(_codestream(BytesIO(data))))
    samples = np.asarray(imagecodecs.jpegxl_decode(data, numthreads=1))
    samples = samples.reshape(*samples.shape[:2], -1)
    samples = samples.astype(np.float32) if found.is_float else spread(samples, found.bits)
    return Stored(
        samples=samples,
        mode="gray" if found.channels == 1 else "rgb",
        alpha_kind=found.alpha or "straight",
        exif=_exif(data),
        xmp=_xmp(data),
        lossless=False,
    )


def _codestream(file: BinaryIO) -> bytes:
    """Return the first bytes of the codestream after its signature, whether it is bare or in boxes."""
    file.seek(0)
    if file.read(2) == _CODESTREAM:
        return file.read(_HEAD)
    for box in boxes(file):
        if box.kind in (b"jxlc", b"jxlp"):
            file.seek(box.at + (4 if box.kind == b"jxlp" else 0))
            if file.read(2) == _CODESTREAM:
                return file.read(_HEAD)
    raise ItemError("unreadable", "corrupt JPEG XL: it holds no codestream")


def _exif(data: bytes) -> bytes | None:
    for kind, at, length in boxes(BytesIO(data)) if data[:2] != _CODESTREAM else ():
        if kind == b"Exif" and length > 4:
            begin = at + 4 + int.from_bytes(data[at : at + 4], "big")
            return exif.upright(data[begin : at + length])
    return None


def _xmp(data: bytes) -> bytes | None:
    found = boxes(BytesIO(data)) if data[:2] != _CODESTREAM else ()
    return next((data[box.at : box.at + box.length] for box in found if box.kind == b"xml "), None)


def _metadata(bits: _Bits) -> _Metadata:
    width, height = _size(bits)
    if bits.flag():  # all defaults: 8 bits, sRGB
        return _Metadata(width, height)
    if bits.flag():
        orientation = 1 + bits.take(3)
        if bits.flag():
            _size(bits)  # the intrinsic size, at which it should be shown
        for what in ("a preview", "an animation"):
            if bits.flag():
                raise ItemError("unsupported", f"a JPEG XL with {what}: only a single frame is restored")
        if orientation >= 5:
            width, height = height, width
    depth, is_float = _depth(bits)
    bits.flag()  # whether buffers of 16 bits are enough
    kinds = [_extra(bits) for _ in range(bits.choice(((0, 0), (1, 0), (2, 4), (1, 12))))]
    if len(kinds) > 1 or None in kinds:
        raise ItemError("unsupported", "a JPEG XL with more channels than colours and alpha")
    bits.flag()  # whether the colours are coded as XYB
    return _Metadata(width, height, _colours(bits), kinds[0] if kinds else None, depth, is_float)


def _size(bits: _Bits) -> tuple[int, int]:
    """Return width and height."""
    small = bits.flag()

    def side() -> int:
        return 8 * (1 + bits.take(5)) if small else bits.choice(_SIDE)

    height = side()
    ratio = bits.take(3)
    if ratio == 0:
        return side(), height
    over, under = _RATIOS[ratio]
    return height * over // under, height


def _depth(bits: _Bits) -> tuple[int, bool]:
    is_float = bits.flag()
    depth = bits.choice(((32, 0), (16, 0), (24, 0), (1, 6)) if is_float else ((8, 0), (10, 0), (12, 0), (1, 6)))
    if is_float:
        bits.take(4)
    elif depth > 16:
        raise ItemError("unsupported", f"a JPEG XL of {depth} bits a sample")
    return depth, is_float


def _extra(bits: _Bits) -> str | None:
    """Return the kind of alpha of an extra channel; None if it is no alpha."""
    if bits.flag():
        return "straight"
    kind = bits.choice(_ENUM)
    if kind != _ALPHA:
        return None
    _depth(bits)
    if bits.choice(((0, 0), (3, 0), (4, 0), (1, 3))):
        raise ItemError("unsupported", "a JPEG XL whose alpha is smaller than its colours")
    for _ in range(bits.choice(((0, 0), (0, 4), (16, 5), (48, 10)))):
        bits.take(8)  # the channel's name
    return "premultiplied" if bits.flag() else "straight"


def _colours(bits: _Bits) -> int:
    """Return the number of colour channels; raise ItemError for colours other than sRGB and gray with its curve."""
    if bits.flag():
        return 3
    if bits.flag():
        raise ItemError("unsupported", "a JPEG XL with an ICC profile, which would be lost: convert it to PNG or TIFF")
    space, white = bits.choice(_ENUM), bits.choice(_ENUM)
    primaries = _SRGB_PRIMARIES if space == _GRAY else bits.choice(_ENUM)
    curve = -1 if bits.flag() else bits.choice(_ENUM)
    if space > _GRAY or (white, primaries, curve) != (_D65, _SRGB_PRIMARIES, _SRGB_CURVE):
        raise ItemError("unsupported", "a JPEG XL in another colour space than sRGB: convert it to PNG or TIFF")
    return 1 if space == _GRAY else 3
