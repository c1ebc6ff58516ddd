"""A run that finds nothing to do writes no summary and no report again, unless something of them changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import MANIFEST

import dipfast
from dipfast.batch import run as module
from dipfast.batch.run import RunResult
from dipfast.manifest import parse
from dipfast.report import note_current, summary_of
from dipfast.store.index import Index

PRODUCTS = ("summary.json", "results.csv", "report.md", "report.html")


def go(inputs: Path) -> RunResult:
    return dipfast.run(parse(MANIFEST.format(steps=3), "m.yaml", str(inputs)), inputs.parent / "run", workers=1)


def written(inputs: Path) -> dict[str, int]:
    return {name: (inputs.parent / "run" / name).stat().st_mtime_ns for name in PRODUCTS}


def test_a_run_that_finds_all_done_leaves_its_report(inputs: Path) -> None:
    first = go(inputs)
    before = written(inputs)
    again = go(inputs)
    assert written(inputs) == before
    assert again.idle and not first.idle
    assert again.summary is not None and first.summary is not None
    assert (again.summary["done"], again.summary["already_done"], first.summary["already_done"]) == (3, 3, 0)
    assert again.summary["seconds_per_image"] == first.summary["seconds_per_image"]


def test_it_looks_at_every_file_once(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(inputs)
    monkeypatch.setattr(module, "rows_of", lambda *_: pytest.fail("the files are looked at a second time"))
    assert [row.status for row in go(inputs).rows] == ["done"] * 3


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_product_that_is_gone_is_written_again(inputs: Path, name: str) -> None:
    go(inputs)
    (inputs.parent / "run" / name).unlink()
    go(inputs)
    assert (inputs.parent / "run" / name).is_file()


@pytest.mark.parametrize("text", ["[]", "{}", '{"done": 3}', "null"])
def test_what_is_no_summary_is_not_believed(inputs: Path, text: str) -> None:
    folder = go(inputs).folder
    (folder.root / "summary.json").write_text(text)
    note_current(folder)
    result = go(inputs)
    assert result.summary is not None
    assert result.summary["done"] == 3


def test_an_item_more_or_less_is_reported(inputs: Path) -> None:
    go(inputs)
    (inputs / "c.png").unlink()
    result = go(inputs)
    assert result.idle and result.summary is not None
    assert result.summary["items"] == 2
    assert (inputs.parent / "run" / "results.csv").read_text().count("\n") == 3


def test_a_run_that_ended_before_its_report_is_reported_by_the_next(inputs: Path) -> None:
    (inputs / "b.png").rename(inputs.parent / "b.png")
    folder = go(inputs).folder
    (inputs.parent / "b.png").rename(inputs / "b.png")
    module.run(parse(MANIFEST.format(steps=3), "m.yaml", str(inputs)), folder)
    result = go(inputs)
    assert result.idle and result.summary is not None
    assert result.summary["done"] == 3


def test_status_reads_no_record_where_the_summary_holds(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = go(inputs)
    rows = module.rows_of(result.folder)
    assert (summary := result.summary) is not None
    monkeypatch.setattr(Index, "record", lambda *_: pytest.fail("a record is read"))
    assert summary_of(result.folder, rows) == summary


def test_status_sees_what_was_lost_since_the_summary(inputs: Path) -> None:
    folder = go(inputs).folder
    (folder.images / "a.png").unlink()
    summary = summary_of(folder, module.rows_of(folder))
    assert (summary["done"], summary["pending"]) == (2, 1)


def test_a_summary_that_was_changed_is_not_the_status(inputs: Path) -> None:
    folder = go(inputs).folder
    text = (folder.root / "summary.json").read_text()
    (folder.root / "summary.json").write_text(text.replace('"done": 3', '"done": 3 '))
    assert summary_of(folder, module.rows_of(folder))["wall_seconds"] is None
