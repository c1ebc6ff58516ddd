"""Sides, density, geographic position and XMP fit the written picture, which may be turned or enlarged."""

from __future__ import annotations

import io
import re
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.TiffImagePlugin import IFDRational

from dipfast.image import Source, encode, losses, read
from dipfast.image.exif import EXIF, INTEROPERABILITY, entries, upright
from dipfast.image.measures import fitted, turned

OUTPUTS = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF", "webp": "WEBP", "avif": "AVIF"}
ARRAY = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)


def exif_block(orientation: int = 1, order: str = ">") -> bytes:
    exif = Image.Exif()
    exif.endian = order
    exif[0x0112] = orientation
    exif[0x011A], exif[0x011B], exif[0x0128] = 300.0, 150.0, 2
    exif[0x0100], exif[0x0101] = 48, 32
    inside = {
        0xA002: 48,
        0xA003: 32,
        0xA20E: IFDRational(1000),
        0xA20F: IFDRational(500),
        0x9214: (10, 5, 4, 2),
        0xA214: (10, 5),
    }
    exif[0x8769] = inside | {0xA005: {0x1001: 48, 0x1002: 32}}
    return exif.tobytes()[6:]


def photograph(path: Path, orientation: int, **options: Any) -> Path:
    Image.fromarray(ARRAY).save(path, "JPEG", exif=b"Exif\0\0" + exif_block(orientation), **options)
    return path


def enlarged(image: Any, scale: int) -> np.ndarray:
    return np.ascontiguousarray(image.pixels.repeat(scale, 1).repeat(scale, 2))


def told(block: bytes) -> dict[tuple[int, int], tuple[float, ...]]:
    """Return the values of an EXIF block as numbers."""
    order = "<" if block[:2] == b"II" else ">"
    found = {}
    for name, entry in entries(block).items():
        if entry.kind in (3, 4):
            found[name] = struct.unpack(f"{order}{entry.number}{'H' if entry.kind == 3 else 'I'}", entry.value)
        elif entry.kind == 5:
            parts = struct.unpack(f"{order}{2 * entry.number}I", entry.value)
            found[name] = tuple(over / under for over, under in zip(parts[::2], parts[1::2], strict=True))
    return found


@pytest.mark.parametrize("format", OUTPUTS)
@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_says_the_sides_of_the_written_picture(tmp_path: Path, orientation: int, scale: int, format: str) -> None:
    image = read(photograph(tmp_path / "x", orientation))
    data = encode(enlarged(image, scale), image.source, format)
    with Image.open(io.BytesIO(data)) as written:
        inside = written.getexif().get_ifd(0x8769)
        assert (inside[0xA002], inside[0xA003]) == written.size
        related = written.getexif().get_ifd(0xA005)
        assert (related[0x1001], related[0x1002]) == written.size


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("orientation", "scale"), [(1, 1), (1, 4), (3, 1), (6, 1), (8, 2)])
def test_densities_and_the_subject_follow(order: str, orientation: int, scale: int) -> None:
    stored = exif_block(orientation, order)
    height, width = (48, 32) if orientation >= 5 else (32, 48)
    block = turned(upright(stored), orientation, height, width)
    assert block is not None
    source = fitted(Source("jpeg", "rgb", 8, exif=block, size=(height, width)), height * scale, width * scale)
    assert source.exif is not None
    said = told(source.exif)
    dpi, sensor = ((150, 300), (500, 1000)) if orientation >= 5 else ((300, 150), (1000, 500))
    assert (said[0, 0x011A], said[0, 0x011B]) == ((dpi[0] * scale,), (dpi[1] * scale,))
    assert (said[EXIF, 0xA20E], said[EXIF, 0xA20F]) == ((sensor[0] * scale,), (sensor[1] * scale,))
    x, y = {1: (10, 5), 3: (37, 26), 6: (26, 10), 8: (5, 37)}[orientation]
    across, down = (2, 4) if orientation >= 5 else (4, 2)
    assert said[EXIF, 0x9214] == (x * scale, y * scale, across * scale, down * scale)
    assert said[EXIF, 0xA214] == (x * scale, y * scale)
    assert said[INTEROPERABILITY, 0x1001] == (width * scale,)


