"""The share of a change, applied after the fact: to a run's pictures, and to what a fitted denoiser holds."""

from __future__ import annotations

import json
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
        assert "holds no observed picture for strength 0.5; give its run" in error and error.count("\n") == 1
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


SPEC = "{backends: [], jitter: [], precisions: [], blend: [], strength: [0, 0.5, 1]}"


def varied(tmp_path: Path, what: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, np.ndarray]:
    """The pictures of the variants, by name."""
    (tmp_path / "v.yaml").write_text(SPEC)
    capsys.readouterr()
    folder = tmp_path / "varied"
    assert main(["variants", str(what), "--spec", str(tmp_path / "v.yaml"), "-o", str(folder), "--json"]) == 0
    (rows,) = json.loads(capsys.readouterr().out).values()
    return {row["name"]: read(folder / row["picture"]).pixels for row in rows}


def test_variants_of_strengths_are_what_render_gives(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = varied(tmp_path, run, capsys)
    assert list(found) == ["fit", "strength 0", "strength 0.5", "strength 1"]
    for share in ("0", "0.5", "1"):
        assert np.array_equal(found[f"strength {share}"], rendered(tmp_path, run, "--strength", share))
    assert np.array_equal(found["strength 0"], read(run.parent / "a.png").pixels)


def test_variants_of_a_run_of_another_strength_begin_with_what_it_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = varied(tmp_path, fitted(tmp_path, *WINDOWS, "output.strength=0.5"), capsys)
    assert np.array_equal(found["fit"], found["strength 0.5"])
    assert not np.array_equal(found["fit"], found["strength 1"])


def test_variants_of_strengths_leave_known_pixels_and_hidden_colours_as_they_were(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = np.random.default_rng(0).random((3, 48, 48), np.float32)
    mask, alpha = np.ones((1, 48, 48), np.float32), np.ones((48, 48), np.float32)
    mask[:, 20:30], alpha[:9] = 0, 0
    write(tmp_path / "a.png", picture, Source("png", "rgb", 8, alpha=alpha, alpha_kind="straight"))
    write(tmp_path / "m.png", mask, Source("png", "gray", 8))
    given = read(tmp_path / "a.png").pixels
    task = (f"task={{type: inpaint, mask: {tmp_path}/m.png}}", "generator.channels=[8, 8]", "fit={steps: 2, seeds: 1}")
    for name, sets in (("holes", task), ("alpha", (*WINDOWS, "task.noise.sigma=25"))):
        dipfast.run(tmp_path / "a.png", tmp_path / name, workers=1, sets=sets)
        found = varied(tmp_path / name, tmp_path / name, capsys)
        kept = np.broadcast_to(mask > 0 if name == "holes" else alpha[None] == 0, given.shape)
        for share in ("0", "0.5", "1"):
            assert np.array_equal(found[f"strength {share}"][kept], given[kept])
        if name == "holes":
            assert np.array_equal(found["strength 0"], found["strength 1"])


@pytest.mark.parametrize("verb", ["render", "variants"])
def test_an_enlarged_picture_has_no_strength(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.png", np.random.default_rng(0).random((3, 24, 24), np.float32), Source("png", "rgb", 8))
    sets = ("task={type: superres, scale: 2}", "generator.channels=[8, 8]", "fit={steps: 2, seeds: 1}")
    dipfast.run(tmp_path / "a.png", tmp_path / "run", workers=1, sets=sets)
    (tmp_path / "v.yaml").write_text(SPEC)
    options = ["--strength", "0.5"] if verb == "render" else ["--spec", str(tmp_path / "v.yaml")]
    capsys.readouterr()
    assert main([verb, str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert "should be 1 for task superres, whose answer has another size" in error and error.count("\n") == 1
    assert not (tmp_path / "run/variants").exists() and not (tmp_path / "run/renders").exists()
