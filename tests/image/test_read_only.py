"""JPEG 2000, BMP, GIF, TGA and Netpbm are read with their size, depth, colours and alpha."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dipfast.errors import ItemError, UsageError
from dipfast.image import Limits, bitmap, format_of, probe, read, to_array
from dipfast.image.source import READ_ONLY

RNG = np.random.default_rng(0)
ARRAY = RNG.integers(0, 256, (12, 17, 4), dtype=np.uint8)


def picture(mode: str) -> Image.Image:
    full = Image.fromarray(ARRAY)
    return full.convert("RGB").quantize(16) if mode == "P" else full.convert(mode)


def saved(format: str, mode: str, **options: object) -> bytes:
    out = io.BytesIO()
    picture(mode).save(out, format, **options)
    return out.getvalue()


def jp2(array: np.ndarray, codec: str = "jp2", **options: object) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(array, level=0, codecformat=codec, **options))


def held(path: Path) -> np.ndarray:
    """Read a file, and check that its header agrees."""
    image, header = read(path), probe(path)
    assert (header.channels, header.height, header.width) == image.pixels.shape
    assert (header.alpha, header.bit_depth) == (image.source.alpha is not None, image.source.bit_depth)
    assert header.format == image.source.format
    return to_array(image.pixels, image.source)


WHOLE = {
    "bmp": saved("BMP", "RGB"),
    "gif": saved("GIF", "P"),
    "tga": saved("TGA", "RGBA"),
    "tga of runs": saved("TGA", "RGB", compression="tga_rle"),
    "jp2": jp2(ARRAY),
    "j2k": jp2(ARRAY[..., :3], "j2k"),
    "pnm": saved("PPM", "RGB"),
}


WRITTEN_BY_PILLOW = {
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("1", "L", "P", "RGB"),
    "JPEG2000": ("L", "LA", "RGB", "RGBA"),
    "PPM": ("1", "L", "RGB"),
    "TGA": ("L", "LA", "P", "RGB", "RGBA"),
}


@pytest.mark.parametrize(
    ("format", "mode"), [(name, mode) for name, modes in WRITTEN_BY_PILLOW.items() for mode in modes]
)
def test_every_mode_that_a_format_has_comes_back(tmp_path: Path, format: str, mode: str) -> None:
    (tmp_path / "x").write_bytes(saved(format, mode))
    wanted = picture(mode).convert({"1": "L", "P": "RGB"}.get(mode, mode))
    np.testing.assert_array_equal(held(tmp_path / "x"), np.asarray(wanted))


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("shape", [(12, 17), (12, 17, 2), (12, 17, 3), (12, 17, 4)])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_a_jpeg_2000_is_read_to_the_bit(tmp_path: Path, codec: str, shape: tuple[int, ...], bits: int) -> None:
    array = RNG.integers(0, 1 << bits, shape).astype(np.uint8 if bits == 8 else np.uint16)
    (tmp_path / "x").write_bytes(jp2(array, codec, bitspersample=bits))
    full = 255 if bits == 8 else 65535
    assert np.abs(held(tmp_path / "x") - array / ((1 << bits) - 1) * full).max() <= 0.5


def boxed(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def in_header_box(data: bytes, more: bytes) -> bytes:
    at = data.index(b"jp2h") - 4
    length = int.from_bytes(data[at : at + 4], "big")
    return data[:at] + struct.pack(">I", length + len(more)) + data[at + 4 : at + length] + more + data[at + length :]


def test_a_jpeg_2000_keeps_its_profile_its_resolution_and_its_exif(tmp_path: Path) -> None:
    icc = bytes(imagecodecs.cms_profile("adobergb"))
    whole = jp2(ARRAY[..., :3]).replace(boxed(b"colr", b"\1\0\0" + struct.pack(">I", 16)), b"")
    at = whole.index(b"jp2h") - 4
    whole = whole[:at] + struct.pack(">I", int.from_bytes(whole[at : at + 4], "big") - 15) + whole[at + 4 :]
    per_metre = struct.pack(">4H2b", 300, 1, 150, 1, 1, 1)
    whole = in_header_box(whole, boxed(b"colr", b"\2\0\0" + icc) + boxed(b"res ", boxed(b"resc", per_metre)))
    block = Image.Exif()
    block[0x010F] = "a maker"
    (tmp_path / "x").write_bytes(whole + boxed(b"uuid", b"JpgTiffExif->JP2" + block.tobytes()))
    source = read(tmp_path / "x").source
    assert source.icc == icc
    assert source.dpi == pytest.approx((1500 * 0.0254, 3000 * 0.0254))
    assert source.exif is not None and b"a maker" in source.exif


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (lambda: jp2(ARRAY).replace(b"jp2c", b"jp2d"), "unreadable", "no whole codestream"),
        (
            lambda: jp2(ARRAY[..., :3]).replace(b"\1\0\0\0\0\0\x10", b"\1\0\0\0\0\0\x0c"),
            "unsupported",
            "colour space 12",
        ),
        (lambda: jp2(ARRAY[..., 0].astype(np.int16)), "unsupported", "signed"),
        (lambda: jp2(ARRAY).replace(b"\0\4\7\1\1", b"\0\5\7\1\1"), "unsupported", "5 channels"),
        (lambda: in_header_box(jp2(ARRAY), boxed(b"pclr", bytes(9))), "unsupported", "palette"),
        (
            lambda: in_header_box(jp2(ARRAY), boxed(b"cdef", struct.pack(">4H", 1, 0, 65535, 0))),
            "unsupported",
            "beside",
        ),
        (lambda: jp2(ARRAY) + jp2(ARRAY)[jp2(ARRAY).index(b"jp2c") - 4 :], "unsupported", "2 pictures"),
        (lambda: jp2(ARRAY, "j2k").replace(struct.pack(">2I", 17, 12), bytes(8)), "unreadable", "0x0 pixels"),
    ],
)
def test_a_jpeg_2000_that_is_not_restored_says_why(
    tmp_path: Path, data: Callable[[], bytes], kind: str, says: str
) -> None:
    (tmp_path / "x").write_bytes(data())
    with pytest.raises(ItemError, match=says) as caught:
        read(tmp_path / "x")
    assert caught.value.kind == kind


def test_a_jpeg_2000_of_more_tiles_than_there_may_be_is_refused(tmp_path: Path) -> None:
    data = bytearray(jp2(ARRAY, "j2k"))
    data[8:16] = data[24:32] = struct.pack(">2I", 5000, 5000)
    data[24:32] = struct.pack(">2I", 1, 1)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ItemError, match="more tiles"):
        probe(tmp_path / "x")


def test_a_bmp_keeps_its_embedded_profile_and_its_density(tmp_path: Path) -> None:
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain = saved("BMP", "RGB", dpi=(300, 150))
    pixels = plain[54:]
    head = plain[14:54].replace(struct.pack("<I", 40), struct.pack("<I", 124), 1) + bytes(84)
    head = head[:56] + b"DEBM" + head[60:112] + struct.pack("<II", 124 + len(pixels), len(icc)) + head[120:]
    (tmp_path / "x").write_bytes(plain[:10] + struct.pack("<I", 14 + 124) + head + pixels + icc)
    source = read(tmp_path / "x").source
    assert source.icc == icc
    assert source.dpi == pytest.approx((300, 150), abs=0.05)
    np.testing.assert_array_equal(held(tmp_path / "x"), ARRAY[..., :3])


def test_a_bmp_whose_masks_name_alpha_has_it(tmp_path: Path) -> None:
    masks = struct.pack("<4I", 0xFF << 16, 0xFF << 8, 0xFF, 0xFF << 24)
    head = struct.pack("<IiiHHIIiiII", 108, 17, -12, 1, 32, 3, 0, 0, 0, 0, 0) + masks + bytes(52)
    start = struct.pack("<2sIII", b"BM", 0, 0, 14 + 108)
    (tmp_path / "x").write_bytes(start + head + ARRAY[..., [2, 1, 0, 3]].tobytes())
    np.testing.assert_array_equal(held(tmp_path / "x"), ARRAY)


def test_a_tga_without_bits_of_alpha_has_none(tmp_path: Path) -> None:
    data = bytearray(saved("TGA", "RGBA"))
    data[17] &= 0xF0
    (tmp_path / "x").write_bytes(data)
    assert held(tmp_path / "x").shape == (12, 17, 3)


def test_a_transparent_colour_of_a_gif_becomes_alpha_and_a_gray_one_stays_gray(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(saved("GIF", "P", transparency=3))
    alpha = held(tmp_path / "x")[..., 3]
    np.testing.assert_array_equal(alpha == 0, np.asarray(picture("P")) == 3)
    (tmp_path / "y").write_bytes(saved("GIF", "L", transparency=int(np.asarray(picture("L"))[0, 0])))
    assert held(tmp_path / "y").shape == (12, 17, 2)


def test_an_animation_of_one_frame_is_a_picture_and_of_two_is_none(tmp_path: Path) -> None:
    out = io.BytesIO()
    picture("P").save(out, "GIF", save_all=True, append_images=[picture("P").rotate(180)], loop=0)
    second = out.getvalue().rindex(b"!\xf9\x04")
    (tmp_path / "one").write_bytes(out.getvalue()[:second] + b";")
    assert held(tmp_path / "one").shape == (12, 17, 3)
    (tmp_path / "two").write_bytes(out.getvalue())
    with pytest.raises(ItemError, match="an animated GIF"):
        probe(tmp_path / "two")


def test_a_frame_larger_than_its_gif_s_screen_is_held_to_the_limits(tmp_path: Path) -> None:
    data = bytearray(WHOLE["gif"])
    at = data.index(b",", 13 + 3 * 16)
    data[at + 5 : at + 9] = struct.pack("<2H", 60_000, 60_000)
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ItemError, match="60000x60000 pixels, max_pixels"):
        probe(tmp_path / "x")


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"P1 3 2\n# a comment\n101\n0 1 0", [[0, 255, 0], [255, 0, 255]]),
        (b"P2\n# c\n2 2 # more\n10\n0 5\n10 1", [[0, 128], [255, 26]]),
        (b"P3 1 1 255 1 2 3\n", [[[1, 2, 3]]]),
        (b"P4 9 1\n\x80\x80", [[0, 255, 255, 255, 255, 255, 255, 255, 0]]),
        (b"P5 2 1 255\n\x07\xff", [[7, 255]]),
        (b"P5 2 1 65535\n\x01\x00\xff\xff", [[256, 65535]]),
        (b"P5 1 1 1023\n\x03\xff", [[65535]]),
        (b"P6 1 1 65535\n\0\1\0\2\0\3", [[[1, 2, 3]]]),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n\1\2\3\4", [[[1, 2, 3, 4]]]),
    ],
)
def test_every_kind_of_netpbm_is_read(tmp_path: Path, data: bytes, wanted: list) -> None:
    (tmp_path / "x").write_bytes(data)
    assert held(tmp_path / "x").tolist() == wanted


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"P5 2 2 255\n\1\2\3", "unreadable", "3 bytes of samples of 4"),
        (b"P2 2 2 255\n1 2 3", "unreadable", "3 samples of 4"),
        (b"P2 1 1 255\n-1", "unreadable", "more than small numbers"),
        (b"P2 1 1 9\n10", "unreadable", "a sample of 10, its maximum is 9"),
        (b"P5 x 2 255\n", "unreadable", "should hold width"),
        (b"P5 1 1 70000\n\1\1", "unreadable", "maximum is 70000"),
        (b"P5 0 1 255\n", "unreadable", "0x1 pixels"),
        (b"P5 99999 99999 255\n", "too-large", "max_pixels"),
        (b"P5 1 1 255\n\1P5 1 1 255\n\1", "unsupported", "several pictures"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 5\nMAXVAL 255\nENDHDR\n12345", "unsupported", "5 samples"),
        (b"P7\nWIDTH 1\nHEIGHT one\nDEPTH 1\nMAXVAL 255\nENDHDR\n1", "unreadable", "should hold WIDTH"),
    ],
)
def test_a_netpbm_that_is_not_restored_says_why(tmp_path: Path, data: bytes, kind: str, says: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ItemError, match=says) as caught:
        read(tmp_path / "x")
    assert caught.value.kind == kind


@pytest.mark.parametrize("name", WHOLE)
def test_cut_files_are_refused_wherever_they_end(tmp_path: Path, name: str) -> None:
    data = WHOLE[name]
    end = len(data) - (26 if name.startswith("tga") else 2)  # a TGA's footer and a GIF's last byte hold no pixels
    for length in {*range(0, end, max(1, end // 40)), end - 1}:
        (tmp_path / "x").write_bytes(data[:length])
        with pytest.raises(ItemError) as caught:
            read(tmp_path / "x")
        assert caught.value.kind == "unreadable", length


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=5))
def test_changed_bytes_give_an_image_or_an_item_error(
    tmp_path: Path, name: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(WHOLE[name])
    for where, value in changes:
        data[int(where * where * len(data))] = value  # most of them in the header
    (tmp_path / "x").write_bytes(data)
    try:
        header = probe(tmp_path / "x", Limits(max_pixels=10_000))
        image = read(tmp_path / "x", Limits(max_pixels=10_000))
    except ItemError:
        return
    assert image.pixels.shape == (header.channels, header.height, header.width)
    assert np.isfinite(image.pixels).all()


@pytest.mark.parametrize(
    "head", [bytes(64), b"\0\1" + b"text" * 9, b"\0\0\2" + bytes(9) + b"\0\0\1\0\x18\0", b"\x7fELF\2\1\1" + bytes(40)]
)
def test_what_has_no_signature_is_seldom_taken_for_a_tga(head: bytes) -> None:
    assert not bitmap.is_tga(head)


def test_none_of_them_is_written() -> None:
    for name in ("x.bmp", "x.gif", "x.jp2", "x.tga", "x.ppm"):
        with pytest.raises(UsageError, match="extension must be one of"):
            format_of(name)


def test_the_manifest_and_the_images_agree_on_endings_and_formats() -> None:
    from dipfast.image.source import READABLE
    from dipfast.settings import files

    assert tuple(files.Input().formats) == READABLE
    assert files.READ_ONLY == READ_ONLY
    for format, endings in files.EXTENSIONS.items():
        if format not in READ_ONLY:
            assert {format_of(f"x.{ending}") for ending in endings} == {format}
