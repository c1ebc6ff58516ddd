"""Reading, writing and reading again keeps integers, depth, channels and size in each mode and format."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from dipfast.image import probe, read, to_array, write

SHAPES = [(1, 1), (1, 9), (7, 5), (7, 5, 2), (7, 5, 3), (6, 11, 4), (1, 1, 4), (33, 2, 3)]


def random(shape: tuple[int, ...], dtype: type) -> np.ndarray:
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def stored(path: Path, array: np.ndarray) -> Path:
    if path.suffix == ".png":
        path.write_bytes(imagecodecs.png_encode(array))
        return path
    colours = 1 if array.ndim == 2 or array.shape[2] < 3 else 3
    alpha = {"extrasamples": [2]} if array.ndim == 3 and array.shape[2] > colours else {}
    photometric = "minisblack" if colours == 1 else "rgb"
    planes = {"planarconfig": "contig"} if array.ndim == 3 else {}
    tifffile.imwrite(path, array, photometric=photometric, **alpha, **planes)
    return path


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", SHAPES)
def test_lossless_files_come_back_exactly(tmp_path, shape, dtype, extension):
    array = random(shape, dtype)
    image = read(stored(tmp_path / f"in.{extension}", array))
    out = tmp_path / f"out.{extension}"
    write(out, image.pixels, image.source)
    decoded = imagecodecs.png_decode(out.read_bytes()) if extension == "png" else tifffile.imread(out)
    np.testing.assert_array_equal(decoded, array)
    assert decoded.dtype == dtype
    assert probe(out) == probe(tmp_path / f"in.{extension}")


@pytest.mark.parametrize(("extension", "other"), [("png", "tif"), ("tif", "png")])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_png_and_tiff_hold_the_same(tmp_path, extension, other, dtype):
    array = random((5, 6, 4), dtype)
    image = read(stored(tmp_path / f"in.{extension}", array))
    write(tmp_path / f"out.{other}", image.pixels, image.source)
    again = read(tmp_path / f"out.{other}")
    np.testing.assert_array_equal(to_array(again.pixels, again.source), array)


@pytest.mark.parametrize("extension", ["jpg", "webp", "avif"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (17, 30, 3), (17, 30)])
def test_lossy_files_come_back_nearly(tmp_path, shape, extension):
    smooth = np.linspace(40, 200, int(np.prod(shape[:2]))).reshape(shape[:2]).astype(np.uint8)
    array = smooth if len(shape) == 2 else np.stack([smooth] * 3, axis=2)
    image = read(stored(tmp_path / "in.png", array))
    write(tmp_path / f"out.{extension}", image.pixels, image.source)
    again = read(tmp_path / f"out.{extension}")
    assert again.pixels.shape[1:] == shape[:2]
    assert np.abs(again.pixels - image.pixels).max() < 6 / 255


@pytest.mark.parametrize("full", [255, 65535])
def test_every_integer_survives_the_unit_interval(tmp_path, full):
    array = np.arange(full + 1, dtype=np.uint8 if full == 255 else np.uint16).reshape(-1, 256)
    image = read(stored(tmp_path / "in.png", array))
    np.testing.assert_array_equal(to_array(image.pixels, image.source), array)


@pytest.mark.parametrize("extension", ["png", "tif", "jpg", "webp", "avif"])
def test_the_same_pixels_give_the_same_bytes(tmp_path, extension):
    image = read(stored(tmp_path / "in.png", random((9, 9, 3), np.uint8)))
    for name in ("a", "b"):
        write(tmp_path / f"{name}.{extension}", image.pixels, image.source)
    assert (tmp_path / f"a.{extension}").read_bytes() == (tmp_path / f"b.{extension}").read_bytes()


def test_pixels_are_contiguous_float32_planes_in_the_unit_interval(tmp_path):
    pixels = read(stored(tmp_path / "in.png", random((5, 6, 4), np.uint16))).pixels
    assert pixels.shape == (3, 5, 6)
    assert pixels.dtype == np.float32
    assert pixels.flags.c_contiguous
    assert 0 <= pixels.min() <= pixels.max() <= 1


def test_depth_can_be_chosen(tmp_path):
    array = random((5, 6, 4), np.uint8)
    image = read(stored(tmp_path / "in.png", array))
    write(tmp_path / "deep.png", image.pixels, image.source, bit_depth=16)
    deep = read(tmp_path / "deep.png")
    np.testing.assert_array_equal(to_array(deep.pixels, deep.source), array * np.uint16(257))
    write(tmp_path / "back.tif", deep.pixels, deep.source, bit_depth=8)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "back.tif"), array)
