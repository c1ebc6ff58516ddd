"""Impulse noise is distinguished from Gaussian noise, and from small details of pictures and pages."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import settings_of, task_of

import dipfast
from dipfast import tasks
from dipfast.image import Limits, read
from dipfast.restoration.warnings import warnings_of
from dipfast.samples import locate
from dipfast.tasks.impulses import impulses, without

AUTO: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}}
GIVEN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
PICTURES = ("sample:page", "sample:camera", "sample:astronaut", "sample:text")


def clean(name: str, side: int = 160) -> np.ndarray:
    pixels = read(locate(name), Limits()).pixels
    return np.ascontiguousarray(pixels[:, :side, :side])


def specked(pixels: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Make ``share`` of the pixels black or white; return the picture and where it has changed, [1, H, W]."""
    rng = np.random.default_rng(0)
    hit, white = rng.random((2, 1, *pixels.shape[1:]))
    observed = np.where(hit < share, np.float32(1) * (white < 0.5), pixels).astype(np.float32)
    return observed, (np.abs(observed - pixels) > 0.2).any(0, keepdims=True)


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("share", [0.01, 0.1])
def test_specks_are_found_and_replaced(name: str, share: float) -> None:
    pixels = clean(name)
    observed, changed = specked(pixels, share)
    found = impulses(observed)
    assert found is not None
    assert (found & changed).sum() > 0.9 * changed.sum()
    before, after = (np.mean((x - pixels) ** 2) for x in (observed, without(observed, found)))
    assert after < 0.2 * before


@pytest.mark.parametrize("name", PICTURES)
@pytest.mark.parametrize("sigma", [0, 10, 60])
def test_pictures_with_and_without_gaussian_noise_have_none(name: str, sigma: float) -> None:
    noise = np.random.default_rng(0).standard_normal(clean(name).shape) * sigma / 255
    levels = np.rint(255 * (clean(name) + noise).clip(0, 1)) / 255
    assert impulses(levels.astype(np.float32)) is None


def test_strokes_corners_and_halftones_are_no_specks() -> None:
    drawing = np.ones((1, 96, 96), np.float32)
    drawing[0, 10:80, 20] = drawing[0, 40, 5:90] = 0
    drawing[0, np.arange(60), np.arange(60) + 30] = 0
    board = (np.indices((96, 96)) // 4).sum(0)[None] % 2
    dots = np.zeros((1, 96, 96), np.float32)
    dots[0, ::3, ::3] = 1
    for pixels in (drawing, board.astype(np.float32)):
        assert impulses(pixels) is None
    assert impulses(np.tile([[0.0, 1.0], [1.0, 0.0]], (48, 48))[None].astype(np.float32)) is None


def test_a_few_dead_pixels_are_no_noise() -> None:
    observed = clean("sample:camera")
    observed[0, 30, 40] = observed[0, 90, 100] = 0
    assert impulses(observed) is None


@pytest.mark.parametrize("shape", [(1, 1, 40), (3, 2, 2), (1, 3, 3)])
def test_the_smallest_pictures_have_none(shape: tuple[int, ...]) -> None:
    assert impulses(np.zeros(shape, np.float32)) is None


def test_a_fax_with_specks_is_not_taken_for_strong_gaussian_noise() -> None:
    observed, _ = specked(clean("sample:page"), 0.02)
    facts = tasks.pose(task_of(AUTO), observed).facts
    assert float(facts["sigma"]) < 5
    assert float(facts["impulses"]) == pytest.approx(0.02, rel=0.25)
    settings = {"generator": {"input": {"type": "image", "blind": 0.1, "reach": "auto"}}}
    (warning,) = warnings_of(settings_of(settings), facts)
    assert "salt-and-pepper" in warning and warning.startswith("1.9 %")


def test_a_page_of_two_levels_comes_back_better_and_else_as_it_was() -> None:
    page = (clean("sample:page", 160) > 0.5).astype(np.float32)
    observed, changed = specked(page, 0.02)
    tiny = {"channels": [8, 8], "input": {"type": "noise", "depth": 4}}
    answer = dipfast.restore(observed[0], generator=tiny, steps=2, precision="fp32").image
    found = impulses(observed)
    assert found is not None and np.array_equal(answer[~found[0]], observed[0][~found[0]])
    assert (found & changed).sum() > 0.5 * changed.sum()
    assert np.mean((without(observed, found) - page) ** 2) < 0.75 * np.mean((observed - page) ** 2)
    assert tasks.pose(task_of(AUTO), page).facts["sigma"] == 0


def test_noise_whose_strength_is_given_is_left_at_its_word() -> None:
    observed, _ = specked(clean("sample:camera"), 0.02)
    assert "impulses" not in tasks.pose(task_of(GIVEN), observed).facts


def test_specks_beside_gaussian_noise_do_not_hide_its_strength() -> None:
    noise = np.random.default_rng(1).standard_normal((3, 160, 160)) * 15 / 255
    observed, _ = specked((clean("sample:astronaut") + noise).clip(0, 1), 0.03)
    assert float(tasks.pose(task_of(AUTO), observed).facts["sigma"]) == pytest.approx(15, rel=0.15)


def test_a_dim_picture_with_specks_keeps_its_range() -> None:
    observed, _ = specked(0.05 * clean("sample:camera"), 0.02)
    problem = tasks.pose(task_of(AUTO), observed)
    assert float(problem.range.width) < 0.07


def test_the_record_says_that_specks_were_filled() -> None:
    observed, _ = specked(clean("sample:page", 64), 0.03)
    tiny = {"channels": [8, 8], "input": {"type": "noise", "depth": 4}}
    record = dipfast.restore(observed[0], generator=tiny, steps=2, precision="fp32").record
    assert "salt-and-pepper" in record["warnings"][0]
