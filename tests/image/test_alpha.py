"""Alpha is not fitted: it stays the same bits in the same depth and size, and is converted to others."""

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image as PillowImage

from dipfast.errors import ItemError
from dipfast.image import read, write

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("extension", ["png", "tif", "webp", "avif"])
@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_bit_exact_whatever_the_fit_did(tmp_path, channels, extension):
    array = RNG.integers(0, 256, (13, 9, channels), dtype=np.uint8)
    PillowImage.fromarray(array).save(tmp_path / "in.png")
    image = read(tmp_path / "in.png")
    write(tmp_path / f"out.{extension}", RNG.random(image.pixels.shape, np.float32), image.source)
    np.testing.assert_array_equal(read(tmp_path / f"out.{extension}").source.alpha, array[..., -1])


@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bit_alpha_keeps_its_integers(tmp_path, extension):
    array = RNG.integers(0, 65536, (5, 4, 4), dtype=np.uint16)
    (tmp_path / "in.png").write_bytes(imagecodecs.png_encode(array))
    image = read(tmp_path / "in.png")
    write(tmp_path / f"out.{extension}", np.zeros_like(image.pixels), image.source)
    alpha = read(tmp_path / f"out.{extension}").source.alpha
    assert alpha.dtype == np.uint16
    np.testing.assert_array_equal(alpha, array[..., 3])


def test_colours_under_full_transparency_are_kept(tmp_path):
    array = RNG.integers(0, 256, (6, 6, 4), dtype=np.uint8)
    array[..., 3] = 0
    PillowImage.fromarray(array).save(tmp_path / "in.webp", lossless=True, exact=True)
    image = read(tmp_path / "in.webp")
    np.testing.assert_array_equal(np.rint(image.pixels * 255), np.moveaxis(array[..., :3], 2, 0))
    write(tmp_path / "out.webp", image.pixels, image.source)
    np.testing.assert_array_equal(read(tmp_path / "out.webp").pixels, image.pixels)


def test_alpha_follows_a_larger_result(tmp_path):
    array = np.zeros((2, 2, 4), np.uint8)
    array[:, 1, 3] = 255
    PillowImage.fromarray(array).save(tmp_path / "in.png")
    source = read(tmp_path / "in.png").source
    write(tmp_path / "out.png", np.zeros((3, 8, 8), np.float32), source)
    alpha = read(tmp_path / "out.png").source.alpha
    assert alpha.shape == (8, 8)
    assert (alpha[:, 0] == 0).all()
    assert (alpha[:, -1] == 255).all()
    assert (np.diff(alpha.astype(int)) >= 0).all()


@pytest.mark.parametrize(("kind", "name"), [(0, "unspecified"), (1, "premultiplied"), (2, "straight")])
def test_tiff_alpha_keeps_its_kind(tmp_path, kind, name):
    array = RNG.integers(0, 256, (5, 4, 4), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extrasamples=[kind])
    image = read(tmp_path / "in.tif")
    write(tmp_path / "out.tif", image.pixels, image.source)
    assert read(tmp_path / "out.tif").source.alpha_kind == name
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "out.tif"), array)


def test_premultiplied_colours_are_divided_for_png(tmp_path):
    array = np.array([[[50, 25, 0, 100], [0, 0, 0, 0]]], np.uint8)
    tifffile.imwrite(tmp_path / "in.tif", array, photometric="rgb", extrasamples=[1])
    image = read(tmp_path / "in.tif")
    write(tmp_path / "out.png", image.pixels, image.source)
    with PillowImage.open(tmp_path / "out.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), [[[128, 64, 0, 100], [0, 0, 0, 0]]])


def test_jpeg_refuses_alpha_and_names_the_way_out(tmp_path):
    PillowImage.new("LA", (3, 3)).save(tmp_path / "in.png")
    image = read(tmp_path / "in.png")
    with pytest.raises(ItemError, match=r"jpeg holds no alpha.*\.png"):
        write(tmp_path / "out.jpg", image.pixels, image.source)
    assert not (tmp_path / "out.jpg").exists()
