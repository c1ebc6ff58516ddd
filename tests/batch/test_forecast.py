"""What a run will do, before it does it: every failure that a header or the memory tells of, as the run will say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MANIFEST, run
from PIL import Image as Pillow

from dipfast.batch import foresee
from dipfast.batch.forecast import forecast
from dipfast.cli.app import main
from dipfast.manifest import Manifest, parse
from dipfast.store.folder import RunFolder
from dipfast.workers.options import RunOptions

INPAINT = "task: {{type: inpaint, mask: {mask}, known: white}}"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A gray picture of 20×16 pixels, and others that may or may not belong to it."""
    folder = tmp_path / "in"
    folder.mkdir()
    dots = 255 * np.random.default_rng(0).integers(0, 2, (16, 20), np.uint8)
    Pillow.fromarray(dots).save(folder / "a.png")
    Pillow.fromarray(dots).save(folder / "mask.png")
    Pillow.fromarray(dots.T.copy()).save(folder / "turned.png")
    Pillow.fromarray(dots).convert("RGB").save(folder / "rgb.png")
    Pillow.fromarray(dots).convert("LA").save(folder / "alpha.png")
    Pillow.fromarray(dots.astype(np.uint16) * 257).save(folder / "deep.png")
    Pillow.fromarray(np.repeat(np.repeat(dots, 2, 0), 2, 1)).save(folder / "large.png")
    (folder / "broken.png").write_bytes(b"no picture")
    orientation = Pillow.Exif()
    orientation[0x112] = 6
    Pillow.fromarray(dots.T.copy()).save(folder / "upright.png", exif=orientation)  # shown with 20×16 pixels
    return folder


def manifest(files: Path, row: str) -> Manifest:
    return parse(MANIFEST.format(steps=2).replace('"*.png"', f"{{{row}}}"), "m.yaml", str(files))


def planned(given: Manifest, folder: Path) -> dict[str, Any]:
    return forecast(given, folder, RunOptions("cpu", 1))


@pytest.mark.parametrize(
    "row",
    [
        "path: gone.png",
        "path: broken.png",
        "path: a.png, input: {max_pixels: 319}",
        "path: a.png, input: {formats: [jpeg]}",
        "path: a.png, " + INPAINT.format(mask="gone.png"),
        "path: a.png, " + INPAINT.format(mask="broken.png"),
        "path: a.png, " + INPAINT.format(mask="turned.png"),
        "path: a.png, " + INPAINT.format(mask="large.png"),
        "path: a.png, reference: gone.png",
        "path: a.png, reference: rgb.png",
        "path: a.png, reference: turned.png",
        "path: a.png, reference: large.png",
        "path: a.png, reference: mask.png, task: {type: superres, scale: 2}",
        "path: a.png, degrade: {type: gaussian, sigma: 5, crop: 17}",
        "path: a.png, fit: {memory: {limit: 100k}}",
        "path: a.png, fit: {memory: {limit: 0.1M, lower_precision: true}}",
        'path: deep.png, output: {template: "{name}.jpg"}',
        'path: deep.png, output: {template: "{name}.webp"}',
        'path: alpha.png, output: {template: "{name}.jpg"}',
    ],
)
def test_what_the_run_will_fail_is_said_with_its_reason(files: Path, row: str) -> None:
    given, folder = manifest(files, row), files.parent / "run"
    plan = planned(given, folder)
    assert (plan["items"], plan["outputs"], plan["seconds"]) == ([], 0, 0.0)
    [failed] = run(given, RunFolder(folder), workers=1).rows
    assert [(one["kind"], one["reason"]) for one in plan["failed"]] == [(failed.kind, failed.reason)]


@pytest.mark.parametrize(
    "row",
    [
        "path: a.png, " + INPAINT.format(mask="mask.png"),
        "path: a.png, " + INPAINT.format(mask="upright.png"),
        "path: upright.png, " + INPAINT.format(mask="mask.png"),
        "path: a.png, reference: mask.png",
        "path: a.png, reference: large.png, task: {type: superres, scale: 2}",
        "path: a.png, degrade: {type: gaussian, sigma: 5, crop: 16}",
        'path: deep.png, output: {template: "{name}.jpg", bit_depth: 8}',
        'path: alpha.png, output: {template: "{name}.webp"}',
        "path: a.png, fit: {memory: {limit: 1G}}",
    ],
)
def test_what_will_be_done_is_no_failure(files: Path, row: str) -> None:
    given = manifest(files, row)
    assert planned(given, files.parent / "run")["failed"] == []
    assert run(given, RunFolder(files.parent / "run"), workers=1).exit_code == 0


def test_a_fit_in_less_memory_is_planned_as_it_will_run(files: Path) -> None:
    [free] = planned(manifest(files, "path: a.png"), files.parent / "run")["items"]
    row = f"path: a.png, fit: {{memory: {{limit: {free['bytes']}}}}}"
    [less] = planned(manifest(files, row), files.parent / "run")["items"]
    assert less["bytes"] < 0.9 * free["bytes"]


def test_workers_on_one_cpu_divide_its_memory(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = manifest(files, "path: a.png")
    [row] = planned(given, files.parent / "run")["items"]
    monkeypatch.setattr(foresee, "available_bytes", lambda: 2 * row["bytes"])
    assert forecast(given, files.parent / "run", RunOptions("cpu", 1))["failed"] == []
    assert [one["kind"] for one in forecast(given, files.parent / "run", RunOptions("cpu", 9))["failed"]] == [
        "out-of-memory"
    ]


def test_what_is_done_fails_for_no_reference_and_no_lack_of_memory(files: Path) -> None:
    folder = files.parent / "run"
    run(manifest(files, "path: a.png"), RunFolder(folder), workers=1)
    later = manifest(files, "path: a.png, reference: gone.png, fit: {memory: {limit: 100k}}")
    plan = planned(later, folder)
    assert (plan["failed"], [row["done"] for row in plan["items"]]) == ([], [True])
    assert run(later, RunFolder(folder), workers=1).exit_code == 0


@pytest.mark.parametrize("verb", [["plan"], ["plan", "--json"], ["run", "--dry-run"]])
def test_failures_to_come_are_the_runs_exit_code(
    files: Path, verb: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "m.yaml").write_text(MANIFEST.format(steps=2).replace('"*.png"', "a.png, broken.png"))
    assert main([*verb, str(files / "m.yaml"), "-o", str(files / "run")]) == 3
    assert "broken.png: no image that dipfast knows" in capsys.readouterr().out.replace("\n", "")
    assert main([*verb, str(files / "a.png"), "-o", str(files / "run")]) == 0
    assert not (files / "run").exists()


def test_more_threads_than_cores_promise_no_more_speed(files: Path) -> None:
    given = manifest(files, "path: a.png, fit: {steps: 100000}")
    seconds = [forecast(given, files / "run", RunOptions("cpu", 1, threads))["seconds"] for threads in (500, 1000)]
    assert seconds[0] == seconds[1] > 1
