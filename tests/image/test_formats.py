"""Files of other kinds than gray and RGB are read: palettes, 1 bit, colour keys, CMYK, 10 and 12 bits, floats."""

import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from dipfast.errors import ItemError
from dipfast.image import probe, read, to_array, write

RNG = np.random.default_rng(0)


def integers(path) -> np.ndarray:
    image = read(path)
    header = probe(path)
    assert (header.channels, header.height, header.width) == image.pixels.shape
    assert (header.alpha, header.bit_depth) == (image.source.alpha is not None, image.source.bit_depth)
    return to_array(image.pixels, image.source)


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_palettes_become_rgb(tmp_path, extension):
    picture = PillowImage.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).quantize(16)
    picture.save(tmp_path / f"x.{extension}")
    np.testing.assert_array_equal(integers(tmp_path / f"x.{extension}"), np.asarray(picture.convert("RGB")))
    assert read(tmp_path / f"x.{extension}").source.mode == "palette"


def test_a_palette_of_one_bit_becomes_rgb(tmp_path):
    picture = PillowImage.fromarray(RNG.integers(0, 2, (6, 5), dtype=np.uint8)).convert("P")
    picture.putpalette([10, 20, 30, 200, 100, 50])
    picture.save(tmp_path / "x.png", bits=1)
    np.testing.assert_array_equal(integers(tmp_path / "x.png"), np.asarray(picture.convert("RGB")))
    colours = (320, "H", 6, [257 * n for n in (10, 200, 20, 100, 30, 50)], True)
    tifffile.imwrite(tmp_path / "x.tif", np.asarray(picture).astype(bool), extratags=[colours], metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as tiff:
        tiff.pages[0].tags["PhotometricInterpretation"].overwrite(3)
    np.testing.assert_array_equal(integers(tmp_path / "x.tif"), np.asarray(picture.convert("RGB")))


def test_a_palette_s_transparency_becomes_alpha(tmp_path):
    picture = PillowImage.fromarray(RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)).quantize(8)
    picture.save(tmp_path / "x.png", transparency=bytes(range(0, 80, 10)))
    with PillowImage.open(tmp_path / "x.png") as saved:
        np.testing.assert_array_equal(integers(tmp_path / "x.png"), np.asarray(saved.convert("RGBA")))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_colour_key_becomes_alpha(tmp_path, mode):
    picture = PillowImage.new(mode, (3, 1), "white")
    picture.putpixel((1, 0), 0 if mode == "L" else (0, 0, 0))
    picture.save(tmp_path / "x.png", transparency=0 if mode == "L" else (0, 0, 0))
    assert integers(tmp_path / "x.png")[0, :, -1].tolist() == [255, 0, 255]


@pytest.mark.parametrize(("extension", "options"), [("png", {}), ("tif", {}), ("tif", {"compression": "group4"})])
def test_one_bit_becomes_gray(tmp_path, extension, options):
    bits = RNG.integers(0, 2, (9, 13)).astype(bool)
    PillowImage.fromarray(bits).save(tmp_path / f"x.{extension}", **options)
    np.testing.assert_array_equal(integers(tmp_path / f"x.{extension}"), bits * 255)


def test_white_is_zero_is_turned_round(tmp_path):
    array = RNG.integers(0, 65536, (4, 5), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="miniswhite")
    np.testing.assert_array_equal(integers(tmp_path / "x.tif"), 65535 - array)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw", "rowsperstrip": 3},
        {"compression": "zlib", "predictor": True, "tile": (16, 16)},
        {"compression": "packbits"},
        {"byteorder": ">", "bigtiff": True},
        {"compression": "zstd"},
    ],
)
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiffs_of_many_layouts_hold_the_same(tmp_path, options, planar):
    array = RNG.integers(0, 65536, (20, 37, 3), dtype=np.uint16)
    data = array if planar == "contig" else np.moveaxis(array, 2, 0).copy()
    tifffile.imwrite(tmp_path / "x.tif", data, photometric="rgb", planarconfig=planar, **options)
    np.testing.assert_array_equal(integers(tmp_path / "x.tif"), array)


def test_twelve_packed_bits_spread_over_sixteen(tmp_path):
    strip = bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x01])  # 4095, 0, 2048, 1
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((1, 4), np.uint16), metadata=None)
    with tifffile.TiffFile(tmp_path / "x.tif", mode="r+b") as tiff:
        tags = tiff.pages[0].tags
        tiff.filehandle.seek(tags["StripOffsets"].value[0])
        tiff.filehandle.write(strip)
        tags["StripByteCounts"].overwrite(6)
        tags["BitsPerSample"].overwrite(12)
    assert integers(tmp_path / "x.tif").tolist() == [[65535, 0, 32776, 16]]


@pytest.mark.parametrize("bits", [10, 12])
@pytest.mark.parametrize("shape", [(9, 8), (9, 8, 3), (9, 8, 4)])
def test_deep_avif_keeps_its_depth(tmp_path, bits, shape):
    full = (1 << bits) - 1
    array = np.linspace(0, full, int(np.prod(shape))).reshape(shape).astype(np.uint16)
    (tmp_path / "x.avif").write_bytes(imagecodecs.avif_encode(array, level=100, bitspersample=bits))
    error = integers(tmp_path / "x.avif") / 65535 - array / full
    assert np.abs(error).max() < 3 / full


