"""The task of a picture that is given without one: what its file tells, and what keys and options say instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from dipfast import tasks
from dipfast.batch.choose import choose_task, chosen_in_words
from dipfast.cli.app import main
from dipfast.errors import ManifestError
from dipfast.image import luma_steps, read, write
from dipfast.image.source import Source
from dipfast.manifest import Manifest, load
from dipfast.settings.files import Input

TINY = ["--set", "generator={channels: [8, 8], input: {type: noise, depth: 4}}", "--set", "fit.steps=3"]


def loaded(*sources: Path | str, **options: Any) -> Manifest:
    return load([str(source) for source in sources], choose=choose_task, **options)


def task_of(*sources: Path | str, **options: Any) -> Any:
    [item] = loaded(*sources, **options).items
    return item.settings.task


@pytest.fixture
def photo(tmp_path: Path, picture: np.ndarray) -> Path:
    write(tmp_path / "photo.png", picture, Source("png", "rgb", 8))
    return tmp_path / "photo.png"


def with_alpha(photo: Path, alpha: np.ndarray) -> Path:
    """Return a copy of ``photo`` with ``alpha`` [32, 32] of 0 and 1."""
    pixels = np.asarray(Pillow.open(photo))
    path = photo.with_name("alpha.png")
    Pillow.fromarray(np.dstack([pixels, (255 * alpha).astype(np.uint8)])).save(path)
    return path


def hole() -> np.ndarray:
    alpha = np.ones((32, 32))
    alpha[10:14, 8:16] = 0
    return alpha


def background() -> np.ndarray:
    return 1 - np.pad(np.zeros((20, 20)), 6, constant_values=1)


def corner() -> np.ndarray:
    alpha = np.ones((32, 32))
    alpha[:6, :6] = 0
    return alpha


def lost() -> np.ndarray:
    return (np.random.default_rng(0).random((32, 32)) > 0.4).astype(float)


def ring() -> np.ndarray:
    alpha = background()
    alpha[14:18, 14:18] = 0
    return alpha


@pytest.mark.parametrize(
    ("alpha", "task"),
    [
        (hole(), "inpaint"),
        (lost(), "inpaint"),
        (np.ones((32, 32)), "denoise"),
        (background(), "denoise"),
        (corner(), "denoise"),
        (ring(), "denoise"),
        (np.zeros((32, 32)), "denoise"),
    ],
    ids=["hole", "lost", "opaque", "background", "corner", "ring", "nothing"],
)
def test_holes_in_alpha_are_filled_and_a_background_is_none(photo: Path, alpha: np.ndarray, task: str) -> None:
    found = choose_task(str(with_alpha(photo, alpha)), Input())
    assert found.task == ({"type": "inpaint", "mask": "alpha"} if task == "inpaint" else {"type": "denoise"})


@pytest.mark.parametrize(
    ("quality", "task"), [(1, "jpeg"), (5, "jpeg"), (60, "jpeg"), (61, "denoise"), (95, "denoise")]
)
def test_a_coarse_jpeg_loses_its_blocks(photo: Path, quality: int, task: str) -> None:
    path = photo.with_suffix(".jpg")
    Pillow.open(photo).save(path, quality=quality)
    steps = luma_steps(path)
    assert steps is not None and tasks.quality_of(steps) == quality
    assert choose_task(str(path), Input()).task == {"type": task}


@pytest.mark.parametrize("name", ["photo_mask.png", "photo.mask.png"])
def test_a_mask_beside_a_picture_is_its_own_and_is_no_picture(photo: Path, name: str) -> None:
    mask = photo.with_name(name)
    write(mask, np.ones((1, 32, 32), np.float32), Source("png", "gray", 8))
    for sources in ([photo], [photo.parent], [photo.parent / "*.png"], [photo, mask]):
        manifest = loaded(*sources)
        assert [(item.path, item.mask) for item in manifest.items] == [(str(photo), str(mask))]
    assert manifest.left_out == "1 mask"
    assert [item.settings.task.type for item in loaded(mask).items] == ["denoise"]


@pytest.mark.parametrize("name", ["not a picture.png", "missing.png"])
def test_a_file_that_cannot_be_read_is_left_to_fail_by_itself(tmp_path: Path, name: str) -> None:
    (tmp_path / "not a picture.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    assert choose_task(str(tmp_path / name), Input()).task == {"type": "denoise"}


@pytest.mark.parametrize(
    ("options", "task"),
    [
        ({"short": {"sigma": "25"}}, "denoise"),
        ({"short": {"force": True}}, "denoise"),
        ({"short": {"scale": 3}}, "superres"),
        ({"short": {"quality": "auto"}}, "jpeg"),
        ({"short": {"mask": "alpha"}}, "inpaint"),
        ({"sets": ["task.noise.sigma=25"]}, "denoise"),
        ({"sets": ["task.keep_known=false", "task.mask=alpha"]}, "inpaint"),
        ({"sets": ["task=superres", "task.scale=2"]}, "superres"),
        ({"sets": ["task.type=denoise"], "short": {"sigma": "25"}}, "denoise"),
        ({"sets": ["degrade={type: downsample, scale: 2}"]}, "superres"),
        ({"task": "auto", "short": {"scale": 2}}, "superres"),
        ({"task": "denoise"}, "denoise"),
        ({}, "jpeg"),
    ],
)
def test_what_is_said_of_the_task_wins_over_the_file(photo: Path, options: dict[str, Any], task: str) -> None:
    path = photo.with_suffix(".jpg")
    Pillow.open(photo).save(path, quality=10)
    found = task_of(path, **options)
    assert found.type == task
    assert "sigma" not in options.get("short", {}) or found.noise.sigma == 25


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"short": {"sigma": "25", "scale": 2}}, "--scale 2: belongs to task superres, but --sigma asks for task"),
        ({"task": "jpeg", "short": {"mask": "alpha"}}, "--mask alpha: belongs to task inpaint, but --task jpeg asks"),
        ({"short": {"quality": "10", "force": True}}, "--quality 10: belongs to task jpeg, but --force asks for"),
        ({"short": {"sigma": "strong"}}, "--sigma strong: task.noise.sigma: should be a number or auto"),
        ({"short": {"scale": 1}}, "--scale 1: task.scale: should be at least 2"),
        ({"short": {"quality": "200"}}, "--quality 200: task.quality: should be at most 100"),
        ({"sets": ["task.nois.sigma=3"]}, "--set task.nois.sigma=3: task: unknown key 'nois'; did you mean 'noise'"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(photo: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(photo, **options)
    assert len(caught.value.problems) == 1 and caught.value.problems[0].startswith(message)


def test_an_option_of_a_task_gives_it_to_items_that_name_none_and_is_refused_for_another(photo: Path) -> None:
    manifest = photo.with_name("m.yaml")
    manifest.write_text("version: 1\nitems: [photo.png]\n")
    assert task_of(manifest, short={"scale": 2}).scale == 2
    manifest.write_text("version: 1\ndefaults: {task: jpeg}\nitems: [photo.png]\n")
    with pytest.raises(ManifestError, match=r"^--scale 2: belongs to task superres, and the task here is another$"):
        loaded(manifest, short={"scale": 2})
    assert task_of(manifest, task="auto").type == "denoise"


def test_a_manifest_without_a_task_denoises_and_one_with_auto_looks_at_the_pictures(photo: Path) -> None:
    Pillow.open(photo).save(photo.with_name("old.jpg"), quality=10)
    manifest = photo.with_name("m.yaml")
    for row, task in (("old.jpg", "denoise"), ("{path: old.jpg, task: auto}", "jpeg")):
        manifest.write_text(f"version: 1\nitems: [{row}]\n")
        assert task_of(manifest).type == task
    manifest.write_text("version: 1\ndefaults: {task: auto}\nitems: [old.jpg, photo.png]\n")
    assert [item.settings.task.type for item in loaded(manifest).items] == ["jpeg", "denoise"]
    assert (
        chosen_in_words(loaded(manifest).items) == "tasks: 1 jpeg (JPEGs of quality 60 or less), 1 denoise (the others)"
    )


def test_a_hole_is_filled_and_the_rest_stays_as_it_was(
    photo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photo.parent)
    path = with_alpha(photo, hole())
    assert main([str(path), "-o", "out.png", "--workers", "1", *TINY]) == 0
    assert "task: inpaint (its alpha has holes)\n" in capsys.readouterr().err
    restored, given = read("out.png"), read(path)
    assert restored.source.alpha is None
    known = hole() > 0
    assert np.array_equal(restored.pixels[:, known], given.pixels[:, known])
    assert not np.array_equal(restored.pixels, given.pixels)
    [record] = Path("runs").glob("*/records/*.json")
    assert json.loads(record.read_text())["facts"]["task_chosen"] == "its alpha has holes"


@pytest.mark.parametrize("alpha", [None, np.ones((32, 32)), np.zeros((32, 32))])
def test_a_mask_of_alpha_needs_holes(
    photo: Path, alpha: np.ndarray | None, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = photo if alpha is None else with_alpha(photo, alpha)
    arguments = [str(path), "--mask", "alpha", "-o", str(tmp_path / "run"), "--workers", "1", *TINY]
    assert main(["run", *arguments]) == 3
    assert "task.mask is alpha" in capsys.readouterr().out
    assert main(["plan", *arguments]) == (3 if alpha is None else 0)
