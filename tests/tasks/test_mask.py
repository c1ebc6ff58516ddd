"""Masks of the kinds that people and programs make give the known pixels, and others are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import settings_of
from PIL import Image

import dipfast
from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.image import opacity, read
from dipfast.restoration.line import observe
from dipfast.tasks.mask import known_pixels

Y, X = np.mgrid[0:32, 0:48]
HOLE = (X - 20) ** 2 + (Y - 14) ** 2 < 60
SOFT = np.clip((np.sqrt((X - 20) ** 2 + (Y - 14) ** 2) - 7.2), 0, 1)  # a hole with a soft edge of one pixel
OBSERVED = np.random.default_rng(0).random((3, 32, 48)).astype(np.float32)


def mask_of(known: np.ndarray) -> np.ndarray:
    return known[None].astype(np.float32)


def half() -> np.ndarray:
    known = np.zeros((16, 16), bool)
    known[:8] = True
    return known


def test_the_colour_says_which_pixels_are_known(picture: np.ndarray) -> None:
    observed = picture[:, :16, :16]
    white = tasks.known_pixels(mask_of(half()), "white", observed)
    black = tasks.known_pixels(mask_of(half()), "black", observed)
    assert np.array_equal(white[0], half())
    assert np.array_equal(black, ~white)


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((1, 16, 16), np.float32), "nothing is to be filled in"),
        (np.zeros((1, 16, 16), np.float32), "nothing is known"),
        (np.full((1, 16, 16), 0.5, np.float32), "black and white"),
        (np.ones((1, 15, 16), np.float32), "size 16×16, has 16×15"),
    ],
)
def test_a_mask_that_cannot_be_right_is_refused(mask: np.ndarray, message: str, picture: np.ndarray) -> None:
    with pytest.raises(ItemError, match=message):
        tasks.known_pixels(mask, "white", picture[:, :16, :16])


def test_a_mask_that_is_upside_down_is_refused(picture: np.ndarray) -> None:
    painted = np.where(half(), picture[:, :16, :16], 1.0).astype(np.float32)
    tasks.known_pixels(mask_of(half()), "auto", painted)
    with pytest.raises(ItemError, match="upside down"):
        tasks.known_pixels(mask_of(~half()), "auto", painted)


def test_a_mask_whose_colours_are_stated_is_taken_at_its_word(picture: np.ndarray) -> None:
    painted = np.where(half(), picture[:, :16, :16], 1.0).astype(np.float32)
    for mask, colour in ((~half(), "white"), (half(), "black")):
        assert np.array_equal(tasks.known_pixels(mask_of(mask), colour, painted)[0], ~half())


def layer(colour: tuple[int, int, int], marks: np.ndarray, opaque: int = 255) -> np.ndarray:
    """Return paint on a transparent layer, [H, W, 4], which is black where it is fully transparent."""
    painted = (marks * opaque).round().astype(np.uint8)
    return np.dstack([np.where(painted[..., None] > 0, np.uint8(colour), np.uint8(0)), painted])


def coloured(hole: tuple[int, int, int], around: tuple[int, int, int], soft: bool = False) -> np.ndarray:
    share = (SOFT if soft else (~HOLE).astype(float))[..., None]
    return (share * np.array(around) + (1 - share) * np.array(hole)).round().astype(np.uint8)


def palette_mask() -> Image.Image:
    picture = Image.fromarray((~HOLE).astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    return picture


KNOWN_IS_WHITE: dict[str, Any] = {
    "8 bit": (~HOLE * 255).astype(np.uint8),
    "0 and 1": (~HOLE).astype(np.uint8),
    "0 and 2": (~HOLE * 2).astype(np.uint8),
    "0 and 128": (~HOLE * 128).astype(np.uint8),
    "100 and 200": (100 + ~HOLE * 100).astype(np.uint8),
    "254 and 255": (254 + ~HOLE).astype(np.uint8),
    "16 bit": (~HOLE * 65535).astype(np.uint16),
    "16 bit of 0 and 1": (~HOLE).astype(np.uint16),
    "16 bit of 0 to 255": (SOFT * 255).round().astype(np.uint16),
    "bilevel": Image.fromarray(~HOLE),
    "palette": palette_mask(),
    "soft": (SOFT * 255).round().astype(np.uint8),
    "red around": coloured((0, 0, 0), (255, 0, 0)),
    "soft blue around": coloured((0, 0, 0), (0, 0, 255), soft=True),
    "red hole": coloured((255, 0, 0), (255, 255, 255)),
    "soft red hole": coloured((255, 0, 0), (255, 255, 255), soft=True),
    "opaque": np.dstack([coloured((0, 0, 0), (255, 255, 255)), np.full(HOLE.shape, 255, np.uint8)]),
    "black paint": layer((0, 0, 0), HOLE),
    "red paint": layer((255, 0, 0), HOLE),
    "soft paint": layer((200, 30, 0), 1 - SOFT),
    "thin paint": layer((0, 0, 0), HOLE, 90),
    "erased white": layer((255, 255, 255), ~HOLE),
    "erased gray": np.dstack([(~HOLE * 255).astype(np.uint8), (~HOLE * 255).astype(np.uint8)]),
}


@pytest.fixture(params=KNOWN_IS_WHITE)
def mask_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    mask = KNOWN_IS_WHITE[request.param]
    picture = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    picture.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


@pytest.mark.parametrize("known", ["auto", "white", "black"])
def test_whatever_marks_what_is_known_is_understood(mask_file: Path, known: str) -> None:
    mask = read(mask_file)
    wanted = HOLE if known == "black" else ~HOLE
    found = known_pixels(mask.pixels, known, OBSERVED, opacity(mask))[0]
    assert (found != wanted).mean() < 0.02  # a soft edge is split at one half


def refusal(mask: np.ndarray, known: str = "auto", alpha: np.ndarray | None = None) -> str:
    with pytest.raises(ItemError) as caught:
        known_pixels(
            mask[None].astype(np.float32), known, OBSERVED, None if alpha is None else alpha.astype(np.float32)
        )
    assert caught.value.kind == "mask"
    return str(caught.value)


def test_a_refusal_says_what_was_found() -> None:
    assert "which is 0 of 255 everywhere, has no white pixel" in refusal(X * 0)
    assert "which is 1 of 255 everywhere, has no white pixel" in refusal(X * 0 + 1 / 255)
    assert "which is 255 of 255 everywhere, is white" in refusal(X * 0 + 1)
    assert "with values from 0 to 255 of 255" in refusal(X / 47)
    assert "with values 0, 85, 170 of 255" in refusal((X // 16) / 3)
    assert "% of its pixels are gray, with values from" in refusal(OBSERVED[0])
    assert "with values 0, 1, 2, 3 of 255" in refusal((X // 12) / 255)


def test_a_layer_that_says_nothing_is_refused_with_the_reason() -> None:
    assert "wholly transparent" in refusal(X * 0, "white", X * 0)
    assert "its colours are not one" in refusal(X / 47, "white", ~HOLE)
    few = refusal(X * 0 + 1, "auto", HOLE)
    assert "white paint on 88% of transparency" in few
    white = np.ones((1, 32, 48), np.float32)
    for known, wanted in (("white", HOLE), ("black", ~HOLE)):
        np.testing.assert_array_equal(known_pixels(white, known, OBSERVED, HOLE.astype(np.float32))[0], wanted)


def test_opaque_or_evenly_transparent_alpha_says_nothing() -> None:
    mask = (~HOLE)[None].astype(np.float32)
    for alpha in (1.0, 0.3):
        found = known_pixels(mask, "auto", OBSERVED, np.full(HOLE.shape, alpha, np.float32))
        np.testing.assert_array_equal(found[0], ~HOLE)


def test_soft_edges_are_not_gray_and_gray_areas_are() -> None:
    rows = np.repeat((np.arange(32) // 4 % 2)[:, None], 48, 1).astype(float)
    soft = ((rows + np.roll(rows, 1, 0)) / 2)[None].astype(np.float32)  # a quarter of the rows is gray
    assert known_pixels(soft, "white", OBSERVED)[soft == 1].all()
    assert "% of its pixels are gray" in refusal(np.where(X < 8, 0.5, rows), "white")


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.uint16, np.int64, np.int32, np.float32, np.float64])
def test_a_mask_of_truth_values_may_come_in_any_type(dtype: type) -> None:
    array = (np.moveaxis(OBSERVED, 0, 2) * 255).astype(np.uint8)
    quick = {"steps": 1, "seeds": 1, "generator": {"channels": (4,), "skip_channels": 2}}
    image = dipfast.restore(array, "inpaint", mask=(~HOLE).astype(dtype), **quick).image
    np.testing.assert_array_equal(image[~HOLE], array[~HOLE])
    assert (image[HOLE] != array[HOLE]).any()


def test_an_item_s_mask_is_read_with_its_alpha(tmp_path: Path) -> None:
    Image.fromarray(layer((0, 0, 0), HOLE)).save(tmp_path / "mask.png")
    Image.fromarray((np.moveaxis(OBSERVED, 0, 2) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    settings = settings_of({"task": {"type": "inpaint", "known": "auto"}})
    observation = observe(settings, read(tmp_path / "a.png"), read(tmp_path / "mask.png"), None)
    assert observation.known is not None
    np.testing.assert_array_equal(observation.known[0], ~HOLE)
