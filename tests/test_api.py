"""The Python face: arrays in, arrays out, and what a wrong argument is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipfast
from dipfast.errors import MachineError, UsageError
from dipfast.image import Source, write

TINY: dict[str, Any] = {"channels": [8, 8], "input": {"type": "noise", "depth": 4}}
QUICK: dict[str, Any] = {"generator": TINY, "steps": 4, "precision": "fp32", "device": "cpu"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
def test_an_array_comes_back_in_its_dtype_and_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    array = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    image = dipfast.restore(array, sigma=25, **QUICK).image
    assert (image.dtype, image.shape) == (array.dtype, array.shape)
    if shape[-1] in (2, 4):
        assert np.array_equal(image[..., -1], array[..., -1])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(picture: np.ndarray) -> None:
    array = picture.transpose(1, 2, 0)
    one, two, other = (dipfast.restore(array, seed=seed, **QUICK).image for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_known_pixels_come_back_exactly(picture: np.ndarray) -> None:
    array = (picture.transpose(1, 2, 0) * 255).astype(np.uint8)
    mask = np.full(array.shape[:2], 255, np.uint8)
    mask[8:12] = 0
    image = dipfast.restore(array, "inpaint", mask=mask, **QUICK).image
    assert np.array_equal(image[mask > 0], array[mask > 0])


def test_super_resolution_enlarges(picture: np.ndarray) -> None:
    image = dipfast.restore(picture.transpose(1, 2, 0)[:9, :7], "superres", scale=3, **QUICK).image
    assert image.shape == (27, 21, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40, 3), (7, 5), (65, 33, 3)])
def test_any_size_can_be_restored(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 0.5, np.float32)
    assert dipfast.restore(array, sigma=5, **QUICK).image.shape == shape


def test_the_generator_renders_what_the_fit_rendered(picture: np.ndarray, tmp_path: Path) -> None:
    result = dipfast.restore(picture.transpose(1, 2, 0), **QUICK | {"steps": 0})
    np.testing.assert_array_equal(result.generator.render(), result.image)


def test_a_generator_of_a_run_can_be_loaded(picture: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", picture[:, :20], Source("png", "rgb", 8))
    sets = ("generator.channels=[8, 8]", "generator.input.depth=4", "fit.steps=3", "fit.precision=fp32")
    result = dipfast.run(tmp_path / "in", tmp_path / "run", workers=1, sets=sets)
    assert result.exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    record = result.rows[0].record
    assert record is not None
    generator = dipfast.load(tmp_path / "run" / record["generator"]["path"])
    assert generator.render().shape == (20, 32, 3)
    assert np.array_equal(generator.render(), generator.render())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"sigma": -3}, "sigma"),
        ({"task": "denoize"}, "denoise"),
        ({"task": "jpeg", "sigma": 5}, "sigma belongs to task denoise"),
        ({"task": "inpaint"}, "mask"),
        ({"mask": np.zeros((32, 32), np.uint8)}, "mask belongs to task inpaint"),
        ({"task": "superres"}, "scale"),
        ({"preset": "slow"}, "slow"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str, picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match=message):
        dipfast.restore(picture.transpose(1, 2, 0), **arguments)


def test_an_engine_that_is_not_here_is_an_error(picture: np.ndarray) -> None:
    with pytest.raises(MachineError, match=r"fit\.engine is cudagraph"):
        dipfast.restore(picture.transpose(1, 2, 0), engine="cudagraph")


def test_the_record_says_what_was_asked_and_what_ran(picture: np.ndarray) -> None:
    record = dipfast.restore(picture.transpose(1, 2, 0), sigma="auto", seed=7, **QUICK).record
    assert record["seed"] == 7
    assert record["ran"]["engine"] == "eager"
    assert record["facts"]["sigma_source"] == "estimated"
    assert record["seconds"]["total"] > 0