def test_a_side_that_has_no_room_in_a_short_becomes_a_long() -> None:
    source = Source("jpeg", "rgb", 8, exif=upright(exif_block()), size=(32, 48))
    made = fitted(source, 100_000, 70_000).exif
    assert made is not None
    assert (told(made)[EXIF, 0xA002], told(made)[EXIF, 0xA003]) == ((70_000,), (100_000,))


def test_sides_that_were_not_said_are_not_said_after(tmp_path: Path) -> None:
    block = Image.Exif()
    block[0x010F] = "a maker"
    Image.fromarray(ARRAY).save(tmp_path / "x", "JPEG", exif=block)
    image = read(tmp_path / "x")
    assert fitted(image.source, 64, 96).exif == image.source.exif


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), min_size=1, max_size=6),
    order=st.sampled_from("<>"),
    orientation=st.integers(1, 8),
)
def test_damaged_exif_keeps_its_length_and_never_fails(
    changes: list[tuple[int, int]], order: str, orientation: int
) -> None:
    block = bytearray(exif_block(orientation, order))
    for where, value in changes:
        block[where % len(block)] = value
    made = turned(upright(bytes(block)), orientation, 48, 32)
    source = fitted(Source("jpeg", "rgb", 8, exif=made, size=(48, 32)), 96, 64)
    assert made is None or (source.exif is not None and len(source.exif) == len(block))
    assert encode(np.zeros((3, 96, 64), np.float32), source, "tiff")


@pytest.mark.parametrize("format", ["png", "jpeg", "tiff"])
@pytest.mark.parametrize(("orientation", "wanted"), [(1, (600, 300)), (6, (300, 600))])
def test_dots_per_inch_follow(tmp_path: Path, format: str, orientation: int, wanted: tuple[int, int]) -> None:
    image = read(photograph(tmp_path / "x", orientation, dpi=(300, 150)))
    (tmp_path / "out").write_bytes(encode(enlarged(image, 2), image.source, format))
    assert read(tmp_path / "out").source.dpi == pytest.approx(wanted, abs=0.1)


def test_a_density_that_a_jpeg_cannot_hold_is_told_of() -> None:
    source = Source("tiff", "rgb", 8, dpi=(254_000.0, 254_000.0))
    assert "65535 dots per inch" in losses(source, "jpeg", "rgb")[0]
    assert encode(np.zeros((3, 4, 5), np.float32), source, "jpeg")
    assert losses(source, "png", "rgb") == []


XMP = b"""<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?><x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF>
<rdf:Description tiff:Orientation="6" tiff:ImageWidth='48' exif:PixelXDimension = "48" dc:title="\xc3\xa4 title">
<tiff:ImageLength>32</tiff:ImageLength><exif:PixelYDimension> 32</exif:PixelYDimension><xmp:Rating>5</xmp:Rating>
<xmp:Thumbnails><rdf:Alt><rdf:li xmpGImg:image="/9j/secret"/></rdf:Alt></xmp:Thumbnails></rdf:Description></rdf:RDF>
</x:xmpmeta><?xpacket end='w'?>"""


def with_xmp(path: Path, format: str, packet: bytes) -> Path:
    if format == "png":
        from PIL.PngImagePlugin import PngInfo

        about = PngInfo()
        about.add_itxt("XML:com.adobe.xmp", packet.decode(), zip=len(packet) > 2000)
        Image.fromarray(ARRAY).save(path, "PNG", pnginfo=about)
    elif format == "tiff":
        extra = [(700, 1, len(packet), packet, True)]
        tifffile.imwrite(path, ARRAY, photometric="rgb", extratags=extra, metadata=None)
    else:
        Image.fromarray(ARRAY).save(path, OUTPUTS[format], xmp=packet)
    return path


