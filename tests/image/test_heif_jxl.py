"""HEIF and JPEG XL are read with their depth, size, alpha and profile; what cannot be read right is refused."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipfast.errors import DipfastError, ItemError, UsageError
from dipfast.image import Limits, format_of, jxl, probe, read
from dipfast.manifest import parse

RNG = np.random.default_rng(0)
ARRAY = RNG.integers(0, 256, (12, 17, 4), dtype=np.uint8)
SHAPES = {"gray": (12, 17), "gray + alpha": (12, 17, 2), "rgb": (12, 17, 3), "rgba": (12, 17, 4)}


def encoded(array: np.ndarray, **options: object) -> bytes:
    data = bytes(imagecodecs.jpegxl_encode(array, lossless=True, **options))
    return data if array.dtype == np.uint8 else in_srgb(data)


def in_srgb(data: bytes) -> bytes:
    """Mark samples as sRGB (curve 13), because imagecodecs marks those of more than 8 bits as linear (curve 8)."""
    start = data.index(b"\xff\x0a") + 2
    head = int.from_bytes(data[start : start + 40], "little")
    for at in range(320):
        changed = head ^ ((6 ^ 11) << at)
        tried = data[:start] + changed.to_bytes(40, "little") + data[start + 40 :] if changed < 1 << 320 else data
        with suppress(ItemError):
            if head >> at & 15 == 6 and jxl.header(io.BytesIO(tried)):
                return tried
    raise AssertionError("no linear curve was found")


@pytest.mark.parametrize("container", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("name", SHAPES)
def test_a_jpeg_xl_is_read_to_the_bit(tmp_path: Path, name: str, dtype: type, container: bool) -> None:
    full = 1 if dtype == np.float32 else np.iinfo(dtype).max  # type: ignore[type-var]
    array = (RNG.random(SHAPES[name]) * full).astype(dtype)
    (tmp_path / "x").write_bytes(encoded(array, usecontainer=container))
    planes = array.reshape(12, 17, -1)
    colours = 1 if planes.shape[2] < 3 else 3
    header, image = probe(tmp_path / "x"), read(tmp_path / "x")
    alpha = planes.shape[2] > colours
    depth = 32 if dtype == np.float32 else 8 * array.itemsize
    assert (header.format, header.width, header.height) == ("jxl", 17, 12)
    assert (header.channels, header.alpha, header.bit_depth) == (colours, alpha, depth)
    assert np.allclose(image.pixels, np.moveaxis(planes[..., :colours] / np.float32(full), 2, 0), atol=1e-7)
    assert (image.source.alpha is not None) is alpha
    if image.source.alpha is not None:
        assert np.array_equal(image.source.alpha, planes[..., -1])


@pytest.mark.parametrize("bits", [10, 12])
def test_a_jpeg_xl_of_few_bits_is_spread_over_sixteen(tmp_path: Path, bits: int) -> None:
    array = RNG.integers(0, 1 << bits, (12, 17, 3)).astype(np.uint16)
    (tmp_path / "x").write_bytes(encoded(array, bitspersample=bits))
    assert probe(tmp_path / "x").bit_depth == 16
    wanted = np.moveaxis(array, 2, 0) / np.float32((1 << bits) - 1)
    assert np.abs(read(tmp_path / "x").pixels - wanted).max() < 2e-5


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (256, 256), (64, 96), (300, 500), (9, 2000)])
def test_every_way_to_write_a_size_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "x").write_bytes(encoded(np.zeros(size, np.uint8)))
    header = probe(tmp_path / "x")
    assert (header.height, header.width) == size


def test_deep_samples_in_linear_light_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(imagecodecs.jpegxl_encode(ARRAY[..., :3].astype(np.uint16), lossless=True)))
    with pytest.raises(ItemError, match="another colour space than sRGB"):
        read(tmp_path / "x")


def test_a_lossy_jpeg_xl_is_read(tmp_path: Path) -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 64).astype(np.uint8)[:, None, None], (64, 64, 3))
    (tmp_path / "x").write_bytes(bytes(imagecodecs.jpegxl_encode(np.ascontiguousarray(smooth), level=95)))
    assert np.abs(read(tmp_path / "x").pixels[0] * 255 - smooth[..., 0]).mean() < 2


def test_a_jpeg_xl_bomb_is_refused_on_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jxl.imagecodecs, "jpegxl_decode", lambda *_, **__: pytest.fail("decoded"))
    huge = 0 | (3 << 1) | ((2**30 - 1) << 3) | (1 << 33) | (1 << 36)  # 30 bits of height, as wide as high, sRGB
    (tmp_path / "x").write_bytes(b"\xff\x0a" + huge.to_bytes(8, "little") + bytes(50))
    with pytest.raises(ItemError, match="1073741824x1073741824 pixels, max_pixels") as caught:
        read(tmp_path / "x")
    assert caught.value.kind == "too-large"


def test_a_profile_or_a_second_frame_of_a_jpeg_xl_is_refused(tmp_path: Path) -> None:
    def bits(*fields: tuple[int, int]) -> bytes:
        number, at = 0, 0
        for value, width in fields:
            number |= value << at
            at += width
        return b"\xff\x0a" + number.to_bytes(40, "little")

    size = ((1, 1), (0, 5), (1, 3))  # 8 by 8
    plain = ((0, 1), (0, 2), (1, 1), (0, 2), (1, 1))  # 8 bits, no more channels, XYB
    for what, fields in {
        "an ICC profile": (*size, (0, 1), (0, 1), *plain, (0, 1), (1, 1)),
        "another colour space": (*size, (0, 1), (0, 1), *plain, (0, 1), (0, 1), (0, 2), (1, 2), (2, 2), (9, 4), (0, 1)),
        "an animation": (*size, (0, 1), (1, 1), (0, 3), (0, 1), (0, 1), (1, 1)),
    }.items():
        (tmp_path / "x").write_bytes(bits(*fields))
        with pytest.raises(ItemError, match=what) as caught:
            probe(tmp_path / "x")
        assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("container", [False, True])
def test_a_truncated_jpeg_xl_is_refused_wherever_it_ends(tmp_path: Path, container: bool) -> None:
    data = encoded(ARRAY[..., :3], usecontainer=container)
    for length in range(0, len(data) - 1, 9):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(ItemError):
            read(tmp_path / "x")


@given(changes=st.lists(st.tuples(st.integers(2, 400), st.integers(0, 255)), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_changed_bytes_of_a_jpeg_xl_give_an_image_or_an_item_error(changes: list[tuple[int, int]]) -> None:
    data = bytearray(encoded(ARRAY[..., :3]))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        found = jxl.header(io.BytesIO(bytes(data)))
    except ItemError:
        return
    assert found.width > 0 and found.height > 0


def heif(array: np.ndarray, mode: str, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    out = io.BytesIO()
    pillow_heif.encode(mode, array.shape[1::-1], array.tobytes(), out, quality=-1, chroma=444, **options)
    return out.getvalue()


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3), ("RGBA", 4)])
def test_a_heif_is_read_with_its_size_and_alpha(tmp_path: Path, mode: str, channels: int) -> None:
    y, x = np.mgrid[0:64, 0:80]
    array = np.stack([(3 * x + k * y) % 256 for k in range(channels)], axis=-1).astype(np.uint8)
    (tmp_path / "x").write_bytes(heif(array, mode))
    header, image = probe(tmp_path / "x"), read(tmp_path / "x")
    assert (header.format, header.width, header.height, header.bit_depth) == ("heif", 80, 64, 8)
    assert header.alpha is (mode == "RGBA")
    assert (image.source.alpha is not None) is header.alpha
    assert np.abs(image.pixels[0] * 255 - array[..., 0]).mean() < 3


def test_a_deep_heif_keeps_its_depth(tmp_path: Path) -> None:
    steps = np.linspace(0, 65535, 64).astype(np.uint16)
    array = np.ascontiguousarray(np.broadcast_to(steps[:, None, None], (64, 64, 3)))
    (tmp_path / "x").write_bytes(heif(array, "RGB;16"))
    image = read(tmp_path / "x")
    assert image.source.bit_depth == probe(tmp_path / "x").bit_depth == 16
    assert image.pixels.max() == 1.0
    assert np.abs(image.pixels[0, :, 0] - steps / np.float32(65535)).max() < 0.01


def test_a_heif_that_is_turned_is_read_upright_once(tmp_path: Path) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    from PIL import Image

    block = Image.Exif()
    block[0x0112] = 6
    out = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(ARRAY[..., :3])).save(out, exif=block.tobytes())
    (tmp_path / "x").write_bytes(out.getvalue())
    assert read(tmp_path / "x").pixels.shape == (3, 17, 12)
    assert (probe(tmp_path / "x").width, probe(tmp_path / "x").height) == (12, 17)


def test_a_heif_is_held_to_the_limits_and_a_torn_one_refused(tmp_path: Path) -> None:
    data = heif(ARRAY[..., :3].copy(), "RGB")
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ItemError, match="max_pixels is 100"):
        probe(tmp_path / "x", Limits(max_pixels=100))
    for length in (20, len(data) // 2, len(data) - 5):
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(ItemError):
            read(tmp_path / "x")


def test_without_its_extra_a_heif_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "x.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50))
    with pytest.raises(ItemError, match=r"pip install 'dipfast\[heif\]'") as caught:
        probe(tmp_path / "x.heic")
    assert caught.value.kind == "unsupported"


def test_neither_is_written(tmp_path: Path) -> None:
    for name in ("x.heic", "x.jxl"):
        with pytest.raises(UsageError, match="extension must be one of"):
            format_of(name)
    with pytest.raises(DipfastError, match="should end in"):
        parse("version: 1\ndefaults: {output: {template: x.jxl}}\nitems: [a.png]\n", "m", tmp_path)


def test_both_are_listed_in_a_folder(tmp_path: Path) -> None:
    for name in ("a.jxl", "b.HEIC", "c.heif"):
        (tmp_path / name).write_bytes(b"x")
    found = parse("version: 1\nitems: [.]\n", "m", tmp_path)
    assert [item.output for item in found.items] == ["a.png", "b.png", "c.png"]
