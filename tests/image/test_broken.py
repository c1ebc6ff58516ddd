"""Truncated, empty, lying and hostile files fail alone: an ItemError of one line that names the file."""

import os
import struct
import zlib
from contextlib import suppress
from importlib import import_module
from io import BytesIO

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from dipfast.errors import ItemError, UsageError
from dipfast.image import Limits, probe, read

ARRAY = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)


def pillow(format: str, array: np.ndarray, **options) -> bytes:
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    out = BytesIO()
    PillowImage.fromarray(array).save(out, format, exif=exif, **options)
    return out.getvalue()


def tiff(array: np.ndarray, **options) -> bytes:
    out = BytesIO()
    tifffile.imwrite(out, array, photometric="rgb", rowsperstrip=7, **options)
    return out.getvalue()


FILES = {
    "png": pillow("PNG", ARRAY),
    "jpeg": pillow("JPEG", ARRAY[..., :3]),
    "progressive": pillow("JPEG", ARRAY[..., :3], progressive=True),
    "webp": pillow("WEBP", ARRAY),
    "lossless": pillow("WEBP", ARRAY, lossless=True),
    "avif": pillow("AVIF", ARRAY),
    "tiff": tiff(ARRAY[..., :3]),
    "deflate": tiff(ARRAY[..., :3], compression="zlib", predictor=True),
    "lzw": tiff(ARRAY[..., :3].astype(np.uint16), compression="lzw"),
}


def refused(path, look=read, limits=None) -> ItemError:
    with pytest.raises(ItemError) as caught:
        look(path, limits)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    return caught.value


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_read(tmp_path, name):
    (tmp_path / "x").write_bytes(FILES[name])
    header = probe(tmp_path / "x")
    assert read(tmp_path / "x").pixels.shape == (header.channels, header.height, header.width)


