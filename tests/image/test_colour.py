"""Colours described without an ICC profile keep the description, get a profile, or are reported as lost."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dipfast.image import encode, losses, read
from dipfast.image.boxes import primary_properties
from dipfast.image.colour import ADOBE_RGB, SRGB, Space, of_codes, of_gamma, png_chunk, profile

FLAT = np.full((16, 16, 3), (200, 100, 50), np.uint8)
P3_IN_SRGB = (215, 93, 31)
LINEAR_IN_SRGB = (229, 168, 122)
ADOBE_IN_SRGB = (227, 100, 42)
OUTPUTS = ("png", "jpeg", "tiff", "webp", "avif")


def png(*chunks: tuple[bytes, bytes], array: np.ndarray = FLAT) -> bytes:
    out = io.BytesIO()
    Image.fromarray(array).save(out, "PNG")
    data = out.getvalue()
    extra = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + extra + data[33:]


def chunk_of(chromaticities: tuple[float, ...]) -> tuple[bytes, bytes]:
    return b"cHRM", struct.pack(">8I", *(round(n * 1e5) for n in chromaticities))


def gamma_of(exponent: float) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", round(1e5 / exponent))


def avif(primaries: int, transfer: int, array: np.ndarray = FLAT) -> bytes:
    return bytes(imagecodecs.avif_encode(array, level=100, primaries=primaries, transfer=transfer))


def heif(primaries: int, transfer: int) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    said = {"color_primaries": primaries, "transfer_characteristics": transfer, "matrix_coefficients": 1}
    pillow_heif.from_pillow(Image.fromarray(FLAT)).save(out, quality=-1, chroma=444, **said)
    return out.getvalue()


def jpx(primaries: int, transfer: int) -> bytes:
    data = bytes(imagecodecs.jpeg2k_encode(FLAT, level=0, codecformat="jp2"))
    return data.replace(b"\1\0\0\0\0\0\x10", b"\5\0\0" + struct.pack(">HH", primaries, transfer))


def tiff(chromaticities: tuple[float, ...]) -> bytes:
    parts = [part for n in chromaticities for part in (round(n * 1e4), 10_000)]
    tags = [(318, 5, 2, tuple(parts[:4]), True), (319, 5, 6, tuple(parts[4:]), True)]
    out = io.BytesIO()
    tifffile.imwrite(out, FLAT, photometric="rgb", extratags=tags, metadata=None)
    return out.getvalue()


def adobe_jpeg() -> bytes:
    block = Image.Exif()
    block.get_ifd(0x8769).update({0xA001: 65535, 0xA005: {1: "R03"}})
    out = io.BytesIO()
    Image.fromarray(FLAT).save(out, "JPEG", quality=100, subsampling=0, exif=block)
    return out.getvalue()


AVIF = avif(12, 13)
P3 = of_codes(12, 13).chromaticities  # type: ignore[union-attr]
DESCRIBED: dict[str, tuple[Callable[[], bytes], tuple[int, int, int]]] = {
    "avif": (lambda: avif(12, 13), P3_IN_SRGB),
    "linear avif": (lambda: avif(1, 8), LINEAR_IN_SRGB),
    "heif": (lambda: heif(12, 13), P3_IN_SRGB),
    "jpx": (lambda: jpx(12, 13), P3_IN_SRGB),
    "png cICP": (lambda: png((b"cICP", bytes([12, 13, 0, 1]))), P3_IN_SRGB),
    "png cHRM": (lambda: png(chunk_of(P3)), P3_IN_SRGB),
    "png gAMA": (lambda: png(gamma_of(1)), LINEAR_IN_SRGB),
    "png both": (lambda: png(gamma_of(2.19921875), chunk_of(ADOBE_RGB)), ADOBE_IN_SRGB),
    "tiff": (lambda: tiff(ADOBE_RGB), ADOBE_IN_SRGB),
    "camera": (adobe_jpeg, ADOBE_IN_SRGB),
}


def in_srgb(data: bytes) -> np.ndarray:
    """Return the middle pixel of a file with an ICC profile, in sRGB."""
    with Image.open(io.BytesIO(data)) as picture:
        source = ImageCms.ImageCmsProfile(io.BytesIO(picture.info["icc_profile"]))
        shown = ImageCms.profileToProfile(picture.convert("RGB"), source, ImageCms.createProfile("sRGB"))
        return np.asarray(shown)[8, 8].astype(int)


@pytest.mark.parametrize("format", OUTPUTS)
@pytest.mark.parametrize("name", DESCRIBED)
def test_colours_are_the_same_after_writing(tmp_path: Path, name: str, format: str) -> None:
    make, wanted = DESCRIBED[name]
    (tmp_path / "x").write_bytes(make())
    image = read(tmp_path / "x")
    assert image.source.space is not None
    data = encode(image.pixels, image.source, format)
    assert losses(image.source, format, "rgb") == []
    if format == "png" and name.startswith("png"):
        (tmp_path / "again").write_bytes(data)
        assert read(tmp_path / "again").source.space == image.source.space
    else:
        assert np.abs(in_srgb(data) - wanted).max() <= 4


@pytest.mark.parametrize("make", [avif, heif, jpx])
def test_a_png_names_code_points(tmp_path: Path, make: Callable[[int, int], bytes]) -> None:
    (tmp_path / "x").write_bytes(make(9, 16))
    image = read(tmp_path / "x")
    assert b"cICP" + bytes([9, 16, 0, 1]) in encode(image.pixels, image.source, "png")
    assert losses(image.source, "png", "rgb") == []
    for format in OUTPUTS[1:]:
        (said,) = losses(image.source, format, "rgb")
        assert "(BT.2020, PQ)" in said


@pytest.mark.parametrize(
    "data",
    [
        avif(1, 13),
        avif(1, 1),
        avif(2, 2),
        png(),
        png((b"sRGB", b"\0"), gamma_of(1), chunk_of(P3)),
        png(gamma_of(2.2), chunk_of(SRGB)),
        png((b"cICP", bytes([1, 13, 0, 1]))),
        tiff(SRGB),
    ],
)
def test_what_is_srgb_gets_no_profile(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    image = read(tmp_path / "x")
    assert image.source.space is None
    for format in OUTPUTS:
        assert losses(image.source, format, "rgb") == []
        with Image.open(io.BytesIO(encode(image.pixels, image.source, format))) as written:
            assert "icc_profile" not in written.info


def test_a_tiff_of_srgb_s_primaries_alone_is_srgb() -> None:
    assert of_gamma(SRGB, 2.2) is None
    assert of_gamma(tuple(n + 0.0004 for n in SRGB), None) is None


@pytest.mark.parametrize("format", OUTPUTS)
def test_gray_has_a_curve_and_no_primaries(tmp_path: Path, format: str) -> None:
    (tmp_path / "x").write_bytes(png(gamma_of(1), array=FLAT[..., 1]))
    image = read(tmp_path / "x")
    assert losses(image.source, format, "gray") == []
    (tmp_path / "out").write_bytes(encode(image.pixels, image.source, format))
    again = read(tmp_path / "out")
    if format == "webp":  # the format has no gray
        assert abs(again.pixels.mean() * 255 - LINEAR_IN_SRGB[1]) < 3
    elif format != "png":
        assert again.source.icc is not None and again.source.icc[16:20] == b"GRAY"
    (tmp_path / "x").write_bytes(avif(12, 13, FLAT[..., 1]))
    assert losses(read(tmp_path / "x").source, format, "gray") == []


def test_a_profile_wins_over_a_description(tmp_path: Path) -> None:
    icc = bytes(imagecodecs.cms_profile("adobergb"))
    body = b"p\0\0" + zlib.compress(icc)
    (tmp_path / "x").write_bytes(png((b"iCCP", body), gamma_of(1)))
    image = read(tmp_path / "x")
    assert b"ICC_PROFILE" in encode(image.pixels, image.source, "jpeg")
    assert image.source.icc == icc


@pytest.mark.parametrize("corners", [(0.0,) * 8, (0.3,) * 8, (1.0, 0.0) * 4])
def test_impossible_primaries_are_told_of(corners: tuple[float, ...]) -> None:
    space = of_gamma(corners, 1.8)
    assert space is not None
    if profile(space, "rgb") is None:
        from dipfast.image import Source

        assert "primaries of its own" in losses(Source("png", "rgb", 8, space=space), "jpeg", "rgb")[0]


@settings(max_examples=200, deadline=None)
@given(primaries=st.integers(0, 70_000), transfer=st.integers(0, 70_000))
def test_any_code_points_are_srgb_a_profile_a_chunk_or_nothing(primaries: int, transfer: int) -> None:
    space = of_codes(primaries, transfer)
    if space is None:
        return
    assert space.name and isinstance(space, Space)
    made = profile(space, "rgb")
    assert made is None or made[36:40] == b"acsp"
    assert len(png_chunk(space)) == (4 if max(primaries, transfer) < 256 else 0)


def test_the_same_space_gives_the_same_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    space = of_codes(12, 13)
    assert space is not None
    first = profile(space, "rgb")
    assert first is not None and first[24:36] == struct.pack(">6H", 2000, 1, 1, 0, 0, 0)
    assert profile(space, "rgb") == first


def test_a_description_is_that_of_the_primary_picture(tmp_path: Path) -> None:
    """In an AVIF, alpha is a picture with its own properties."""
    array = np.dstack([FLAT, np.full((16, 16), 9, np.uint8)])
    (tmp_path / "x").write_bytes(avif(12, 13, array))
    source = read(tmp_path / "x").source
    assert source.space is not None and source.space.codes == (12, 13)


@settings(max_examples=300, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 330), st.integers(0, 255)), max_size=4), length=st.integers(0, 400))
def test_broken_boxes_have_some_properties_or_none(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(AVIF[:length])
    for at, value in changes:
        if at < len(data):
            data[at] = value
    for box in primary_properties(io.BytesIO(bytes(data))):
        assert 0 <= box.at <= box.at + box.length <= len(data)


def test_broken_chunks_of_a_png_describe_nothing(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(png((b"cICP", b"\1"), (b"gAMA", b"\0\0\0\0"), (b"cHRM", b"x")))
    assert read(tmp_path / "x").source.space is None


def test_a_curve_of_a_tiff_s_own_is_told_of(tmp_path: Path) -> None:
    curve = (301, 3, 256, tuple(range(0, 65536, 256)), True)
    tifffile.imwrite(tmp_path / "x", FLAT[..., 0], extratags=[curve], metadata=None)
    assert "TransferFunction" in read(tmp_path / "x").source.notes[0]
