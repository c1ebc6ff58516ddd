"""Sizes, densities and geographic positions in EXIF, XMP and TIFF tags, adapted to the picture that is written.

A picture is turned upright when it is read, and may be enlarged. Metadata in pixels, per unit of length or per unit of
ground are changed accordingly. Maker notes and other private data of programs stay unchanged.
"""

import re
import struct
from dataclasses import replace
from fractions import Fraction
from typing import Any

from dipfast.image import exif
from dipfast.image.source import Source, Tag

_EXIF, _INTEROPERABILITY = exif.EXIF, exif.INTEROPERABILITY
# Pairs of directory and tag.
_WIDTHS = ((0, 0x0100), (_EXIF, 0xA002), (_INTEROPERABILITY, 0x1001))
_HEIGHTS = ((0, 0x0101), (_EXIF, 0xA003), (_INTEROPERABILITY, 0x1002))
_DENSITIES = (((0, 0x011A), (0, 0x011B)), ((_EXIF, 0xA20E), (_EXIF, 0xA20F)))  # x and y, of the file and of the sensor
_PLACES = ((_EXIF, 0x9214), (_EXIF, 0xA214))  # position of the subject, x and y, and its size
_MOST = (1 << 32) - 1  # largest number of 32 bits

_PIXEL_SCALE, _TIEPOINTS, _TRANSFORMATION, _GEO_KEYS = 33550, 33922, 34264, 34735
GEO_TAGS = (_PIXEL_SCALE, _TIEPOINTS, _TRANSFORMATION, _GEO_KEYS, 34736, 34737, 42112, 42113)  # the last two are GDAL's
_RASTER_TYPE, _IS_POINT = 1025, 2
_DOUBLE = 12  # TIFF's number of the data type

_FOREIGN = (  # names in XMP for parts of a file that are not restored
    b"hdrgm:",
    b"Container:Directory",
    b"GCamera:MicroVideo",
    b"GCamera:MotionPhoto",
    b"GImage:Data",
    b"GDepth:Data",
)
_XMP_TEXT = rb"(%b(?:\s*=\s*[\"']|>)\s*)[0-9]+"
_XMP_WIDTHS = (b"tiff:ImageWidth", b"exif:PixelXDimension")
_XMP_HEIGHTS = (b"tiff:ImageLength", b"exif:PixelYDimension")
_XMP_PREVIEWS = re.compile(rb"<xmp:Thumbnails>.*?</xmp:Thumbnails>", re.DOTALL)


def turned(block: bytes | None, orientation: int, height: int, width: int) -> bytes | None:
    """Return an EXIF block with densities and the subject's position turned by ``orientation``, as the picture was.

    ``height`` and ``width`` are those of the upright picture in pixels.
    """
    if block is None or orientation == 1:
        return block
    return _edited(block, lambda data, found: _turn(data, found, orientation, height, width))


def fitted(source: Source, height: int, width: int) -> Source:
    """Return the source with its metadata adapted to a picture that is written as [height, width]."""
    full_height, full_width = source.size or (height, width)
    x, y = Fraction(width, full_width), Fraction(height, full_height)
    return replace(
        source,
        exif=source.exif and _edited(source.exif, lambda data, found: _resize(data, found, height, width, (x, y))),
        dpi=source.dpi and (float(source.dpi[0] * x), float(source.dpi[1] * y)),
        xmp=source.xmp and _resized_xmp(source.xmp, height, width),
        tags=tuple(_resized_tag(tag, float(x), float(y), _is_point(source.tags)) for tag in source.tags),
    )


def is_foreign(packet: bytes) -> bool:
    """Return whether an XMP packet describes parts of its file that are not restored: gain maps, videos, depth maps."""
    return any(mark in packet for mark in _FOREIGN)


def _edited(block: bytes, edit: Any) -> bytes:
    """Return the block after ``edit(data, entries)``; unchanged if it is broken or would be broken by that."""
    data = bytearray(block)
    try:
        edit(data, exif.entries(block))
        exif.entries(data)
    except (ValueError, struct.error):
        return block
    return bytes(data)


def _turn(data: bytearray, found: dict, orientation: int, height: int, width: int) -> None:
    for x, y in _DENSITIES if orientation >= 5 else ():
        if x in found and y in found and len(found[x].value) == len(found[y].value) == 8:
            data[found[x].at : found[x].at + 8] = found[y].value
            data[found[y].at : found[y].at + 8] = found[x].value
    for place in _PLACES:
        numbers = _integers(data, found.get(place))
        if len(numbers) >= 2:
            if orientation >= 5:
                numbers = [numbers[1], numbers[0], *reversed(numbers[2:])]
            if orientation in (3, 4, 7, 8):
                numbers[1] = max(0, height - 1 - numbers[1])
            if orientation in (2, 3, 6, 7):
                numbers[0] = max(0, width - 1 - numbers[0])
            _put(data, found[place], numbers)


