"""ICC profile, EXIF and density are carried over for every pair of formats; an outdated thumbnail is not."""

import struct
from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from dipfast.errors import ItemError
from dipfast.image import Source, check_output, encode, read, write
from dipfast.image.exif import byte_order, graft, take, upright

EXTENSIONS = ["png", "jpg", "tif", "webp", "avif"]
RGB = imagecodecs.cms_profile("adobergb")
GRAY = imagecodecs.cms_profile("gray", gamma=2.2)
PIXELS = np.full((3, 8, 9), 0.5, np.float32)
MAKER_NOTE = bytes(range(200))


def exif_block(order: str = ">") -> PillowImage.Exif:
    exif = PillowImage.Exif()
    exif.endian = order
    exif[0x010F] = "Maker of cameras"
    exif[0x8769] = {0x9003: "2026:01:02 03:04:05", 0x829A: 0.004, 0x927C: MAKER_NOTE}
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 1.5)}
    loaded = PillowImage.Exif()  # Pillow writes a TIFF only with EXIF that it has read
    loaded.load(exif.tobytes())
    return loaded


@pytest.mark.parametrize("out", EXTENSIONS)
@pytest.mark.parametrize("into", EXTENSIONS)
def test_profile_and_exif_go_from_any_format_to_any(tmp_path, into, out):
    picture = PillowImage.new("RGB", (9, 8), (90, 120, 30))
    picture.save(tmp_path / f"in.{into}", exif=exif_block(), icc_profile=RGB)
    image = read(tmp_path / f"in.{into}")
    write(tmp_path / f"out.{out}", image.pixels, image.source)
    assert read(tmp_path / f"out.{out}").source.icc == RGB
    with PillowImage.open(tmp_path / f"out.{out}") as written:
        assert written.info["icc_profile"] == RGB
        exif = written.getexif()
        assert exif[0x010F] == "Maker of cameras"
        assert exif.get_ifd(0x8769)[0x927C] == MAKER_NOTE
        assert exif.get_ifd(0x8769)[0x829A] == 0.004
        assert exif.get_ifd(0x8825)[2] == (52.0, 31.0, 1.5)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_profile_and_exif_too(tmp_path, extension, channels):
    icc = GRAY if channels == 1 else RGB
    source = Source("png", "gray", 16, icc=icc, exif=upright(exif_block().tobytes()[6:]))
    write(tmp_path / f"x.{extension}", PIXELS[:channels], source)
    again = read(tmp_path / f"x.{extension}").source
    assert (again.icc, again.bit_depth) == (icc, 16)
    assert MAKER_NOTE in again.exif


@pytest.mark.parametrize("extension", ["png", "jpg", "tif"])
def test_density_is_kept(tmp_path, extension):
    PillowImage.new("L", (4, 3)).save(tmp_path / f"in.{extension}", dpi=(300, 150))
    image = read(tmp_path / f"in.{extension}")
    write(tmp_path / f"out.{extension}", image.pixels, image.source)
    assert read(tmp_path / f"out.{extension}").source.dpi == pytest.approx((300, 150), abs=0.02)


def test_a_profile_for_other_channels_is_not_written():
    data = encode(PIXELS, Source("tiff", "gray", 8, icc=GRAY), "tiff")
    assert b"GRAY" not in data


def test_a_gray_profile_is_applied_where_the_format_has_no_gray(tmp_path):
    write(tmp_path / "x.webp", PIXELS[:1], Source("png", "gray", 8, icc=GRAY, lossless=True))
    image = read(tmp_path / "x.webp")
    assert image.source.icc is None
    assert image.pixels.mean() == pytest.approx(0.5, abs=0.01)  # at one half, gamma 2.2 is close to sRGB's curve


