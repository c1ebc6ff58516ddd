"""A picture is changed no more than the noise that was measured in it explains, and one without noise not at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import damage_of, settings_of, task_of
from scipy.ndimage import gaussian_filter

from dipfast import tasks
from dipfast.image import Limits, read
from dipfast.metrics import psnr
from dipfast.restoration.line import Observation, restore
from dipfast.restoration.refinement import is_left_alone, refined, refined_again, stored_refinement
from dipfast.restoration.warnings import warnings_of
from dipfast.samples import locate
from dipfast.settings.document import Settings
from dipfast.settings.refine import Refine
from dipfast.tasks.noise import estimate_noise
from dipfast.tasks.problem import ClippedGaussian, NoiseBound

UNKNOWN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}}
QUICK = Refine(patch=5, neighbours=16, window=15, stride=5)


def picture(name: str, side: int = 192) -> np.ndarray:
    clean = read(locate(f"sample:{name}"), Limits()).pixels
    top, left = ((length - side) // 2 for length in clean.shape[1:])
    return clean[:, top : top + side, left : left + side]


def blotched(clean: np.ndarray, sigma: float, blur: float) -> np.ndarray:
    """Return ``clean`` with noise that neighbours share, as a camera's own denoising leaves it, in 8 bits."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=clean.shape), (0, blur, blur))
    noisy = clean + noise / noise.std() * sigma / 255
    return (np.round(255 * noisy.clip(0, 1)) / 255).astype(np.float32)


def smoothed(picture: np.ndarray, sides: int) -> torch.Tensor:
    """Return what a fit that lost detail gives: a blurred picture, [1, C, H, W]."""
    return torch.from_numpy(gaussian_filter(picture, (0, sides, sides)))[None]


@pytest.mark.parametrize("name", ["grass", "gravel"])
def test_a_texture_that_fills_the_picture_is_not_taken_for_noise(name: str) -> None:
    found = estimate_noise(picture(name, 256))
    assert found.is_texture and found.facts["taken_for_texture"] == "yes"
    assert 255 * found.std > 12 and 255 * found.level < 5


@pytest.mark.parametrize(("sigma", "blur"), [(5.0, 1.5), (8.0, 1.2)])
def test_blotches_are_measured_although_the_finest_details_hold_no_noise(sigma: float, blur: float) -> None:
    found = estimate_noise(blotched(picture("rocket", 256), sigma, blur))
    assert not found.is_texture and found.correlation.radius == 2
    assert 255 * found.level == pytest.approx(sigma, rel=0.2)


@pytest.mark.parametrize("sigma", [3.0, 25.0])
def test_of_white_noise_the_bound_is_its_own_strength(sigma: float) -> None:
    clean = picture("coffee")
    noisy = (clean + np.random.default_rng(0).normal(scale=sigma / 255, size=clean.shape)).clip(0, 1)
    bound = tasks.pose(task_of(UNKNOWN), noisy.astype(np.float32)).bound
    assert bound is not None and bound.is_white
    assert bound.std is not None and 255 * bound.std == pytest.approx(sigma, rel=0.15)


def test_noise_that_was_told_has_no_bound() -> None:
    given = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 5.0}}
    assert tasks.pose(task_of(given), picture("coffee")).bound is None


def test_a_change_that_noise_explains_is_applied_and_a_larger_one_is_not() -> None:
    clean = picture("astronaut")
    y, noise = torch.from_numpy(clean)[None], ClippedGaussian(torch.tensor(2 / 255))
    pilot = smoothed(clean, 2)
    told, measured = (refined(y, pilot, noise, QUICK, bound) for bound in (None, NoiseBound(2 / 255, True)))
    changes = [255 * (one.picture - y[0]).square().mean().sqrt().item() for one in (told, measured)]
    assert changes[0] > 4 > 2 > changes[1]
    assert told.applied == 1 and measured.applied < 0.8
    ample = refined(y, pilot, noise, QUICK, NoiseBound(1.0, True))
    assert ample.applied == 1 and torch.equal(ample.picture, y[0] + (told.picture - y[0]))


def test_where_the_change_is_detail_the_expected_error_is_that_of_the_noise() -> None:
    clean = picture("grass")
    y, noise, bound = torch.from_numpy(clean)[None], ClippedGaussian(torch.tensor(1 / 255)), NoiseBound(1 / 255, True)
    found = refined(y, smoothed(clean, 3), noise, QUICK, bound)
    assert found.applied < 0.1
    assert 255 * float(found.error.mean().sqrt()) == pytest.approx(1, rel=0.1)