def _resize(data: bytearray, found: dict, height: int, width: int, scales: tuple[Fraction, Fraction]) -> None:
    order = exif.byte_order(data)
    for side, names in ((width, _WIDTHS), (height, _HEIGHTS)):
        for name in names:
            if len(_integers(data, found.get(name))) == 1:
                struct.pack_into(order + "H", data, found[name].at - 6, 4)  # 4 is the data type of 32 bits
                struct.pack_into(order + "I", data, found[name].at, side)
    for pair in _DENSITIES:
        for name, scale in zip(pair, scales, strict=True):
            if name in found and found[name].kind == 5 and found[name].number == 1:
                over, under = struct.unpack(order + "II", found[name].value)
                value = Fraction(over, max(1, under)) * scale
                if max(value.numerator, value.denominator) > _MOST:
                    value = value.limit_denominator(1000)
                if under and value.numerator <= _MOST:
                    struct.pack_into(order + "II", data, found[name].at, value.numerator, value.denominator)
    for place in _PLACES:
        numbers = _integers(data, found.get(place))
        if len(numbers) >= 2:
            _put(data, found[place], [int(n * scales[k % 2]) for k, n in enumerate(numbers)])


def _integers(data: bytes | bytearray, entry: exif.Entry | None) -> list[int]:
    if entry is None or entry.kind not in (3, 4):
        return []
    return list(struct.unpack(f"{exif.byte_order(data)}{entry.number}{'H' if entry.kind == 3 else 'I'}", entry.value))


def _put(data: bytearray, entry: exif.Entry, numbers: list[int]) -> None:
    most = 0xFFFF if entry.kind == 3 else _MOST
    code = f"{exif.byte_order(data)}{entry.number}{'H' if entry.kind == 3 else 'I'}"
    struct.pack_into(code, data, entry.at, *(min(n, most) for n in numbers))


def _resized_xmp(packet: bytes, height: int, width: int) -> bytes:
    """Return an XMP packet with orientation 1 and the given sides, and without previews of the old picture."""
    packet = _XMP_PREVIEWS.sub(b"", packet)
    values = {b"tiff:Orientation": 1, **dict.fromkeys(_XMP_WIDTHS, width), **dict.fromkeys(_XMP_HEIGHTS, height)}
    for name, value in values.items():
        packet = re.sub(_XMP_TEXT % name, rb"\g<1>%d" % value, packet)
    return packet


def _is_point(tags: tuple[Tag, ...]) -> bool:
    """Return whether a GeoTIFF's coordinates begin at the middle of the first pixel, and not at its corner."""
    keys = next((tag.value for tag in tags if tag.code == _GEO_KEYS and isinstance(tag.value, tuple)), ())
    return any(
        keys[at : at + 2] == (_RASTER_TYPE, 0) and keys[at + 3] == _IS_POINT for at in range(4, len(keys) - 3, 4)
    )


def _resized_tag(tag: Tag, x: float, y: float, is_point: bool) -> Tag:
    """Return a GeoTIFF tag for a picture that is x times as wide and y times as high."""
    value = tag.value
    if tag.kind != _DOUBLE or not isinstance(value, tuple) or (x, y) == (1, 1):
        return tag
    left, top = ((x - 1) / 2, (y - 1) / 2) if is_point else (0.0, 0.0)  # new place of the middle of the old first pixel
    if tag.code == _PIXEL_SCALE and len(value) == 3:
        return tag._replace(value=(value[0] / x, value[1] / y, value[2]))
    if tag.code == _TIEPOINTS:
        new = [n * (x, y)[k % 6] + (left, top)[k % 6] if k % 6 < 2 else n for k, n in enumerate(value)]
        return tag._replace(value=tuple(new))
    if tag.code == _TRANSFORMATION and len(value) == 16:
        rows = [list(value[at : at + 4]) for at in range(0, 16, 4)]
        for row in rows[:3]:
            row[0], row[1] = row[0] / x, row[1] / y
            row[3] -= row[0] * left + row[1] * top
        return tag._replace(value=tuple(n for row in rows for n in row))
    return tag
