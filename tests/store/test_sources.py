"""Several sources in one run's folder: nothing of the first is lost, and what speaks of the folder speaks of both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY
from PIL import Image as Pillow

import dipfast
from dipfast.batch.forecast import forecast
from dipfast.batch.run import RunResult
from dipfast.errors import UsageError
from dipfast.files import sha256_of
from dipfast.manifest import load
from dipfast.progress import sentence
from dipfast.report import summary_of
from dipfast.store.folder import RunFolder
from dipfast.store.merge import merge
from dipfast.store.rows import EARLIER, rows_of
from dipfast.store.sources import note_source, source_of
from dipfast.workers.options import RunOptions

SETS = (f"generator={json.dumps(TINY)}", "task.noise.sigma=25", "fit.steps=2", "fit.seeds=1", "report.html=false")


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """Pictures a.png and b.png; x/c.png and y/c.png, which differ; and y/d.png."""
    for seed, name in enumerate(("a.png", "b.png", "x/c.png", "y/c.png", "y/d.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Pillow.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 20), np.uint8)).save(tmp_path / name)
    return tmp_path


def go(here: Path, source: str, *sets: str, events: list[Any] | None = None, **how: Any) -> RunResult:
    heard = [] if events is None else events
    manifest = load(str(here / source), sets=(*SETS, *sets))
    return dipfast.run(manifest, here / "run", workers=1, on_event=heard.append, **how)


def notes(events: list[Any]) -> list[str | None]:
    return [sentence(event) for event in events if event["event"] == "note"]


def check_agreement(here: Path, outputs: list[str]) -> None:
    """Whether every file and verb speaks of just these pictures, all done."""
    folder = RunFolder(here / "run")
    rows = rows_of(folder)
    assert sorted((row.output, row.status) for row in rows) == [(output, "done") for output in outputs]
    written = json.loads((folder.root / "summary.json").read_text())
    assert [summary["done"] for summary in (written, summary_of(folder, rows))] == [len(outputs)] * 2
    report, results = ((folder.root / name).read_text() for name in ("report.md", "results.csv"))
    assert all(f"images/{output}" in report and f",{output}," in results for output in outputs)
    assert len(results.splitlines()) == 1 + len(outputs)


def test_another_picture_into_the_same_folder_is_said_and_both_are_reported(here: Path) -> None:
    go(here, "a.png")
    before = {path: sha256_of(path) for path in (here / "run").glob("[rgi]*s/*")}
    events: list[Any] = []
    result = go(here, "b.png", events=events)
    stays = "it stays, and summary and report show it too"
    assert notes(events) == [f"{here / 'run'}: holds 1 item of another source ({here / 'a.png'}); {stays}"]
    assert before == {path: sha256_of(path) for path in before}
    assert (len(result.rows), result.exit_code, result.already_done) == (1, 0, 0)
    assert result.summary is not None and result.summary["already_done"] == 1
    check_agreement(here, ["a.png", "b.png"])


def test_each_source_goes_on_where_it_was(here: Path) -> None:
    for source, outputs in (("a.png", 1), ("b.png", 2), ("x", 3), ("a.png", 3), ("x", 3), ("x", 3)):
        result = go(here, source)
        assert result.summary is not None and result.summary["items"] == outputs
    assert result.idle and result.summary["already_done"] == 3
    check_agreement(here, ["a.png", "b.png", "c.png"])
    (here / "run/report.md").unlink()
    assert go(here, "x").idle
    check_agreement(here, ["a.png", "b.png", "c.png"])


def test_a_picture_of_another_source_is_not_written_over(here: Path) -> None:
    go(here, "x")
    before = {path: path.read_bytes() for path in sorted((here / "run").rglob("*")) if path.is_file()}
    told = "run: its output images/c.png would be written over that of another source, .*x/c.png; give another -o or"
    with pytest.raises(UsageError, match=told):
        go(here, "y")
    with pytest.raises(UsageError, match=told):
        go(here, "y", resume="never")
    with pytest.raises(UsageError, match=told):
        forecast(load(str(here / "y"), sets=SETS), here / "run", RunOptions("cpu", 1))
    assert before == {path: path.read_bytes() for path in sorted((here / "run").rglob("*")) if path.is_file()}
    go(here, "y", "output.template=y/{name}.png")
    check_agreement(here, ["c.png", "y/c.png", "y/d.png"])


def test_names_that_some_file_systems_take_for_one_are_not_written_over(here: Path) -> None:
    go(here, "x")
    (here / "y/c.png").rename(here / "y/C.png")
    with pytest.raises(UsageError, match=r"images/c\.png would be written over"):
        go(here, "y")


def test_a_picture_that_was_moved_is_the_same_source_and_is_listed_once(here: Path) -> None:
    go(here, "x")
    (here / "x").rename(here / "z")
    events: list[Any] = []
    assert go(here, "z", events=events).already_done == 1
    assert go(here, "z", "task.noise.sigma=10").exit_code == 0
    assert notes(events) == []
    check_agreement(here, ["c.png"])


def test_what_the_same_source_has_no_more_leaves_the_list(here: Path) -> None:
    go(here, "a.png")
    go(here, "y")
    (here / "y/d.png").unlink()
    go(here, "y")
    check_agreement(here, ["a.png", "c.png"])


def test_what_another_source_left_undone_leaves_the_list(here: Path) -> None:
    (here / "x/bad.png").write_bytes(b"no picture")
    assert go(here, "x").exit_code == 3
    events: list[Any] = []
    go(here, "a.png", events=events)
    assert "no longer listed: 1 item of another source that was not done" in str(notes(events))
    check_agreement(here, ["a.png", "c.png"])
    assert go(here, "x").already_done == 1


def test_other_settings_of_a_source_replace_its_results(here: Path) -> None:
    go(here, "a.png")
    go(here, "b.png")
    assert go(here, "a.png", "task.noise.sigma=10").already_done == 0
    check_agreement(here, ["a.png", "b.png"])


def test_the_folders_own_manifest_is_of_its_last_source(here: Path) -> None:
    go(here, "a.png")
    go(here, "y")
    assert go(here, "run/manifest.resolved.yaml").already_done == 2
    check_agreement(here, ["a.png", "c.png", "d.png"])
    (here / "y/d.png").unlink()
    go(here, "y")
    check_agreement(here, ["a.png", "c.png"])


def test_shards_keep_what_another_source_has_done(here: Path) -> None:
    go(here, "a.png")
    for part in (1, 2):
        events: list[Any] = []
        go(here, "y", shard=(part, 2), events=events)
        assert len(notes(events)) == 1
    check_agreement(here, ["a.png", "c.png", "d.png"])
    go(here, "y")
    check_agreement(here, ["a.png", "c.png", "d.png"])


def test_tasks_of_a_submitted_manifest_keep_what_another_source_has_done(here: Path) -> None:
    go(here, "a.png")
    folder, manifest = RunFolder(here / "run"), load(str(here / "y"), sets=SETS)
    note_source(folder, source_of(manifest, folder), listed=False)  # as a submission does
    (folder.root / "manifest.resolved.yaml").write_text(manifest.resolved())
    for part in (1, 2):
        go(here, "run/manifest.resolved.yaml", shard=(part, 2))
    check_agreement(here, ["a.png", "c.png", "d.png"])
    assert go(here, "y").already_done == 2


def test_a_merged_folder_has_one_list_of_all(here: Path) -> None:
    go(here, "a.png")
    go(here, "b.png")
    folder = merge([RunFolder(here / "run")], RunFolder(here / "merged"))
    assert sorted(row.output for row in rows_of(folder)) == ["a.png", "b.png"]
    assert not (folder.root / EARLIER).exists()
    merge([folder], RunFolder(here / "run"))
    assert sorted(row.output for row in rows_of(RunFolder(here / "run"))) == ["a.png", "b.png"]
    go(here, "a.png")
    check_agreement(here, ["a.png", "b.png"])


@pytest.mark.parametrize("name", [EARLIER, ".source.json"])
@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b'{"source": 3}'])
def test_any_bytes_in_place_of_what_is_remembered_lose_no_result(here: Path, name: str, data: bytes) -> None:
    go(here, "a.png")
    go(here, "b.png")
    (here / "run" / name).write_bytes(data)
    go(here, "a.png")
    assert go(here, "b.png").already_done == 1
    check_agreement(here, ["a.png", "b.png"])