@pytest.mark.parametrize("out", OUTPUTS)
@pytest.mark.parametrize("into", OUTPUTS)
def test_xmp_goes_from_any_format_to_any_and_says_what_is_written(tmp_path: Path, into: str, out: str) -> None:
    image = read(with_xmp(tmp_path / "x", into, XMP))
    assert image.source.xmp == XMP
    (tmp_path / "out").write_bytes(encode(enlarged(image, 2), image.source, out))
    written = read(tmp_path / "out").source.xmp
    assert written is not None
    assert b"\xc3\xa4 title" in written and b"<xmp:Rating>5<" in written and b"secret" not in written
    assert re.findall(rb"(?:tiff|exif):(\w+)[ ='\">]+([0-9]+)", written) == [
        (b"Orientation", b"1"),
        (b"ImageWidth", b"96"),
        (b"PixelXDimension", b"96"),
        (b"ImageLength", b"64"),
        (b"PixelYDimension", b"64"),
    ]
    assert losses(image.source, out, "rgb") == []


@pytest.mark.parametrize("packet", [b"<x hdrgm:Version='1.0'/>", b"<Container:Directory/>", b"x" * 70_000])
def test_xmp_that_cannot_be_carried_is_told_of(tmp_path: Path, packet: bytes) -> None:
    image = read(with_xmp(tmp_path / "x", "png", packet))
    assert "XMP" in losses(image.source, "jpeg", "rgb")[0]
    assert packet not in encode(image.pixels, image.source, "jpeg")


def test_a_packet_that_unpacks_to_far_more_than_it_is_costs_only_itself(tmp_path: Path) -> None:
    import zlib

    body = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes((1 << 26) + 9))
    data = encode(np.zeros((3, 4, 5), np.float32), Source("png", "rgb", 8), "png")
    chunk = struct.pack(">I", len(body)) + b"iTXt" + body + struct.pack(">I", zlib.crc32(b"iTXt" + body))
    for broken in (chunk, chunk.replace(b"\1\0\0\0x", b"\1\0\0\0y")[:-4] + b"\0\0\0\0"):
        (tmp_path / "x").write_bytes(data[:33] + broken + data[33:])
        if broken is chunk:
            assert read(tmp_path / "x").source.xmp is None


KEYS = (1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, 1)  # projected, pixel is area
TIES = (0.0, 0.0, 0.0, 500_000.0, 4_000_000.0, 0.0)
GEO = [
    (33550, 12, 3, (10.0, 20.0, 0.0), True),
    (33922, 12, 6, TIES, True),
    (34735, 3, len(KEYS), KEYS, True),
    (34736, 12, 1, (6378137.0,), True),
    (34737, 2, 0, "WGS 84|", True),
    (42112, 2, 0, b"<GDALMetadata>\xc3\xa4</GDALMetadata>", True),
    (42113, 2, 0, "-9999", True),
    (33723, 7, 12, b"\x1c\x02\x78\0\7caption", True),
]


def geotiff(path: Path, tags: list[Any], **options: Any) -> Path:
    tifffile.imwrite(path, ARRAY, photometric="rgb", extratags=tags, metadata=None, **options)
    return path


def tags_of(data: bytes) -> dict[int, Any]:
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        return {tag.code: tag.value for tag in file.pages[0].tags.values()}


@pytest.mark.parametrize("with_exif", [False, True])
@pytest.mark.parametrize("options", [{}, {"byteorder": ">"}, {"bigtiff": True}])
def test_the_tags_of_a_geotiff_come_back(tmp_path: Path, options: dict[str, Any], with_exif: bool) -> None:
    about = {"description": "a field"} if with_exif else {}
    image = read(geotiff(tmp_path / "x", GEO, **options, **about))
    written = tags_of(encode(image.pixels, image.source, "tiff"))
    before = tags_of((tmp_path / "x").read_bytes())
    for code, *_ in GEO:
        assert written[code] == before[code]
    assert losses(image.source, "tiff", "rgb") == []


def place(tags: dict[int, Any], column: float, row: float) -> tuple[float, float]:
    """Return the ground coordinates of a point of the raster, counted from the corner of the first pixel."""
    half = 0.5 if tags[34735][11] == 2 else 0.0
    column, row = column - half, row - half
    if 34264 in tags:
        m = tags[34264]
        return m[0] * column + m[1] * row + m[3], m[4] * column + m[5] * row + m[7]
    i, j, _, x, y, _ = tags[33922]
    return x + (column - i) * tags[33550][0], y - (row - j) * tags[33550][1]


