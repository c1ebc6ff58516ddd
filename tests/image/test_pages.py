"""A file with previews or smaller copies of a picture is read; one with several pictures is refused."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dipfast.errors import ItemError
from dipfast.image import probe, read, to_array
from dipfast.image.source import Source

RNG = np.random.default_rng(0)
FULL = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)
SMALL = FULL[::4, ::4].copy()


def tiff(path: Path, *pages: tuple[np.ndarray, dict[str, Any]], **options: Any) -> Path:
    with tifffile.TiffWriter(path, **options) as file:
        for array, about in pages:
            file.write(array, **({"photometric": "rgb" if array.ndim == 3 else "minisblack", "metadata": None} | about))
    return path


def held(path: Path) -> tuple[np.ndarray, Source]:
    header, image = probe(path), read(path)
    assert (header.channels, header.height, header.width) == image.pixels.shape
    return to_array(image.pixels, image.source), image.source


def refused(path: Path) -> str:
    for look in (probe, read):
        with pytest.raises(ItemError) as caught:
            look(path)
        assert caught.value.kind == "unsupported"
    return str(caught.value)


REDUCED, MASK = {"subfiletype": 1}, {"subfiletype": 4}
OLD_REDUCED = {"extratags": [(255, 3, 1, 2, True)]}
BITS = np.ones((48, 64), bool)


@pytest.mark.parametrize("bigtiff", [False, True])
@pytest.mark.parametrize(
    ("pages", "notes"),
    [
        ([(FULL, {}), (SMALL, REDUCED)], 0),
        ([(SMALL, REDUCED), (FULL, {})], 0),
        ([(FULL, {}), (SMALL, OLD_REDUCED)], 0),
        ([(FULL, {}), (FULL[:9, :40].copy(), REDUCED), (FULL[:, :9].copy(), {"subfiletype": 9})], 0),  # label, macro
        ([(FULL, {}), (BITS, MASK)], 1),
        ([(FULL, {}), (FULL[::2, ::2].copy(), {}), (SMALL, {})], 1),
        ([(SMALL, {}), (FULL, {})], 1),
        ([(FULL, {"subifds": 2}), (FULL[::2, ::2].copy(), REDUCED), (SMALL, REDUCED)], 0),
        ([(FULL[:47, :63].copy(), {}), (FULL[:23, :31].copy(), {}), (FULL[:12, :16].copy(), {})], 1),  # rounded
    ],
)
def test_previews_masks_and_smaller_copies_are_no_pages(
    tmp_path: Path, pages: list[Any], notes: int, bigtiff: bool
) -> None:
    array, source = held(tiff(tmp_path / "x.tif", *pages, bigtiff=bigtiff))
    np.testing.assert_array_equal(array, max((page for page, _ in pages if page.ndim == 3), key=np.size))
    assert len(source.notes) == notes


@pytest.mark.parametrize(
    "pages",
    [
        [(FULL, {}), (FULL[::-1].copy(), {})],
        [(FULL, {}), (SMALL, REDUCED), (FULL[::-1].copy(), {})],
        [(FULL, {}), (FULL[:40, :48].copy(), {})],  # other proportions
        [(FULL, {}), (FULL[:40, :53].copy(), {})],  # nearly as large
        [(FULL, {}), (SMALL[..., 0].copy(), {})],  # fewer samples
        [(FULL, {"subfiletype": 2}), (FULL[::-1].copy(), {"subfiletype": 2})],
        [(FULL, {}), *[(SMALL, {})] * 70],
    ],
)
def test_two_pictures_in_a_tiff_are_refused(tmp_path: Path, pages: list[Any]) -> None:
    assert f"{len(pages)} pages: only a single one is restored" in refused(tiff(tmp_path / "x.tif", *pages))


def test_a_tiff_of_previews_alone_is_refused(tmp_path: Path) -> None:
    assert "only a preview" in refused(tiff(tmp_path / "x.tif", (SMALL, REDUCED), (SMALL, REDUCED)))


def test_planes_in_one_directory_are_pages(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "x.tif", np.stack([FULL[..., 0]] * 3), imagej=True)
    assert "3 pages" in refused(tmp_path / "x.tif")
    planes = (33629, 5, 3, tuple(range(1, 7)), True)
    tiff(tmp_path / "y.tif", (FULL[..., 0].copy(), {"extratags": [planes]}))
    assert "3 pages" in refused(tmp_path / "y.tif")


def test_the_metadata_are_those_of_the_page_that_is_restored(tmp_path: Path) -> None:
    wrong = {"subfiletype": 1, "description": "preview", "resolution": (9, 9), "resolutionunit": "INCH"}
    right = {"description": "picture", "resolution": (300, 300), "resolutionunit": "INCH"}
    _, source = held(tiff(tmp_path / "x.tif", (SMALL, wrong), (FULL, right)))
    assert source.exif is not None and b"picture" in source.exif and b"preview" not in source.exif
    assert source.dpi == (300, 300)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(3, 200), height=st.integers(3, 200), halvings=st.integers(1, 4), up=st.booleans())
def test_every_level_of_a_pyramid_is_a_copy(tmp_path: Path, width: int, height: int, halvings: int, up: bool) -> None:
    pages = [(np.zeros((height, width), np.uint8), {})]
    for _ in range(halvings):
        width, height = max(1, (width + up) // 2), max(1, (height + up) // 2)
        pages.append((np.zeros((height, width), np.uint8), {}))
    assert held(tiff(tmp_path / "x.tif", *pages))[0].shape == pages[0][0].shape


def one_frame(data: bytes, kind: bytes) -> bytes:
    """Return a WebP animation reduced to its first frame."""
    at, body, kept = 12, b"", 0
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        chunk = data[at : at + 8 + length + length % 2]
        kept += chunk[:4] == kind
        body += chunk if chunk[:4] != kind or kept == 1 else b""
        at += len(chunk)
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def animated(format: str, array: np.ndarray, **options: Any) -> bytes:
    out = io.BytesIO()
    picture = Image.fromarray(array)
    picture.save(out, format, save_all=True, append_images=[picture.rotate(180)], duration=50, **options)
    return out.getvalue()


@pytest.mark.parametrize("channels", [3, 4])
def test_a_webp_animation_of_one_frame_is_a_picture(tmp_path: Path, channels: int) -> None:
    array = np.dstack([FULL, np.full(FULL.shape[:2], 255, np.uint8)])[..., :channels]
    array[0, 0, channels - 1] = 200
    data = one_frame(animated("WEBP", array, lossless=True), b"ANMF")
    (tmp_path / "x").write_bytes(data)
    image, source = held(tmp_path / "x")
    np.testing.assert_array_equal(image, array)
    assert source.lossless
    at = data.index(b"VP8X") + 12
    (tmp_path / "y").write_bytes(data[:at] + (79).to_bytes(3, "little") + data[at + 3 :])
    larger, _ = held(tmp_path / "y")
    np.testing.assert_array_equal(larger[:, :64], array)
    assert not larger[:, 64:].any()
    (tmp_path / "z").write_bytes(data[:at] + (9).to_bytes(3, "little") + data[at + 3 :])
    with pytest.raises(ItemError, match="larger than its canvas"):
        read(tmp_path / "z")


def test_a_webp_animation_without_frames_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(animated("WEBP", FULL).replace(b"ANMF", b"ANMX"))
    assert "0 frames" in refused(tmp_path / "x")


def test_an_avif_sequence_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    data = bytearray(imagecodecs.avif_encode(np.stack([FULL, FULL[::-1]]), level=100))
    for box, at in ((b"stsz", 12), (b"stts", 12), (b"stsc", 16)):
        start = data.index(box) + at
        data[start : start + 4] = struct.pack(">I", 1)
    (tmp_path / "x").write_bytes(data)
    assert np.abs(held(tmp_path / "x")[0].astype(int) - FULL).mean() < 3


def test_an_animated_png_of_one_frame_is_a_picture(tmp_path: Path) -> None:
    data = animated("PNG", FULL)
    at = data.index(b"acTL") + 4
    body = struct.pack(">II", 1, 0)
    checksum = struct.pack(">I", zlib.crc32(b"acTL" + body))
    (tmp_path / "x").write_bytes(data[:at] + body + checksum + data[at + 12 :])
    np.testing.assert_array_equal(held(tmp_path / "x")[0], FULL)


@pytest.mark.parametrize("primary", [0, 1])
def test_of_a_heif_with_several_pictures_the_primary_one_is_restored(tmp_path: Path, primary: int) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = pillow_heif.from_pillow(Image.fromarray(FULL))
    file.add_from_pillow(Image.fromarray(FULL[:32, :40].copy()))
    file.save(tmp_path / "x", primary_index=primary)
    image, source = held(tmp_path / "x")
    assert image.shape == ((48, 64, 3), (32, 40, 3))[primary]
    assert source.notes == ("only the primary one of the HEIF's 2 pictures was restored",)