@pytest.mark.parametrize("name", FILES)
def test_truncated_files_are_refused_wherever_they_end(tmp_path, name):
    data = FILES[name]
    end = len(data) - (2 if name in ("jpeg", "progressive") else 0)  # a JPEG may lack its end marker
    cuts = {*range(0, end, max(1, end // 40)), *range(end - 4, end)}
    for length in cuts:
        (tmp_path / "x").write_bytes(data[:length])
        assert refused(tmp_path / "x").kind == "unreadable", length


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_bytes_give_an_image_or_an_item_error(tmp_path, name, changes):
    data = bytearray(FILES[name])
    for where, value in changes:
        data[int(where * len(data))] = value
    (tmp_path / "x").write_bytes(data)
    for look in (probe, read):
        with suppress(ItemError):
            look(tmp_path / "x")


@given(data=st.binary(max_size=300), name=st.sampled_from(sorted(FILES)))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_magic_number_alone_is_no_image(tmp_path, data, name):
    (tmp_path / "x").write_bytes(FILES[name][:16] + data)
    refused(tmp_path / "x")


def png_of_size(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def test_bombs_are_refused_on_the_header_alone(tmp_path, monkeypatch):
    def explode(data: bytes) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(import_module("dipfast.image.read"), "_DECODERS", {"png": explode, "jpeg": explode})
    tall = FILES["jpeg"].index(b"\xff\xc0") + 5
    lying = FILES["jpeg"][:tall] + struct.pack(">HH", 65000, 65000) + FILES["jpeg"][tall + 4 :]
    for data in (png_of_size(100_000, 100_000), lying):
        (tmp_path / "x").write_bytes(data)
        for look in (probe, read):
            error = refused(tmp_path / "x", look)
            assert error.kind == "too-large"
            assert "max_pixels is 64000000" in str(error)


@pytest.mark.parametrize(("width", "height"), [(1, 20_000), (20_000, 1)])
def test_threads_of_pixels_are_refused_by_default(tmp_path, width, height):
    (tmp_path / "x.png").write_bytes(png_of_size(width, height))
    error = refused(tmp_path / "x.png", probe)
    assert f"{width}x{height}" in str(error)
    assert "max_aspect is 1000" in str(error)


@pytest.mark.parametrize(("width", "height"), [(300, 200), (0, 5), (5, 0)])
def test_a_png_that_claims_another_size_is_refused(tmp_path, width, height):
    (tmp_path / "x").write_bytes(png_of_size(width, height))
    assert refused(tmp_path / "x").kind == "unreadable"


@pytest.mark.parametrize("name", ["jpeg", "progressive"])
@pytest.mark.parametrize("rows", [60, 90, 5000])
def test_a_jpeg_that_claims_more_rows_is_refused(tmp_path, name, rows):
    at = FILES[name].index(b"\xff\xc0" if name == "jpeg" else b"\xff\xc2") + 5
    (tmp_path / "x").write_bytes(FILES[name][:at] + struct.pack(">H", rows) + FILES[name][at + 2 :])
    assert "its data end before its last row" in str(refused(tmp_path / "x"))


def test_a_tiff_with_an_absent_strip_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(FILES["deflate"])
    with tifffile.TiffFile(tmp_path / "x", mode="r+b") as file:
        offsets = file.pages[0].tags["StripOffsets"]
        offsets.overwrite([*offsets.value[:-1], 0])
    assert "strip" in str(refused(tmp_path / "x"))


def test_a_tiff_with_a_giant_tile_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x", ARRAY[..., 0], tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(tmp_path / "x", mode="r+b") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages[0].tags[name].overwrite(65520)
    refused(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", "unreadable", "empty"),
        (b"hello, world\n" * 9, "unreadable", "no image"),
        (b"8BPS" + bytes(50), "unsupported", "a psd image"),
        (b"%PDF-1.7", "unsupported", "a pdf image"),
        (b"BM" + bytes(50), "unreadable", "no image"),
    ],
)
def test_what_is_no_accepted_image_is_named(tmp_path, data, kind, reason):
    (tmp_path / "x.png").write_bytes(data)
    error = refused(tmp_path / "x.png", probe)
    assert error.kind == kind
    assert reason in str(error)


def test_the_content_decides_and_not_the_name(tmp_path):
    (tmp_path / "x.png").write_bytes(FILES["jpeg"])
    assert probe(tmp_path / "x.png").format == "jpeg"
    assert read(tmp_path / "x.png").source.format == "jpeg"


def test_limits_are_the_caller_s(tmp_path):
    (tmp_path / "x").write_bytes(FILES["png"])
    assert refused(tmp_path / "x", read, Limits(max_bytes=100)).kind == "too-large"
    assert refused(tmp_path / "x", read, Limits(max_pixels=1199)).kind == "too-large"
    assert refused(tmp_path / "x", read, Limits(max_aspect=1.2)).kind == "too-large"
    assert refused(tmp_path / "x", read, Limits(formats=("jpeg", "tiff"))).kind == "unsupported"
    assert read(tmp_path / "x", Limits(max_pixels=1200)).pixels.shape == (3, 30, 40)


@pytest.mark.parametrize("wrong", [{"max_pixels": 0}, {"max_aspect": 0.5}, {"formats": ("psd",)}])
def test_impossible_limits_are_a_usage_error(wrong):
    with pytest.raises(UsageError):
        Limits(**wrong)


def test_missing_files_folders_and_pipes_are_refused(tmp_path):
    assert "No such file" in str(refused(tmp_path / "absent.png"))
    assert "not a regular file" in str(refused(tmp_path))
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in str(refused(tmp_path / "pipe", probe))


def test_a_link_is_followed(tmp_path):
    (tmp_path / "x").write_bytes(FILES["png"])
    (tmp_path / "link.png").symlink_to(tmp_path / "x")
    assert probe(tmp_path / "link.png").format == "png"


def test_what_tifffile_finds_odd_is_not_logged(tmp_path, caplog):
    data = FILES["tiff"][:8] + bytes([255]) + FILES["tiff"][9:]  # far more tags than there are
    with tifffile.TiffFile(BytesIO(data)) as file:
        assert len(file.pages) > 0
    assert caplog.records
    caplog.clear()
    (tmp_path / "x").write_bytes(data)
    assert read(tmp_path / "x").pixels.shape == (3, 40, 30)
    assert caplog.records == []