@pytest.mark.parametrize("is_point", [False, True])
@pytest.mark.parametrize("by_matrix", [False, True])
@pytest.mark.parametrize("scale", [2, 4])
def test_an_enlarged_geotiff_lies_where_it_lay(tmp_path: Path, scale: int, by_matrix: bool, is_point: bool) -> None:
    keys = (34735, 3, len(KEYS), (*KEYS[:-1], 1 + is_point), True)
    matrix = (3.0, 0.5, 0.0, 100.0, 0.25, -4.0, 0.0, 200.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
    ties = (33922, 12, 6, (5.0, 7.0, *TIES[2:]), True)
    tags = [keys, (34264, 12, 16, matrix, True)] if by_matrix else [GEO[0], ties, keys]
    image = read(geotiff(tmp_path / "x", tags))
    before = tags_of((tmp_path / "x").read_bytes())
    after = tags_of(encode(enlarged(image, scale), image.source, "tiff"))
    for column, row in ((0, 0), (48, 32), (10, 3)):
        assert place(after, column * scale, row * scale) == pytest.approx(place(before, column, row))


def test_other_formats_say_that_they_hold_no_geotiff(tmp_path: Path) -> None:
    image = read(geotiff(tmp_path / "x", GEO))
    for format in ("png", "jpeg", "webp", "avif"):
        assert losses(image.source, format, "rgb") == [
            f"{format} holds no GeoTIFF tags, so they were left out; a template ending in .tif keeps them"
        ]
    assert losses(read(geotiff(tmp_path / "y", GEO[-1:])).source, "png", "rgb") == []


def test_a_geotiff_that_is_turned_loses_its_place_and_says_so(tmp_path: Path) -> None:
    image = read(geotiff(tmp_path / "x", [*GEO, (274, 3, 1, 6, True)]))
    assert image.source.notes == ("the picture was turned upright, so its GeoTIFF tags were left out",)
    written = tags_of(encode(image.pixels, image.source, "tiff"))
    assert 33550 not in written and 33723 in written


def test_broken_geotiff_tags_cost_no_picture(tmp_path: Path) -> None:
    broken = [(33550, 12, 1, (1.0,), True), (33922, 3, 2, (1, 2), True), (34735, 3, 3, (1025, 0, 1), True)]
    image = read(geotiff(tmp_path / "x", broken))
    assert encode(enlarged(image, 2), image.source, "tiff")


@pytest.mark.parametrize(("unit", "across"), [("micron", 9.5), ("nm", 0.25), (r"\u00B5m", 3.0), ("mm", 40.0)])
@pytest.mark.parametrize("scale", [1, 2])
def test_the_size_of_a_pixel_under_the_microscope_is_kept(tmp_path: Path, unit: str, across: float, scale: int) -> None:
    about = {"unit": unit, "min": 1.0}
    tifffile.imwrite(tmp_path / "x", ARRAY[..., 0], imagej=True, resolution=(across, across), metadata=about)
    image = read(tmp_path / "x")
    (tmp_path / "out.png").write_bytes(encode(enlarged(image, scale), image.source, "png"))
    per_inch = across * scale * {"micron": 25_400, "nm": 25_400_000, "mm": 25.4}.get(unit, 25_400)
    assert read(tmp_path / "out.png").source.dpi == pytest.approx((per_inch, per_inch), rel=1e-3)
    (tmp_path / "out.tif").write_bytes(encode(enlarged(image, scale), image.source, "tiff"))
    with tifffile.TiffFile(tmp_path / "out.tif") as file:
        assert file.pages[0].get_resolution() == pytest.approx((across * scale, across * scale))
        assert (file.imagej_metadata or {})["unit"] == unit.replace(r"\u00B5", "u")


def test_a_length_without_a_known_unit_is_no_density(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x", ARRAY[..., 0], imagej=True, resolution=(3, 3), metadata={"unit": "pixel"})
    assert read(tmp_path / "x").source.dpi is None
