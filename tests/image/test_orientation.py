"""Each EXIF orientation is read upright in each format, and written upright with orientation 1."""

import numpy as np
import pytest
from PIL import Image as PillowImage
from PIL import ImageOps

from dipfast.image import probe, read, write

EXTENSIONS = ["png", "jpg", "tif", "webp", "avif"]


@pytest.fixture(params=EXTENSIONS)
def turned(request, tmp_path):
    def save(orientation: int, size: tuple[int, int] = (24, 16), mode: str = "RGB"):
        picture = PillowImage.new(mode, size, 0)
        picture.paste((250, 250, 250) if mode == "RGB" else 250, (0, 0, size[0] // 2, size[1] // 4))
        exif = PillowImage.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.{request.param}"
        picture.save(path, exif=exif)
        return path

    return save


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_are_those_that_a_viewer_shows(turned, orientation):
    path = turned(orientation)
    with PillowImage.open(path) as picture:
        shown = np.asarray(ImageOps.exif_transpose(picture))
    image = read(path)
    np.testing.assert_array_equal(np.rint(image.pixels * 255), np.moveaxis(shown, 2, 0))
    header = probe(path)
    assert (header.height, header.width) == shown.shape[:2]


@pytest.mark.parametrize("orientation", [1, 3, 6])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_what_is_written_is_not_turned_again(turned, tmp_path, orientation, extension):
    image = read(turned(orientation))
    out = tmp_path / f"out.{extension}"
    write(out, image.pixels, image.source)
    with PillowImage.open(out) as picture:
        assert picture.getexif().get(0x0112, 1) == 1
    again = read(out)
    assert again.pixels.shape == image.pixels.shape
    assert np.abs(again.pixels - image.pixels).mean() < 0.02


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_means_upright(turned, orientation):
    assert read(turned(orientation)).pixels.shape == (3, 16, 24)


def test_alpha_turns_with_the_colours(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (4, 7, 4), dtype=np.uint8)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.fromarray(array).save(tmp_path / "in.png", exif=exif)
    np.testing.assert_array_equal(read(tmp_path / "in.png").source.alpha, np.rot90(array[..., 3], -1))
