"""The share of a change that is applied: none is the input to the bit, all is the answer, and what lies between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import settings_of, task_of

import dipfast
from dipfast.image import Source, read, write
from dipfast.report.evaluate import evaluate
from dipfast.restoration.line import Observation, observe, restore
from dipfast.restoration.strength import deviation_with_strength, noise_variance, with_strength
from dipfast.store.folder import RunFolder
from dipfast.tasks import pose
from dipfast.tasks.problem import NoiseBound

SHARES = (0.0, 0.3, 1.0)
TASKS: list[dict[str, Any]] = [
    {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}},
    {"type": "jpeg", "quality": 10},
    {"type": "inpaint", "keep_known": False},
]


def settings(task: dict[str, Any], strength: float, **more: Any) -> Any:
    tree = {
        "task": task,
        "fit": {"steps": 2, "precision": "fp32"},
        "generator": {"channels": [8, 8], "input": {"type": "noise", "depth": 4}},
        "output": {"strength": strength},
    }
    return settings_of(tree | more)


def noisy(picture: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(scale=0.1, size=picture.shape)
    return (picture + noise).clip(0, 1).astype(np.float32)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task["type"])
def test_a_share_of_the_change_is_applied_and_what_is_missing_is_the_answer(
    task: dict[str, Any], picture: np.ndarray
) -> None:
    observed = noisy(picture)
    known = np.ones((1, 32, 32), bool)
    if task["type"] == "inpaint":
        known[:, 10:20, 5:9] = False
    seen = Observation(observed, known if not known.all() else None, None, Source("png", "rgb", 8))
    none, some, answer = (restore(settings(task, share), seen, "cpu").pixels for share in SHARES)
    everywhere = np.broadcast_to(known, observed.shape)
    assert np.array_equal(none[everywhere], observed[everywhere])
    assert not np.array_equal(answer[everywhere], observed[everywhere])
    expected = observed + np.float32(0.3) * (answer - observed)
    assert np.array_equal(some[everywhere], expected[everywhere])
    for one in (none, some):
        assert np.array_equal(one[~everywhere], answer[~everywhere])


def test_known_pixels_that_are_kept_stay_and_holes_are_filled_at_any_strength(picture: np.ndarray) -> None:
    known = np.ones((1, 32, 32), bool)
    known[:, 10:20, 5:9] = False
    seen = Observation(noisy(picture), known, None, Source("png", "rgb", 8))
    none, answer = (restore(settings({"type": "inpaint"}, share), seen, "cpu").pixels for share in (0.0, 1.0))
    assert np.array_equal(none, answer)


def test_colours_under_alpha_come_back_as_they_were(tmp_path: Path, picture: np.ndarray) -> None:
    alpha = np.ones((32, 32), np.float32)
    alpha[:9] = 0
    write(tmp_path / "a.png", noisy(picture), Source("png", "rgb", 8, alpha=alpha, alpha_kind="straight"))
    image = read(tmp_path / "a.png")
    asked = settings(TASKS[0], 0.0)
    assert np.array_equal(restore(asked, observe(asked, image, None, None), "cpu").pixels, image.pixels)


def test_any_strength_lies_between_the_two_and_the_ends_are_the_two() -> None:
    rng = np.random.default_rng(1)
    observed, answer = rng.random((2, 3, 16, 16), np.float32)
    assert with_strength(observed, answer, 1.0) is answer
    assert np.array_equal(with_strength(observed, answer, 0.0), observed)
    low, high = np.minimum(observed, answer), np.maximum(observed, answer)
    before = np.zeros_like(observed)
    for strength in (1e-9, 0.2, 0.5, 0.9, 1 - 1e-9):
        mixed = with_strength(observed, answer, strength)
        assert mixed.dtype == np.float32
        assert (mixed >= low - 1e-6).all() and (mixed <= high + 1e-6).all()
        assert (np.abs(mixed - observed) >= before - 1e-6).all()
        before = np.abs(mixed - observed)


@pytest.mark.parametrize(("ending", "depth"), [("png", 8), ("png", 16), ("tif", 16), ("tif", 32)])
def test_a_run_of_strength_0_writes_the_input_and_says_so(
    ending: str, depth: Any, tmp_path: Path, picture: np.ndarray
) -> None:
    given = tmp_path / f"a.{ending}"
    write(given, noisy(picture), Source("png" if ending == "png" else "tiff", "rgb", depth))
    sets = ["task.noise.sigma=25", "fit.steps=2", "generator.channels=[8, 8]", "output.strength=0"]
    dipfast.run(given, tmp_path / "run", workers=1, sets=[*sets, f"output.template=a.{ending}"])
    assert np.array_equal(read(tmp_path / f"run/images/a.{ending}").pixels, read(given).pixels)
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "run/records").iterdir())
    assert record["settings"]["output"]["strength"] == 0 and record["output"]["strength"] == 0


def test_the_deviations_of_a_run_are_held_against_its_pictures_at_any_strength(
    tmp_path: Path, picture: np.ndarray
) -> None:
    write(tmp_path / "in/a.png", picture, Source("png", "rgb", 8))
    sets = ["task.noise.sigma=25", "fit.steps=2", "generator.channels=[8, 8]", "preset=fast"]
    sets += ["degrade={type: gaussian, sigma: 25}", "output.strength=0.5"]
    dipfast.run(tmp_path / "in", tmp_path / "run", workers=1, sets=sets)
    (record,) = RunFolder(tmp_path / "run").all_records()
    assert record["output"]["uncertainty"] and 0 < record["metrics"]["coverage_90"] < 1
    scores = evaluate(RunFolder(tmp_path / "run"), tmp_path / "in")
    assert scores["coverage_90"] == pytest.approx(record["metrics"]["coverage_90"], abs=0.02)


@pytest.mark.parametrize("strength", SHARES)
def test_the_expected_error_is_that_of_the_picture_that_is_returned(strength: float, picture: np.ndarray) -> None:
    """Of an answer that is the best guess: half of the picture's variance is noise, so its error is half of that."""
    rng, sigma = np.random.default_rng(0), np.float32(0.1)
    clean, noise = rng.normal(scale=sigma, size=(2, 3, 64, 64)).astype(np.float32)
    observed, answer = clean + noise, (clean + noise) / 2
    variance, deviation = np.full_like(clean, sigma**2), np.full_like(clean, sigma * np.sqrt(0.5))
    mixed = with_strength(observed, answer, strength)
    for known in (variance, None):
        found = deviation_with_strength(deviation, answer, mixed, strength, known)
        assert np.square(found).mean() == pytest.approx(np.square(mixed - clean).mean(), rel=0.05)


