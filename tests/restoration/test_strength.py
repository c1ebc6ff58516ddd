"""The share of a change that is applied: none is the input to the bit, all is the answer, and what lies between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import settings_of

import dipfast
from dipfast.image import Source, read, write
from dipfast.record import is_answer
from dipfast.report.evaluate import evaluate
from dipfast.restoration.line import Observation, observe, restore
from dipfast.restoration.strength import with_strength
from dipfast.store.folder import RunFolder

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


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_map_of_deviations_is_held_against_the_answer_alone(
    strength: float, tmp_path: Path, picture: np.ndarray
) -> None:
    """It is that of strength 1, so at another one no calibration is told: not in the record, not by `evaluate`."""
    write(tmp_path / "in/a.png", picture, Source("png", "rgb", 8))
    sets = ["task.noise.sigma=25", "fit.steps=2", "generator.channels=[8, 8]", "preset=fast"]
    sets += ["degrade={type: gaussian, sigma: 25}", f"output.strength={strength}"]
    dipfast.run(tmp_path / "in", tmp_path / "run", workers=1, sets=sets)
    (record,) = RunFolder(tmp_path / "run").all_records()
    assert record["output"]["uncertainty"]
    assert ("coverage_90" in record["metrics"]) == (strength == 1) == is_answer(record)
    assert ("coverage_90" in evaluate(RunFolder(tmp_path / "run"), tmp_path / "in")) == (strength == 1)