def test_noise_that_is_not_white_is_taken_from_what_the_pilot_leaves() -> None:
    """The finest details understate it, so the model's variance would leave most of it in smooth places."""
    clean = gaussian_filter(picture("rocket"), (0, 1, 1))
    noisy = blotched(clean, 6.0, 1.5)
    y, pilot, noise = torch.from_numpy(noisy)[None], smoothed(noisy, 1), ClippedGaussian(torch.tensor(2 / 255))
    model, residual = (refined(y, pilot, noise, QUICK, NoiseBound(6 / 255, white)) for white in (True, False))
    found = [psnr(one.picture.clamp(0, 1).numpy(), clean) for one in (model, residual)]
    assert found[1] > found[0] + 0.2


def tiny_settings(**changes: Any) -> Settings:
    return settings_of(
        {
            "task": UNKNOWN,
            "generator": {"channels": [8, 8], "skip_channels": 2, "input": {"type": "image", "blind": 0.1}},
            "fit": {"steps": 3, "windows": {"count": 4, "side": 32}, "uncertainty": True, **changes},
            "refine": {"patch": 5, "neighbours": 8, "window": 11, "stride": 5},
        }
    )


def test_a_picture_without_noise_is_left_as_it_is_to_the_bit_and_no_step_is_taken() -> None:
    observed, settings = picture("brick"), tiny_settings()
    restored = restore(
        settings, Observation(observed, None, None, read(locate("sample:brick"), Limits()).source), "cpu"
    )
    assert np.array_equal(restored.pixels, observed)
    assert restored.fit.steps == 0 and restored.facts["change_applied"] == 0
    (text,) = warnings_of(settings, restored.facts)
    assert text.startswith("no noise was found, so the picture is left as it is; task.noise.sigma: NUMBER")
    assert restored.deviation is not None and not restored.deviation.any()


def test_a_picture_with_noise_is_fitted_and_a_larger_change_is_told() -> None:
    observed, settings = picture("coffee"), tiny_settings()
    restored = restore(
        settings, Observation(observed, None, None, read(locate("sample:coffee"), Limits()).source), "cpu"
    )
    assert restored.fit.steps == 3 and 0 < restored.facts["change_applied"] < 0.8
    assert psnr(restored.pixels, observed) > 44
    (text,) = (one for one in warnings_of(settings, restored.facts) if "explains" in one)
    assert text.startswith("the noise that was found (sigma ") and "the rest is detail of the picture" in text


@pytest.mark.parametrize("name", ["brick", "coffee"])
def test_force_fits_a_picture_without_noise_and_does_not_limit_the_change(name: str) -> None:
    forced = {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto", "force": True}}
    observed, settings = picture(name), tiny_settings()
    settings = settings.model_copy(update={"task": task_of(forced)})
    restored = restore(
        settings, Observation(observed, None, None, read(locate("sample:brick"), Limits()).source), "cpu"
    )
    assert restored.fit.steps == 3 and restored.facts["change_applied"] == 1
    assert not np.array_equal(restored.pixels, observed)
    assert not warnings_of(settings, restored.facts)
    bounds = [tasks.pose(task_of(task), observed).bound for task in (UNKNOWN, forced)]
    assert bounds[0] is not None and bounds[1] == replace(bounds[0], std=None)


@pytest.mark.parametrize("std", [0.0, 0.004, None])
def test_a_stored_refinement_has_its_bound_and_gives_the_same_bits(std: float | None) -> None:
    observed, settings = picture("coffee", 96), tiny_settings()
    problem = replace(tasks.pose(settings.task, observed), bound=NoiseBound(std, False))
    pilot = smoothed(observed, 1)
    stored = stored_refinement(problem, settings)
    assert stored is not None and stored["bound"]["std"] == std
    bound = problem.bound
    kept = refined(problem.target, pilot, problem.expected_residual, settings.refine, bound)  # type: ignore[arg-type]
    assert torch.equal(refined_again(problem.target, pilot, stored)[0], kept.picture)
    assert is_left_alone(problem, settings) == (std == 0)


def test_a_coarse_jpeg_without_noise_is_told_of_its_own_task() -> None:
    damaged = tasks.degrade(damage_of({"type": "jpeg", "quality": 10}), picture("coffee"))
    facts = tasks.pose(task_of(UNKNOWN), damaged.observed).facts
    assert facts["jpeg_quality"] == 10
    (text,) = warnings_of(tiny_settings(), facts | {"change_applied": 0.0})
    assert "it was coded as a JPEG of quality 10, whose blocks task jpeg removes" in text