def test_the_deviation_falls_from_that_of_the_noise_to_that_of_the_answer() -> None:
    rng = np.random.default_rng(0)
    observed, answer = rng.random((2, 3, 8, 8), np.float32)
    variance, deviation = np.full_like(answer, 0.04), rng.uniform(0, 0.1, answer.shape).astype(np.float32)
    before = np.full_like(answer, 0.2 + 1e-6)
    for strength in (0.0, 0.1, 0.5, 0.9, 1.0):
        mixed = with_strength(observed, answer, strength)
        found = deviation_with_strength(deviation, answer, mixed, strength, variance)
        assert found.dtype == np.float32 and (found <= before).all() and (found >= deviation - 1e-6).all()
        before = found + 1e-6
    assert found is deviation


def test_where_nothing_is_changed_the_deviation_stays() -> None:
    answer, deviation = np.full((1, 4, 4), 0.5, np.float32), np.zeros((1, 4, 4), np.float32)
    for variance in (None, np.full_like(answer, 0.01)):
        assert not deviation_with_strength(deviation, answer, answer.copy(), 0.3, variance).any()


@pytest.mark.parametrize(
    ("task", "is_known"),
    [
        ({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}, True),
        ({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25, "clipped": False}}, True),
        ({"type": "denoise", "noise": {"type": "poisson", "peak": 30}}, True),
        ({"type": "denoise", "noise": {"type": "salt-pepper"}}, False),
        ({"type": "jpeg", "quality": 10}, False),
    ],
)
def test_the_noise_of_the_observed_picture_is_known_where_it_was_told(
    task: dict[str, Any], is_known: bool, picture: np.ndarray
) -> None:
    variance = noise_variance(pose(task_of(task), noisy(picture)), picture)
    assert (variance is not None) == is_known
    if variance is not None:
        assert variance.shape in (picture.shape, (1, 1, 1), (3, 1, 1)) and (variance > 0).all()


def test_noise_beside_impulses_or_shared_by_neighbours_is_not_told_by_its_deviation(picture: np.ndarray) -> None:
    problem = pose(task_of({"type": "denoise"}), noisy(picture))
    assert noise_variance(replace(problem, bound=NoiseBound(0.1, True)), picture) is not None
    assert noise_variance(replace(problem, bound=NoiseBound(0.1, False)), picture) is None
    assert noise_variance(replace(problem, facts=problem.facts | {"impulses": 0.01}), picture) is None


def test_the_map_of_strength_0_is_that_of_the_noise_and_known_pixels_have_none(picture: np.ndarray) -> None:
    sizes: dict[str, Any] = {"refine": {}, "fit": {"steps": 2, "precision": "fp32", "windows": {"side": 64}}}
    sizes["generator"] = {"channels": [8, 8], "input": {"type": "image"}}
    alpha = Observation(noisy(picture), None, None, Source("png", "rgb", 8))
    none, answer = (restore(settings(TASKS[0], share, **sizes), alpha, "cpu").deviation for share in (0.0, 1.0))
    assert none is not None and answer is not None
    middle = (picture > 0.35) & (picture < 0.65)
    assert np.median(255 * none[middle]) == pytest.approx(25, rel=0.05)
    assert (none >= answer).all()
    known = np.ones((1, 32, 32), bool)
    known[:, 10:20, 5:9] = False
    seeds: dict[str, Any] = {"fit": {"steps": 2, "precision": "fp32", "seeds": 2}}
    seen = Observation(noisy(picture), known, None, Source("png", "rgb", 8))
    for keep in (True, False):
        task = {"type": "inpaint", "keep_known": keep}
        half, whole = (restore(settings(task, share, **seeds), seen, "cpu").deviation for share in (0.5, 1.0))
        assert half is not None and whole is not None
        hole = np.broadcast_to(~known, half.shape)
        assert np.array_equal(half[hole], whole[hole]) and half[hole].all()
        assert bool(half[~hole].any()) is not keep and (half >= whole).all()
