"""What a run says at its end, on a real one: the table, `summary.json` and `results.csv`, with all that each owes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import MANIFEST

from dipfast.cli.app import main
from dipfast.image import read, write

STATES = ["done", "done", "done", "failed", "done"]


@pytest.fixture
def closed(inputs: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[str]]:
    """A run of four pictures, the last two of one size, and of a file that is none; and the lines of its table."""
    (inputs / "d.png").write_bytes(b"no picture")
    picture = read(inputs / "c.png")
    write(inputs / "e.png", picture.pixels[:, ::-1], picture.source)
    (inputs / "m.yaml").write_text(MANIFEST.format(steps=3))
    run = inputs.parent / "run"
    capsys.readouterr()
    assert main(["run", str(inputs / "m.yaml"), "-o", str(run), "--workers", "1", "--progress", "none"]) == 3
    return run, capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    "line",
    [
        r"items +4 of 5 done, 1 failed",
        r"seconds per image +median \S+ \S+, p90 \S+ \S+, p99 \S+ \S+",
        r"medians by phase +load .*pose .*setup .*fit .*save .*",
        r"cold and warm +cold \S+ \S+, warm \S+ \S+",
        r"per megapixel +\S+",
        r"slowest +[abce]\.png .*, [abce]\.png .*, [abce]\.png .*",
        r"wall time +\S+",
        r"images per hour +\S+",
        r"ran on +cpu .*: 4 images, \S+ an hour|ran on +cpu .*, \S+ an hour: 4 images",
        r"failed .*d\.png unreadable: .+",
    ],
)
def test_the_table_says(closed: tuple[Path, list[str]], line: str) -> None:
    assert [said for said in closed[1] if re.match(line, said)] != []


def test_the_summary_says_the_same_in_numbers(closed: tuple[Path, list[str]]) -> None:
    summary: dict[str, Any] = json.loads((closed[0] / "summary.json").read_text())
    assert [summary[name] for name in ("items", "done", "failed", "pending")] == [5, 4, 1, 0]
    assert summary["failures_by_kind"] == {"unreadable": 1}
    assert [Path(failure["path"]).name for failure in summary["failures"]] == ["d.png"]
    for name in ("seconds_per_image", "seconds_by_phase", "seconds_cold_and_warm"):
        assert all(value is None or value >= 0 for value in summary[name].values()), name
    assert summary["seconds_per_image"].keys() == {"median", "p90", "p99"}
    assert summary["seconds_by_phase"].keys() >= {"load", "pose", "setup", "fit", "save"}
    assert summary["seconds_per_megapixel"] > 0
    assert len(summary["slowest"]) == 4
    assert [ran["images"] for ran in summary["ran_on"]] == [4]
    assert summary["ran_on"][0]["images_per_hour"] > 0
    assert summary["images_per_hour"] == pytest.approx(4 * 3600 / summary["wall_seconds"], rel=1e-3)  # failed ones, too


def test_the_spreadsheet_has_every_item_with_its_seconds_or_its_reason(closed: tuple[Path, list[str]]) -> None:
    with (closed[0] / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == STATES
    for row in (row for row in rows if row["status"] == "done"):
        phases = [float(value) for name, value in row.items() if name.startswith("seconds_") and value]
        assert sum(phases) == pytest.approx(float(row["seconds"]), abs=0.01)
        assert row["finished"] and row["host"]
    assert (rows[3]["kind"], bool(rows[3]["reason"]), rows[3]["seconds"]) == ("unreadable", True, "")
