"""The share of a change, applied after the fact: to a run's pictures, and to what a fitted denoiser holds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipfast
from dipfast.cli.app import main
from dipfast.export.targets import targets
from dipfast.image import Source, read, write

WHOLE = ("generator.channels=[8, 8]", "generator.input={type: noise, depth: 4}", "fit={steps: 3, windows: null}")
WINDOWS = ("preset=fast", "fit.steps=3", "generator.channels=[8, 8]")


def fitted(folder: Path, *sets: str) -> Path:
    picture = np.random.default_rng(0).random((3, 48, 48), np.float32)
    write(folder / "a.png", picture, Source("png", "rgb", 8))
    dipfast.run(folder / "a.png", folder / "run", workers=1, sets=("task.noise.sigma=25", *sets))
    return folder / "run"


@pytest.fixture(scope="module", params=["windows", "whole"])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sets: Any = WINDOWS if request.param == "windows" else (*WHOLE, "refine=null")
    return fitted(tmp_path_factory.mktemp(request.param), *sets)


def rendered(tmp_path: Path, what: Path, *options: str) -> np.ndarray:
    assert main(["render", str(what), "-o", str(tmp_path / "out.png"), *options]) == 0
    return read(tmp_path / "out.png").pixels


def test_a_runs_picture_is_rendered_at_another_strength(run: Path, tmp_path: Path) -> None:
    given, answer = read(run.parent / "a.png").pixels, rendered(tmp_path, run)
    assert np.array_equal(rendered(tmp_path, run, "--strength", "0"), given)
    assert np.array_equal(rendered(tmp_path, run, "--strength", "1"), answer)
    half = rendered(tmp_path, run, "--strength", "0.5")
    np.testing.assert_allclose(half, (given + answer) / 2, atol=1.01 / 255)


def test_a_run_of_some_strength_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    run = fitted(tmp_path, *WINDOWS, "output.strength=0.5")
    kept = read(run / "images/a.png").pixels
    assert np.array_equal(rendered(tmp_path, run), kept)
    assert not np.array_equal(rendered(tmp_path, run, "--strength", "1"), kept)


def test_without_its_source_only_a_denoiser_has_other_strengths(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lone = tmp_path / "lone.safetensors"
    shutil.copy(targets(run)[0].generator, lone)
    given = read(run.parent / "a.png").pixels
    if "windows" in run.parent.name:
        assert np.array_equal(rendered(tmp_path, lone, "--strength", "0"), given)
        assert np.array_equal(rendered(tmp_path, lone, "--strength", "1"), rendered(tmp_path, lone))
    else:
        assert main(["render", str(lone), "--strength", "0.5"]) == 2
        error = capsys.readouterr().err
        assert "holds no observed picture for --strength 0.5; give its run" in error and error.count("\n") == 1
    (run.parent / "a.png").rename(run.parent / "away.png")
    try:
        if "windows" in run.parent.name:
            assert np.array_equal(rendered(tmp_path, run, "--strength", "0"), given)
        else:
            assert main(["render", str(run), "--strength", "0.5"]) == 2
            assert "a.png: is not as it was, so strength 0.5 cannot be applied" in capsys.readouterr().err
            rendered(tmp_path, run, "--strength", "1")
    finally:
        (run.parent / "away.png").rename(run.parent / "a.png")


@pytest.mark.parametrize("strength", ["1.5", "-1", "nan", "high"])
def test_a_wrong_strength_is_one_line(strength: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", str(tmp_path), "--strength", strength]) == 2
    error = capsys.readouterr().err
    assert "--strength" in error and error.count("\n") == 1


def test_a_denoiser_is_applied_to_another_picture_in_part(tmp_path: Path) -> None:
    run, other = fitted(tmp_path, *WINDOWS), tmp_path / "other.png"
    write(other, np.random.default_rng(1).random((3, 40, 50), np.float32), Source("png", "rgb", 8))
    generator = targets(run)[0].generator
    assert np.array_equal(rendered(tmp_path, generator, str(other), "--strength", "0"), read(other).pixels)
    assert not np.array_equal(rendered(tmp_path, generator, str(other)), read(other).pixels)