def cmyk_profile() -> bytes:
    """Return the profile of a printer whose inks only darken: a table of 2 x 2 x 2 x 2 corners from CMYK to Lab."""
    corners = b"".join(bytes([max(0, 255 - 60 * bin(i >> 1).count("1") - 200 * (i & 1)), 128, 128]) for i in range(16))
    ramp = bytes(range(256))
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + corners + ramp * 3
    head = b"lcms" + struct.pack(">I", 0x02400000) + b"prtrCMYKLab " + bytes(12) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 63190, 65536, 54061) + bytes(48)
    body = head + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table
    return struct.pack(">I", len(body) + 4) + body


@pytest.mark.parametrize("extension", ["jpg", "tif"])
def test_cmyk_goes_through_its_profile_to_srgb(tmp_path, extension):
    picture = PillowImage.new("CMYK", (8, 8), (0, 0, 0, 255))
    picture.save(
        tmp_path / f"x.{extension}",
        icc_profile=cmyk_profile(),
        **({"quality": 100} if extension == "jpg" else {}),
    )
    image = read(tmp_path / f"x.{extension}")
    assert image.pixels.shape == (3, 8, 8)
    np.testing.assert_allclose(image.pixels * 255, 52, atol=2)  # L = 22 of 100 in that profile
    assert (image.source.mode, image.source.icc) == ("cmyk", None)
    write(tmp_path / "out.png", image.pixels, image.source)
    assert probe(tmp_path / "out.png").channels == 3


def test_cmyk_without_a_profile_is_mixed_as_pillow_mixes_it(tmp_path):
    array = RNG.integers(0, 256, (6, 7, 4), dtype=np.uint8)
    picture = PillowImage.frombytes("CMYK", (7, 6), array.tobytes())
    picture.save(tmp_path / "x.tif")
    np.testing.assert_allclose(integers(tmp_path / "x.tif"), np.asarray(picture.convert("RGB")), atol=1)


def test_cmyk_keeps_sixteen_bits(tmp_path):
    array = np.full((3, 4, 4), 20000, np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="separated", iccprofile=cmyk_profile())
    assert integers(tmp_path / "x.tif").dtype == np.uint16


def test_a_broken_cmyk_profile_is_named(tmp_path):
    PillowImage.new("CMYK", (3, 3)).save(tmp_path / "x.tif", icc_profile=cmyk_profile()[:300])
    with pytest.raises(ItemError, match="cmyk ICC profile cannot be used"):
        read(tmp_path / "x.tif")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_in_the_unit_interval_are_kept(tmp_path, dtype):
    array = RNG.random((5, 6, 3)).astype(dtype)
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb")
    image = read(tmp_path / "x.tif")
    assert (image.source.low, image.source.high, image.source.bit_depth) == (0, 1, 32)
    write(tmp_path / "out.tif", image.pixels, image.source)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), array.astype(np.float32))
    write(tmp_path / "out.png", image.pixels, image.source)
    assert probe(tmp_path / "out.png").bit_depth == 16


@pytest.mark.parametrize(("low", "high"), [(-3.0, 12.0), (0.0, 4095.0), (1e-6, 2e6), (-3e38, 3e38)])
def test_other_floats_are_scaled_and_scaled_back(tmp_path, low, high):
    array = np.linspace(low, high, 30).reshape(5, 6).astype(np.float32)
    tifffile.imwrite(tmp_path / "x.tif", array)
    image = read(tmp_path / "x.tif")
    assert image.pixels.min() >= 0 and 0.5 < image.pixels.max() <= 1
    write(tmp_path / "out.tif", image.pixels, image.source)
    np.testing.assert_allclose(tifffile.imread(tmp_path / "out.tif"), array, rtol=0, atol=(high / 2 - low / 2) * 1e-6)
    for options in ({}, {"bit_depth": 8}):
        with pytest.raises(ItemError, match="integers cannot hold floats"):
            write(tmp_path / "out.png", image.pixels, image.source, **options)


@pytest.mark.parametrize("value", [7.0, -2.0, 1e30])
def test_a_constant_float_image_comes_back(tmp_path, value):
    tifffile.imwrite(tmp_path / "x.tif", np.full((3, 3), value, np.float32))
    image = read(tmp_path / "x.tif")
    assert np.isfinite(image.pixels).all()
    write(tmp_path / "out.tif", image.pixels, image.source)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), np.float32(value))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_non_finite_floats_are_refused(tmp_path, value):
    tifffile.imwrite(tmp_path / "x.tif", np.array([[0.0, value]]))
    with pytest.raises(ItemError, match="NaN or infinite") as caught:
        read(tmp_path / "x.tif")
    assert caught.value.kind == "non-finite"


@pytest.mark.parametrize("dtype", [np.int16, np.uint32, np.complex64])
def test_samples_that_have_no_place_are_refused(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "x.tif", np.zeros((4, 4), dtype))
    with pytest.raises(ItemError) as caught:
        probe(tmp_path / "x.tif")
    assert caught.value.kind == "unsupported"


def test_a_phone_s_second_picture_is_left_out(tmp_path):
    first, second = PillowImage.new("RGB", (9, 8), "red"), PillowImage.new("RGB", (4, 4), "blue")
    first.save(tmp_path / "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert read(tmp_path / "x.jpg").pixels.shape == (3, 8, 9)


@pytest.mark.parametrize("format", ["TIFF", "PNG", "WEBP", "AVIF"])
def test_several_pages_or_frames_are_refused(tmp_path, format):
    pages = [PillowImage.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    pages[0].save(tmp_path / "x", format=format, save_all=True, append_images=pages[1:])
    for look in (probe, read):
        with pytest.raises(ItemError) as caught:
            look(tmp_path / "x")
        assert caught.value.kind == "unsupported"
