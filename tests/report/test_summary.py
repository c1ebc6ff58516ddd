"""A run in numbers: the right ones, strict JSON, and a spreadsheet that runs nothing."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dipfast.image import Source, write
from dipfast.report import evaluate as evaluation
from dipfast.report import print_summary, summarize, write_results, write_summary
from dipfast.report.evaluate import print_scores
from dipfast.report.summary import headlines
from dipfast.store.folder import RunFolder
from dipfast.store.rows import Row


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
        "render": None,
        "refine": None,
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


def test_time_left_goes_by_the_sizes_of_what_is_pending() -> None:
    times = {"finished": "2026-11-01T00:00:10+00:00", "seconds": {"total": 10.0}}
    rows = [done(input={"width": 64, "height": 64}, **times)]  # as long as 8192 pixels
    assert summarize([*rows, pending(pixels=64 * 64)])["seconds_left"] == 10.0
    assert summarize([*rows, pending(pixels=15 * 4096), pending(pixels=None)])["seconds_left"] == 90.0


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
        "seconds_render": "",
        "seconds_refine": "",
        "seconds_fit": "9.0",
        "seconds_distil": "",
        "seconds_save": "0.25",
        "finished": "",
        "device_name": "x86",
        "host": "box",
        "strength": "",
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


def measured(name: str, before: float | None, after: float | None) -> Row:
    """A done item whose PSNR is null where the picture equals its reference."""
    return done(name, metrics={"psnr_before": before, "psnr": after, "ssim_before": 0.5, "ssim": 1.0})


def headline(rows: list[Row], name: str = "PSNR") -> str | None:
    return dict(headlines(summarize(rows))).get(name)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([(20.0, 28.0), (22.0, 30.0)], "21.00 → 29.00 dB (+8.00), mean of 2 images"),
        ([(20.0, 28.0), (22.0, None)], "20.00 → 28.00 dB (+8.00), mean of 1 image, and 1 identical"),
        ([(20.0, 28.0), (None, 30.0)], "20.00 → 28.00 dB (+8.00), mean of 1 image, and 1 identical before"),
        ([(None, None), (20.0, None)], "2 identical"),
        ([(None, 40.0)], "1 identical before"),
    ],
)
def test_pictures_that_equal_their_references_are_said_beside_the_mean(rows: list[Any], words: str) -> None:
    assert headline([measured(f"{i}.png", *values) for i, values in enumerate(rows)]) == words


def test_what_was_not_measured_is_said_beside_the_mean() -> None:
    rows = [done("a.png"), measured("b.png", 20.0, None), done("c.png", metrics={}), failed()]
    rows.append(done("tiny.png", metrics={"psnr_before": 20.0, "psnr": 26.0, "ssim_before": None, "ssim": None}))
    assert headline(rows) == "20.00 → 27.00 dB (+7.00), mean of 2 images, and 1 identical, 1 not measured"
    assert headline(rows, "SSIM") == "0.500 → 0.875 (+0.375), mean of 2 images, and 2 not measured"
    assert headline([done("c.png", metrics={}), pending()]) is None


def test_the_files_tell_equal_pictures_from_those_that_were_not_measured(folder: RunFolder) -> None:
    rows = [measured("a.png", 20.0, None), done("b.png", metrics={}), measured("c.png", None, 30.0)]
    metrics = write_summary(folder, rows)["metrics"]
    assert json.loads((folder.root / "summary.json").read_text(), parse_constant=pytest.fail)["metrics"] == metrics
    counted = ("psnr_items", "psnr_identical", "psnr_identical_before", "psnr_unmeasured", "psnr")
    assert [metrics[name] for name in counted] == [0, 1, 1, 1, None]
    assert [row["psnr"] for row in results(folder)] == ["inf", "", "30.0"]


@pytest.fixture
def truths(folder: RunFolder) -> Path:
    """References of six pictures: two are equal to them, one is too small for SSIM, and one has another size."""
    noise = np.random.default_rng(0).random((2, 1, 16, 16), np.float32)
    pictures = {"a": noise[0], "b": noise[0], "tiny": noise[0, :, :8], "same": noise[1], "equal": noise[1]}
    for name, picture in (pictures | {"other": noise[0, :, :12]}).items():
        truth = noise[1] if name == "other" else noise[1, :, : picture.shape[1]]
        write(folder.images / f"{name}.png", picture, Source("png", "gray", 8))
        write(folder.root / "true" / f"{name}.png", truth, Source("png", "gray", 8))
    return folder.root / "true"


def test_an_evaluation_leaves_no_picture_out_of_what_it_says(
    folder: RunFolder, truths: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [done(path.name, output={"paths": [path.name]}) for path in sorted(folder.images.iterdir())]
    monkeypatch.setattr(evaluation, "rows_of", lambda _: rows)
    scores = evaluation.evaluate(folder, truths)
    items = {item["output"]: item for item in scores["items"]}
    finite = [item["psnr"] for item in items.values() if item["psnr"] is not None]
    assert [name for name, item in items.items() if item["identical"]] == ["equal.png", "same.png"]
    assert (scores["psnr_items"], scores["psnr_identical"], scores["ssim_items"]) == (3, 2, 4)
    assert scores["psnr"] == pytest.approx(sum(finite) / len(finite))
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    console = Console(file=io.StringIO(), width=160)
    print_scores(scores, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("∞") == 2
    assert f"{scores['psnr']:.2f} of 3 images, and 2 identical" in text
    assert f"{scores['ssim']:.4f} of 4 images" in text


@pytest.mark.parametrize("amiss", [False, True])
def test_scores_have_a_column_of_reasons_only_where_there_are_any(amiss: bool) -> None:
    items = [{"output": "a.png", "psnr": 30.0, "ssim": 0.9, "identical": False}]
    if amiss:
        items.append({"output": "b.png", "psnr": None, "ssim": None, "identical": False, "reason": "it is empty"})
    console = Console(file=io.StringIO(), width=80)
    counts = {"psnr_items": 1, "ssim_items": 1, "psnr_identical": 0}
    print_scores({"items": items, "missing": [], "psnr": 30.0, "ssim": 0.9} | counts, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("not measured" in text) == ("it is empty" in text) == amiss


@pytest.mark.parametrize(
    ("output", "cell"), [({"paths": ["a.png"]}, "1.0"), ({"strength": 0.7}, "0.7"), ({"strength": "most"}, "")]
)
def test_results_have_the_share_of_the_change(folder, output: dict, cell: str) -> None:
    write_results(folder, [done(output=output)])
    assert results(folder)[0]["strength"] == cell
