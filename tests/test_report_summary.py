"""A run in numbers: the right ones, strict JSON, and a spreadsheet that runs nothing."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from rich.console import Console

from dipfast.batch.ledger import RunFolder
from dipfast.batch.run import Row
from dipfast.report import print_summary, summarize, write_results, write_summary
from dipfast.report.evaluate import print_scores


def record(name: str = "dog.png", **changes: Any) -> dict[str, Any]:
    """A record as the worker writes it, as far as a report reads it."""
    whole = {
        "id": name,
        "input": {"path": f"/in/{name}", "sha256": None, "width": 100, "height": 50},
        "settings": {"task": {"type": "denoise"}, "preset": "fast", "fit": {"steps": 400}, "degrade": None},
        "ran": {"device": "cpu", "device_name": "x86", "engine": "eager", "precision": "fp32", "host": "box"},
        "steps": 300,
        "chosen_step": 240,
        "why": "all steps taken",
        "losses": [[100, 0.1], [200, 0.01], [300, 0.001]],
        "seconds": {"load": 0.5, "setup": 0.25, "fit": 9.0, "save": 0.25, "total": 10.0},
        "metrics": {"psnr_before": 20.0, "psnr": 28.0, "ssim_before": 0.5, "ssim": 0.75},
    }
    return whole | changes


def done(name: str = "dog.png", **changes: Any) -> Row:
    return Row(f"/in/{name}", name, name, "done", record(name, **changes))


def failed(path: str = "bad.png", kind: str | None = "unreadable", reason: str | None = "it is empty") -> Row:
    return Row(path, path, None, "failed", kind=kind, reason=reason)


def pending(path: str = "later.png", **changes: Any) -> Row:
    return Row(path, path, path, "pending", **changes)


def timed(seconds: list[float]) -> list[Row]:
    return [done(f"{i}.png", seconds={"total": value}) for i, value in enumerate(seconds)]


def results(folder: RunFolder) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder.root / "results.csv").read_text())))


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path)


def test_every_item_is_counted_once() -> None:
    summary = summarize([done(), failed(), failed("b.png", "too-large"), failed("c.png"), pending()], 60.0)
    assert [summary[name] for name in ("items", "done", "failed", "pending")] == [5, 1, 3, 1]
    assert summary["failures_by_kind"] == {"unreadable": 2, "too-large": 1}
    assert summary["failures"][1] == {
        "path": "b.png",
        "output": "b.png",
        "id": None,
        "kind": "too-large",
        "reason": "it is empty",
    }


def test_percentiles_are_interpolated() -> None:
    summary = summarize(timed([float(n) for n in range(1, 102)]), 1.0)
    assert summary["seconds_per_image"] == {"median": 51.0, "p90": 91.0, "p99": 100.0}
    assert summarize(timed([1.0, 2.0]), 1.0)["seconds_per_image"] == {"median": 1.5, "p90": 1.9, "p99": 1.99}


def test_phases_are_medians() -> None:
    rows = [done(f"{n}.png", seconds={"load": n, "fit": 2.0 * n, "total": 3.0 * n}) for n in (1, 2, 9)]
    assert summarize(rows)["seconds_by_phase"] == {
        "load": 2.0,
        "setup": None,
        "fit": 4.0,
        "save": None,
        "pose": None,
        "distil": None,
    }


def test_the_slowest_come_first() -> None:
    slowest = summarize(timed([3.0, 9.0, 1.0, 4.0, 8.0, 2.0, 5.0]))["slowest"]
    assert [item["seconds"] for item in slowest] == [9.0, 8.0, 5.0, 4.0, 3.0]


def test_images_per_hour_leave_out_what_was_done_before() -> None:
    assert summarize(timed([1.0] * 6), 7200.0, already_done=2)["images_per_hour"] == 2.0
    assert summarize(timed([1.0] * 6))["images_per_hour"] is None


def fit_at(second: int, seconds: float = 10.0, **ran: Any) -> Row:
    """Done at a second of one minute."""
    where = {"device": "cuda:0", "host": "box", "pid": 7, "programs": 1} | ran
    times = {"finished": f"2026-01-01T00:00:{second:02d}+00:00", "seconds": {"total": seconds}}
    return done(f"{second}.png", ran=where, **times)


def test_a_device_is_counted_by_the_time_in_which_it_had_work() -> None:
    rows = [fit_at(10), fit_at(15), fit_at(40), fit_at(50, device="cuda:1")]
    ran = summarize(rows)["ran_on"]
    assert [(one["device"], one["images"], one["images_per_hour"]) for one in ran] == [
        ("cuda:0", 3, 432.0),  # in 25 s
        ("cuda:1", 1, 360.0),
    ]


def test_the_first_fit_of_a_program_is_cold_and_the_next_are_warm() -> None:
    rows = [fit_at(50, 2.0), fit_at(10, 30.0), fit_at(20, 3.0), fit_at(30, 40.0, programs=2), fit_at(40, 20.0, pid=8)]
    assert summarize(rows)["seconds_cold_and_warm"] == {"cold": 30.0, "warm": 2.5}
    assert summarize([done()])["seconds_cold_and_warm"] == {"cold": None, "warm": None}


def test_items_that_share_a_fit_count_once_in_times() -> None:
    twin = Row("/in/copy.png", "copy.png", "dog.png", "done", record())
    summary = summarize([done(), twin], 3600.0)
    assert (summary["done"], summary["images_per_hour"], len(summary["slowest"])) == (2, 1.0, 1)
    assert summary["ran_on"][0]["images"] == 1


def test_means_are_over_images_measured_before_and_after() -> None:
    half = {"psnr_before": None, "psnr": 99.0}
    rows = [
        done("a"),
        done("b", metrics=half),
        done("c", metrics={"psnr_before": 10.0, "psnr": 30.0}),
        done("d", metrics={}),
    ]
    metrics = summarize(rows)["metrics"]
    assert (metrics["psnr_items"], metrics["psnr_before"], metrics["psnr"]) == (2, 15.0, 29.0)
    assert (metrics["ssim_items"], metrics["ssim"]) == (1, 0.75)


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"task": {"type": "denoise"}}, (101, 50)),
        ({"task": {"type": "superres", "scale": 4}}, (404, 200)),
        ({"task": {"type": "superres", "scale": 4}, "degrade": {"type": "downsample"}}, (100, 48)),
        ({"task": {"type": "denoise"}, "degrade": {"type": "gaussian", "crop": 32}}, (32, 32)),
    ],
)
def test_the_size_is_that_of_the_picture_that_came_out(folder, settings, size) -> None:
    write_results(folder, [done(settings=settings, input={"width": 101, "height": 50})])
    assert (results(folder)[0]["width"], results(folder)[0]["height"]) == tuple(map(str, size))


def test_seconds_per_megapixel_are_of_the_output() -> None:
    large = {"task": {"type": "superres", "scale": 10}}
    assert summarize([done(settings=large)])["seconds_per_megapixel"] == 20.0  # 10 s for 1000 × 500


def test_time_left_counts_workers_that_ran_side_by_side() -> None:
    rows = [done(f"{n}.png", finished=f"2026-11-01T00:00:{(1 + n % 2) * 10}+00:00") for n in range(4)]
    assert summarize([*rows, *(pending(f"p{n}") for n in range(6))])["seconds_left"] == 30.0
    assert summarize(rows)["seconds_left"] is None


def test_a_record_of_rubbish_gives_a_strict_summary(folder) -> None:
    rubbish = {"seconds": {"total": float("nan")}, "metrics": {"psnr": float("inf"), "psnr_before": "x"}, "ran": None}
    rows = [
        done("nan.png", **rubbish),
        Row("b", "b", "b", "done", {}),
        Row("c", "c", "c", "done", {"input": 3, "ran": {"device": []}}),
    ]
    summary = write_summary(folder, rows, 0.0)
    json.loads((folder.root / "summary.json").read_text(), parse_constant=pytest.fail)
    assert summary["seconds_per_image"]["median"] is None
    print_summary(summary, Console(file=io.StringIO()))


def test_an_empty_run_has_a_summary(folder) -> None:
    summary = write_summary(folder, [], 0.0)
    assert (summary["items"], summary["images_per_hour"], summary["slowest"]) == (0, None, [])
    assert results(folder) == []


def test_a_name_that_is_no_unicode_stays_json_for_everyone(folder) -> None:
    write_summary(folder, [failed("caf\udce9 é.png")], 1.0)
    text = (folder.root / "summary.json").read_bytes().decode("utf-8")
    assert "é.png" in text
    assert json.loads(text)["failures"][0]["path"] == "caf\udce9 é.png"


def test_without_seconds_what_the_run_wrote_of_its_clock_stays(folder) -> None:
    write_summary(folder, timed([1.0, 1.0]), 1800.0, already_done=1)
    again = write_summary(folder, timed([1.0, 1.0, 1.0]))
    assert (again["done"], again["wall_seconds"], again["images_per_hour"], again["already_done"]) == (
        3,
        1800.0,
        2.0,
        1,
    )


def test_results_have_a_line_for_each_item(folder) -> None:
    write_results(folder, [done(), failed(), pending()])
    first, second, third = results(folder)
    assert first == {
        "path": "/in/dog.png",
        "output": "dog.png",
        "status": "done",
        "id": "dog.png",
        "task": "denoise",
        "preset": "fast",
        "width": "100",
        "height": "50",
        "steps": "300",
        "chosen_step": "240",
        "why": "all steps taken",
        "seconds": "10.0",
        "psnr_before": "20.0",
        "psnr": "28.0",
        "ssim_before": "0.5",
        "ssim": "0.75",
        "device": "cpu",
        "engine": "eager",
        "precision": "fp32",
        "kind": "",
        "reason": "",
        "seconds_load": "0.5",
        "seconds_pose": "",
        "seconds_setup": "0.25",
        "seconds_fit": "9.0",
        "seconds_distil": "",
        "seconds_save": "0.25",
        "finished": "",
        "device_name": "x86",
        "host": "box",
    }
    assert (second["status"], second["kind"], second["reason"]) == ("failed", "unreadable", "it is empty")
    assert third["status"] == "pending"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "＝1", "\n@x"])
def test_no_cell_is_a_formula(folder, name) -> None:
    write_results(folder, [failed(name, reason=name)])
    row = results(folder)[0]
    for cell in (row["path"], row["output"], row["reason"]):
        assert cell.startswith(("'", "\\"))


def test_a_negative_number_stays_a_number(folder) -> None:
    write_results(folder, [done(metrics={"ssim": -0.25})])
    assert results(folder)[0]["ssim"] == "-0.25"


def test_the_closing_table_can_be_read_when_piped() -> None:
    stream = io.StringIO()
    summary = summarize(
        [done(), done("cat.png"), failed("[red]\x1b.png", reason="[red]\x1b.png: it is empty"), pending()], 30.0
    )
    print_summary(summary, Console(file=stream, width=40))
    assert stream.getvalue().splitlines() == [
        "items              2 of 4 done, 1 failed, 1 pending",
        "PSNR               20.00 → 28.00 dB (+8.00), mean of 2 images",
        "SSIM               0.500 → 0.750 (+0.250), mean of 2 images",
        "seconds per image  median 10.0 s, p90 10.0 s, p99 10.0 s",
        "medians by phase   load 0.5 s, setup 0.25 s, fit 9.0 s, save 0.25 s",
        "per megapixel      33 min 20 s",
        "slowest            dog.png 10.0 s, cat.png 10.0 s",
        "wall time          30.0 s",
        "images per hour    240",
        "ran on             cpu (x86), eager, fp32: 2 images",
        "failed [red]\\x1b.png unreadable: it is empty",
    ]


def test_many_failures_are_counted_not_listed() -> None:
    stream = io.StringIO()
    print_summary(summarize([failed(f"{n}.png") for n in range(25)]), Console(file=stream))
    lines = stream.getvalue().splitlines()
    assert sum(line.startswith("failed ") for line in lines) == 20
    assert lines[-1] == "… and 5 more, in results.csv"


@pytest.mark.parametrize("amiss", [False, True])
def test_scores_have_a_column_of_reasons_only_where_there_are_any(amiss: bool) -> None:
    items = [{"output": "a.png", "psnr": 30.0, "ssim": 0.9}]
    if amiss:
        items.append({"output": "b.png", "psnr": None, "ssim": None, "reason": "it is empty"})
    console = Console(file=io.StringIO(), width=80)
    print_scores({"items": items, "missing": [], "psnr": 30.0, "ssim": 0.9}, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("not measured" in text) == ("it is empty" in text) == amiss
