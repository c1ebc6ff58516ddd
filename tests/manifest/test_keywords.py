"""Settings from Python's keywords."""
# ruff: noqa: E501

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipfast.errors import UsageError
from dipfast.manifest import settings_from
from dipfast.settings.fit import Adam
from dipfast.settings.stop import DiscrepancyStop


def complaint(task: Any = None, preset: str | None = None, **overrides: Any) -> str:
    with pytest.raises(UsageError) as caught:
        settings_from(task, preset, overrides)
    return str(caught.value)


def test_nothing_is_a_balanced_denoise() -> None:
    settings = settings_from(None, None, {})
    assert (settings.task.type, settings.preset) == ("denoise", "balanced")


def test_keywords_go_to_fit_and_task() -> None:
    settings = settings_from("denoise", "fast", {"sigma": 25, "steps": 7, "average": None})
    assert (settings.task.noise.sigma, settings.fit.steps, settings.fit.average) == (25.0, 7, None)


def test_whole_sections_are_taken_by_name() -> None:
    settings = settings_from({"type": "superres", "scale": 2}, None, {"fit": {"steps": 7}, "generator": {"bias": True}})
    assert (settings.task.scale, settings.fit.steps, settings.generator.bias) == (2, 7, True)


def test_text_stands_for_a_section_of_that_type() -> None:
    settings = settings_from("denoise", None, {"fit": {"stop": "discrepancy", "optimizer": "adam"}})
    assert (settings.fit.stop, settings.fit.optimizer) == (DiscrepancyStop(type="discrepancy"), Adam())


def test_text_stands_for_a_section_inside_another_too() -> None:
    settings = settings_from({"noise": "gaussian"}, None, {"sigma": 5, "generator": {"input": "meshgrid"}})
    assert (settings.task.noise.sigma, settings.generator.input.type) == (5, "meshgrid")


def test_numpys_numbers_and_paths_are_taken() -> None:
    overrides = {"steps": np.int64(7), "average": np.float32(0.5), "reference": Path("a.png")}
    settings = settings_from(None, None, overrides)
    assert (settings.fit.steps, settings.fit.average, settings.reference) == (7, 0.5, "a.png")


def test_an_inpainting_needs_no_mask_here() -> None:
    assert settings_from("inpaint", None, {}).task.mask is None


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"steps": "many"}, "restore(): steps: should be a whole number, is 'many'"),
        ({"stepss": 3}, "restore(): unknown argument 'stepss'; did you mean 'steps'?"),
        ({"fit": {"stepss": 3}}, "restore(): unknown argument 'stepss'; did you mean 'steps'?"),
        ({"sigma": -3}, "restore(): sigma: should be above 0, is -3"),
        ({"preset": "fst"}, "restore(): preset: should be fast, balanced, best or paper, is 'fst'; did you mean 'fast'?"),
        ({"task": "flash"}, "restore(): task.type: task 'flash' is not in this version; there are auto, denoise, jpeg, inpaint, superres"),
        ({"task": "superres"}, "restore(): task.scale: is missing (how many times larger each side becomes)"),
        ({"task": "jpeg", "scale": 3}, "restore(): task: unknown key 'scale'; scale belongs to task superres"),
        ({"task": "inpaint", "stop": "discrepancy"}, "restore(): stop.type: discrepancy needs task denoise with gaussian or poisson noise, or jpeg of some quality, is task inpaint"),
        ({"stop": "never"}, "restore(): stop.type: should be auto, fixed, ema-variance, windowed-variance, held-out, sure, discrepancy or blocks, is 'never'"),
        ({"generator": {"chanels": 3}}, "restore(): generator: unknown key 'chanels'; did you mean 'channels'?"),
        ({"generator": 3}, "restore(): generator: should be a mapping, is 3"),
    ],
)  # fmt: skip
def test_a_wrong_argument_is_named(arguments: dict[str, Any], expected: str) -> None:
    assert complaint(**arguments) == expected


def test_all_wrong_arguments_are_named_at_once() -> None:
    assert len(complaint("denoise", "fst", steps="x", seed=-1, foo=3).splitlines()) == 4


def test_the_place_is_the_callers() -> None:
    with pytest.raises(UsageError, match=r"^variants\(\): seed: "):
        settings_from(None, None, {"seed": -1}, place="variants()")