def test_png_colour_chunks_come_back_in_a_png_only():
    gamma = struct.pack(">I4sI", 4, b"gAMA", 100_000) + b"\x31\xe8\x96\x5f"
    source = Source("png", "rgb", 8, png_colour=gamma)
    data = encode(PIXELS, source, "png")
    assert gamma in data
    with PillowImage.open(BytesIO(data)) as picture:
        assert picture.info["gamma"] == 1.0
    assert gamma not in encode(PIXELS, source, "tiff")


def test_the_thumbnail_is_erased_from_exif(tmp_path):
    thumbnail = b"\xff\xd8\xff" + b"secret" * 9 + b"\xff\xd9"
    ifd0, ifd1 = 8, 8 + 2 + 12 + 4
    block = b"II*\0" + struct.pack("<IH", ifd0, 1) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    block += struct.pack("<IH", ifd1, 2)
    block += struct.pack("<HHII", 0x0201, 4, 1, ifd1 + 30) + struct.pack("<HHII", 0x0202, 4, 1, len(thumbnail))
    block += bytes(4) + thumbnail
    PillowImage.new("RGB", (24, 16)).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + block)
    image = read(tmp_path / "in.jpg")
    assert image.pixels.shape == (3, 24, 16)
    assert b"secret" in block
    assert b"secret" not in image.source.exif
    assert len(image.source.exif) == len(block)


@pytest.mark.parametrize(
    "broken", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"nonsense" * 9, b"MM\0*\0\0\0\x08\xff\xff"]
)
def test_broken_exif_never_fails_the_image(tmp_path, broken):
    PillowImage.new("RGB", (5, 4)).save(tmp_path / "in.jpg", exif=b"Exif\0\0" + broken)
    image = read(tmp_path / "in.jpg")
    for extension in EXTENSIONS:
        write(tmp_path / f"out.{extension}", image.pixels, image.source)
        assert read(tmp_path / f"out.{extension}").pixels.shape == (3, 4, 5)


@given(
    changes=st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), min_size=1, max_size=6),
    order=st.sampled_from("<>"),
)
@example(changes=[(399, 4)], order=">")
@settings(max_examples=150, deadline=None)
def test_damaged_exif_never_fails_the_writing(changes, order):
    block = bytearray(exif_block(order).tobytes()[6:])
    for where, value in changes:
        block[where % len(block)] = value
    source = Source("jpeg", "rgb", 8, exif=upright(bytes(block)))
    for format in ("png", "jpeg", "tiff", "webp", "avif"):
        assert encode(PIXELS, source, format)


def test_more_exif_than_a_jpeg_holds_is_refused_before_the_fit():
    source = Source("png", "rgb", 8, exif=b"II*\0" + bytes(70_000))
    with pytest.raises(ItemError, match="65527 bytes of EXIF"):
        check_output(source, "x.jpg")
    check_output(source, "x.png")


@pytest.mark.parametrize("order", ["<", ">"])
def test_exif_enters_a_tiff_of_its_byte_order_and_leaves_it_whole(order):
    out = BytesIO()
    tifffile.imwrite(out, np.arange(12, dtype=np.uint16).reshape(3, 4), byteorder=order, metadata=None)
    block = exif_block(order).tobytes()[6:]
    assert byte_order(block) == order
    grafted = graft(out.getvalue(), block)
    with tifffile.TiffFile(BytesIO(grafted)) as tiff:
        np.testing.assert_array_equal(tiff.asarray(), np.arange(12).reshape(3, 4))
        assert tiff.pages[0].tags[34665].value["MakerNote"] == MAKER_NOTE
    again = PillowImage.Exif()
    again.load(take(grafted))
    assert again.get_ifd(0x8769)[0x9003] == "2026:01:02 03:04:05"


def test_a_description_meant_for_programs_is_left_behind(tmp_path):
    tifffile.imwrite(tmp_path / "in.tif", np.zeros((4, 5), np.uint8), metadata={"axes": "YX"})
    assert b"shape" not in (read(tmp_path / "in.tif").source.exif or b"")
