"""A run from manifest to records: identity, resume, failures, shards."""

from __future__ import annotations

import json
import os
import resource
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MANIFEST, run
from PIL import Image as Pillow

from dipfast.batch.prepare import prepare
from dipfast.batch.run import RunResult
from dipfast.errors import DipfastError, MachineError
from dipfast.image import Source, read, write
from dipfast.manifest import Manifest, parse
from dipfast.metrics import psnr
from dipfast.plan import Job, Place
from dipfast.progress import sentence
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of
from dipfast.workers import pipeline, worker
from dipfast.workers.messages import Leave


def manifest(inputs: Path, steps: int = 8, **changes: str) -> Manifest:
    sets = [f"{key.replace('__', '.')}={value}" for key, value in changes.items()]
    return parse(MANIFEST.format(steps=steps), "m.yaml", str(inputs), sets=sets)


def go(inputs: Path, steps: int = 8, events: list[Any] | None = None, resume: Any = "auto", **sets: str) -> RunResult:
    heard = events if events is not None else []
    folder = RunFolder(inputs.parent / "run")
    return run(manifest(inputs, steps, **sets), folder, workers=1, resume=resume, on_event=heard.append)


def fitted(events: list[Any]) -> list[str]:
    return sorted(Path(event["path"]).stem for event in events if event["event"] == "done")


def pixels(inputs: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (inputs.parent / "run" / "images").iterdir()}


def test_a_run_gives_images_records_generators_and_a_manifest_that_gives_the_same_run(inputs: Path) -> None:
    result = go(inputs)
    folder = result.folder
    assert result.exit_code == 0
    assert [row.status for row in result.rows] == ["done"] * 3
    assert read(folder.images / "b.png").pixels.shape == (3, 20, 32)
    assert all(folder.holds(record) for record in folder.all_records())
    again = parse((folder.root / "manifest.resolved.yaml").read_text(), "resolved", str(folder.root))
    assert [job.id for job in prepare(again.items).jobs] == [row.id for row in result.rows]
    record = result.rows[0].record
    assert record is not None
    assert record["ran"]["device"] == "cpu"
    assert record["steps"] == 8


def test_the_same_command_again_fits_nothing(inputs: Path) -> None:
    go(inputs)
    events: list[Any] = []
    assert go(inputs, events=events).already_done == 3
    assert fitted(events) == []


def test_only_a_changed_item_is_fitted_again(inputs: Path) -> None:
    go(inputs)
    before = pixels(inputs)
    write(inputs / "b.png", np.full((3, 20, 32), 0.5, np.float32), Source("png", "rgb", 8))
    events: list[Any] = []
    go(inputs, events=events)
    assert fitted(events) == ["b"]
    after = pixels(inputs)
    assert {name for name in after if after[name] != before[name]} == {"b.png"}


def replaced(path: Path, value: int) -> None:
    """A picture of black and white dots in its place, of other bytes and the same size and time."""
    before = path.stat() if path.exists() else None
    picture = 255 * np.random.default_rng(value).integers(0, 2, (16, 20), np.uint8)
    Pillow.fromarray(picture).save(path, compression=None)
    if before is not None:
        assert path.stat().st_size == before.st_size
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def alone(inputs: Path, **row: str) -> Manifest:
    """A manifest of the picture a.tif alone, with more keys for its row."""
    keys = ", ".join(f"{key}: {value}" for key, value in row.items())
    return parse(MANIFEST.format(steps=2).replace('"*.png"', f"{{path: a.tif, {keys}}}"), "m.yaml", str(inputs))


def test_a_picture_replaced_at_the_same_size_and_time_is_fitted_again(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    for value in range(2):
        replaced(inputs / "a.tif", value)
        result = run(alone(inputs), folder, workers=1)
        record = result.rows[0].record
        assert record is not None and record["metrics"] == {}
        assert (result.exit_code, result.already_done, len(folder.all_records())) == (0, 0, value + 1)


def test_a_mask_replaced_at_the_same_size_and_time_is_fitted_again(inputs: Path) -> None:
    folder, mask = RunFolder(inputs.parent / "run"), inputs / "mask.tif"
    replaced(inputs / "a.tif", 0)
    task = "{type: inpaint, mask: mask.tif, known: white}"
    for value in range(2):
        replaced(mask, value)
        assert run(alone(inputs, task=task), folder, workers=1).already_done == 0
    assert run(alone(inputs, task=task), folder, workers=1).already_done == 1


@pytest.mark.parametrize("which", ["a.tif", "mask.tif"])
def test_what_a_worker_finds_changed_is_taken_by_the_next_run_whatever_its_stamp(
    inputs: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """Where a file system keeps no times that can be relied on, only the worker's hash tells."""
    monkeypatch.setattr("dipfast.store.inputs.stat_of", lambda path: [Path(path).stat().st_size, 1, 1, 1])
    folder = RunFolder(inputs.parent / "run")
    job = alone(inputs, task="{type: inpaint, mask: mask.tif, known: white}")
    replaced(inputs / "a.tif", 0)
    replaced(inputs / "mask.tif", 1)
    run(job, folder, workers=1)
    replaced(inputs / which, 2)
    assert [row.kind for row in run(job, folder, workers=1, resume="never").rows] == ["changed"]
    result = run(job, folder, workers=1)
    assert (result.exit_code, result.already_done, len(folder.all_records())) == (0, 0, 1)


def measured(result: RunResult) -> Any:
    record = result.rows[0].record
    assert record is not None
    return record["metrics"].get("psnr")


def test_a_reference_that_is_given_or_replaced_is_measured_against_and_nothing_is_fitted(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    replaced(inputs / "a.tif", 0)
    run(alone(inputs), folder, workers=1)
    found, events = [], list[Any]()
    for value in (1, 2):
        replaced(inputs / "true.tif", value)
        found.append(measured(run(alone(inputs, reference="true.tif"), folder, workers=1, on_event=events.append)))
        again = run(alone(inputs, reference="true.tif"), folder, workers=1)
        clean, output = read(inputs / "true.tif").pixels, read(folder.images / "a.png").pixels
        assert measured(again) == found[-1] == pytest.approx(psnr(output, clean), abs=1e-4)
    assert found[0] != found[1]
    assert fitted(events) == []
    assert [event["reason"] for event in events if event["event"] == "warning"] == 2 * [
        "1 picture measured again: references were given or changed since"
    ]


def test_a_reference_replaced_by_one_that_does_not_belong_leaves_no_metrics(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    replaced(inputs / "a.tif", 0)
    replaced(inputs / "true.tif", 1)
    assert measured(run(alone(inputs, reference="true.tif"), folder, workers=1)) is not None
    Pillow.new("L", (9, 9)).save(inputs / "true.tif")
    events: list[Any] = []
    result = run(alone(inputs, reference="true.tif"), folder, workers=1, on_event=events.append)
    assert (result.already_done, measured(result)) == (1, None)
    assert "a.tif: has no metrics: reference should be 20×16 with 1 channels, is 9×9" in str(events)
    (inputs / "true.tif").unlink()
    assert run(alone(inputs, reference="true.tif"), folder, workers=1).exit_code == 0


def test_a_copied_run_is_hashed_and_nothing_is_fitted(inputs: Path) -> None:
    copy = shutil.copytree(go(inputs).folder.root, inputs.parent / "copy")
    shutil.copytree(inputs, inputs.parent / "restored")
    shutil.rmtree(inputs)
    (inputs.parent / "restored").rename(inputs)
    events: list[Any] = []
    assert run(manifest(inputs), RunFolder(copy), workers=1, on_event=events.append).already_done == 3
    assert fitted(events) == []


def test_a_setting_that_changes_pixels_fits_again_and_one_that_does_not_does_not(inputs: Path) -> None:
    go(inputs)
    events: list[Any] = []
    go(inputs, events=events, input__max_pixels="1M")
    assert fitted(events) == []
    go(inputs, events=events, fit__seed="1")
    assert fitted(events) == ["a", "b", "c"]


def test_a_renamed_input_is_not_fitted_again(inputs: Path) -> None:
    go(inputs)
    before = pixels(inputs)
    (inputs / "a.png").rename(inputs / "z.png")
    events: list[Any] = []
    result = go(inputs, events=events)
    assert fitted(events) == []
    assert [row.status for row in result.rows] == ["done"] * 3
    assert pixels(inputs)["z.png"] == before["a.png"]


def test_moved_and_reordered_inputs_are_not_fitted_again(inputs: Path) -> None:
    go(inputs)
    before = pixels(inputs)
    (inputs / "deep").mkdir()
    (inputs / "a.png").rename(inputs / "deep" / "a.png")
    moved = MANIFEST.format(steps=8).replace('["*.png"]', "[c.png, deep/a.png, b.png]")
    events: list[Any] = []
    folder = RunFolder(inputs.parent / "run")
    result = run(parse(moved, "m.yaml", str(inputs)), folder, workers=1, on_event=events.append)
    assert fitted(events) == []
    assert [row.output for row in result.rows] == ["c.png", "deep/a.png", "b.png"]
    assert [row.status for row in result.rows] == ["done"] * 3
    assert (folder.images / "deep" / "a.png").read_bytes() == before["a.png"]


def test_what_other_software_did_stays_done_with_a_warning(inputs: Path) -> None:
    folder = go(inputs).folder
    path = folder.root / "environment.json"
    told = json.loads(path.read_text())
    new = told["versions"]["torch"]
    path.write_text(json.dumps(told | {"versions": told["versions"] | {"torch": "1.0"}}))
    events: list[Any] = []
    assert go(inputs, events=events).already_done == 3
    [warning] = [event["reason"] for event in events if event["event"] == "warning"]
    assert warning == f"torch 1.0 is now {new}; what is done stays (--resume never does it again)"
    assert sentence({"event": "warning", "reason": warning}) == f"warning: {warning}"
    again: list[Any] = []
    go(inputs, events=again)
    assert "warning" not in {event["event"] for event in again}


def test_two_inputs_of_the_same_bytes_are_fitted_once_and_both_written(inputs: Path) -> None:
    (inputs / "twin.png").write_bytes((inputs / "a.png").read_bytes())
    events: list[Any] = []
    result = go(inputs, events=events)
    assert len(fitted(events)) == 3
    assert len(result.rows) == 4
    assert pixels(inputs)["twin.png"] == pixels(inputs)["a.png"]


def test_twins_of_two_formats_are_each_written_in_their_own(inputs: Path) -> None:
    (inputs / "twin.tif").write_bytes((inputs / "a.png").read_bytes())
    pair = parse(
        MANIFEST.format(steps=2).replace('"*.png"', '"a.png", "twin.tif"'),
        "m.yaml",
        str(inputs),
        sets=["output.template={name}.{ext}"],
    )
    result = run(pair, RunFolder(inputs.parent / "run"), workers=1)
    assert result.exit_code == 0
    assert [read(result.folder.images / name).source.format for name in ("a.png", "twin.tif")] == ["png", "tiff"]


def test_twins_with_two_references_are_each_measured_against_their_own(inputs: Path) -> None:
    (inputs / "twin.png").write_bytes((inputs / "a.png").read_bytes())
    third = "{path: twin.png, reference: c.png, output: {template: third.png}}"
    rows = "{path: a.png, reference: a.png}, {path: twin.png, reference: c.png}, " + third
    result = run(
        parse(MANIFEST.format(steps=2).replace('"*.png"', rows), "m.yaml", str(inputs)),
        RunFolder(inputs.parent / "run"),
        workers=1,
    )
    psnrs = [row.record["metrics"]["psnr"] for row in result.rows if row.record]
    assert psnrs[0] != psnrs[1]
    assert psnrs[1] == psnrs[2]
    assert len(list(result.folder.records.iterdir())) == 2


def test_a_damaged_output_is_made_again(inputs: Path) -> None:
    result = go(inputs)
    before = pixels(inputs)
    (result.folder.images / "c.png").write_bytes(b"torn")
    events: list[Any] = []
    go(inputs, events=events)
    assert fitted(events) == ["c"]
    assert pixels(inputs) == before


def test_a_failed_item_stops_no_other_and_is_tried_again(inputs: Path) -> None:
    good = (inputs / "b.png").read_bytes()
    (inputs / "b.png").write_bytes(good[:100])
    result = go(inputs)
    assert result.exit_code == 3
    assert [row.status for row in result.rows] == ["done", "failed", "done"]
    assert "b.png" in (result.rows[1].reason or "")
    (inputs / "b.png").write_bytes(good)
    events: list[Any] = []
    assert go(inputs, events=events, resume="failed").exit_code == 0
    assert fitted(events) == ["b"]


def test_resume_never_fits_all_again_to_the_same_bytes(inputs: Path) -> None:
    go(inputs)
    before = pixels(inputs)
    events: list[Any] = []
    go(inputs, events=events, resume="never")
    assert fitted(events) == ["a", "b", "c"]
    assert pixels(inputs) == before


def test_too_many_failures_end_the_run(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    bad = manifest(inputs, degrade="{type: gaussian, sigma: 25, crop: 1000}")
    result = run(bad, folder, workers=1, max_failures=0)
    assert result.exit_code == 3
    assert result.gave_up == "more items failed than allowed"
    assert sorted(row.pixels or 0 for row in result.rows if row.status == "pending") == [20 * 32, 32 * 32]


def test_inputs_that_cannot_be_read_count_as_failures_too(inputs: Path) -> None:
    (inputs / "b.png").write_bytes(b"no picture")
    result = run(manifest(inputs), RunFolder(inputs.parent / "run"), workers=1, max_failures=0)
    assert result.gave_up == "more items failed than allowed"
    assert [row.status for row in result.rows] == ["pending", "failed", "pending"]


def test_records_hold_no_nan_and_name_what_ran(inputs: Path) -> None:
    folder = go(inputs).folder
    for path in folder.records.iterdir():
        record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
        assert {"input", "settings", "seed", "ran", "steps", "chosen_step", "why", "seconds", "metrics"} <= set(record)


def states(result: RunResult) -> dict[str, str]:
    return {row.output: row.status for row in result.rows}


def test_an_item_that_fails_when_it_is_done_again_is_failed_though_its_old_picture_is_there(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(inputs)
    monkeypatch.setattr(pipeline, "restoring", lambda *_: exec("raise ValueError('no luck')"))
    result = go(inputs, resume="never")
    assert result.exit_code == 3
    assert set(states(result).values()) == {"failed"}
    assert result.rows[0].reason == "ValueError: no luck"


@pytest.mark.parametrize("data", [None, b"", b"something else"])
def test_a_run_whose_picture_is_gone_or_changed_does_not_say_that_it_is_done(inputs: Path, data: Any) -> None:
    folder = go(inputs).folder
    (folder.images / "b.png").unlink()
    if data is not None:
        (folder.images / "b.png").write_bytes(data)
    assert [row.status for row in rows_of(folder)] == ["done", "pending", "done"]
    assert rows_of(folder)[1].reason == "its picture is gone or was changed"


def test_a_twin_that_is_gone_is_copied_and_not_fitted(inputs: Path) -> None:
    (inputs / "twin.png").write_bytes((inputs / "a.png").read_bytes())
    folder = go(inputs).folder
    (folder.images / "a.png").unlink()
    events: list[Any] = []
    assert go(inputs, events=events).exit_code == 0
    assert fitted(events) == []
    assert pixels(inputs)["a.png"] == pixels(inputs)["twin.png"]


def test_what_was_done_is_not_hashed_again_by_the_next_run(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go(inputs)
    monkeypatch.setattr("dipfast.store.index.sha256_of", lambda path: pytest.fail(f"{path} is hashed"))
    monkeypatch.setattr("dipfast.remote.sha256_of", lambda path, most: pytest.fail(f"{path} is hashed"))
    assert go(inputs).already_done == 3


def test_an_input_that_was_repaired_since_is_taken_by_a_retry(inputs: Path) -> None:
    repaired = (inputs / "b.png").read_bytes()
    write(inputs / "b.png", np.zeros((1, 8, 8), np.float32), Source("png", "gray", 8))
    go(inputs, degrade__type="gaussian", degrade__sigma="5", degrade__crop="16")  # more than b.png has
    (inputs / "b.png").write_bytes(repaired)
    events: list[Any] = []
    again = {"degrade__type": "gaussian", "degrade__sigma": "5", "degrade__crop": "16"}
    assert go(inputs, events=events, resume="failed", **again).exit_code == 0
    assert fitted(events) == ["b"]


def test_a_retry_that_was_interrupted_is_taken_up_again(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "restoring", lambda *_: exec("raise ValueError"))
        folder = go(inputs).folder
    for row in rows_of(folder):
        folder.log("cpu-0", "claimed", id=row.id, path=row.path)
    events: list[Any] = []
    assert go(inputs, events=events, resume="failed").exit_code == 0
    assert fitted(events) == ["a", "b", "c"]


def test_two_shards_in_one_folder_are_one_run(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    first = run(manifest(inputs), folder, workers=1, shard=(1, 2))
    assert states(first) == {"a.png": "done", "c.png": "done"}
    second = run(manifest(inputs), folder, workers=1, shard=(2, 2))
    assert states(second) == {"b.png": "done"}
    assert [row.status for row in rows_of(folder)] == ["done"] * 3
    assert sorted(path.name for path in folder.ledger.iterdir()) == ["cpu-0.1-of-2.jsonl", "cpu-0.2-of-2.jsonl"]
    events: list[Any] = []
    whole = go(inputs, events=events)
    assert (fitted(events), whole.already_done, len(whole.rows)) == ([], 3, 3)


def test_shards_that_divide_in_another_way_replace_the_old_list(inputs: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    run(manifest(inputs, 1), folder, workers=1, shard=(1, 2))
    run(manifest(inputs, 1), folder, workers=1, shard=(3, 3))
    assert [row.output for row in rows_of(folder)] == ["c.png"]


def test_twins_in_two_shards_both_keep_their_picture(inputs: Path) -> None:
    for name in "bc":
        (inputs / f"{name}.png").write_bytes((inputs / "a.png").read_bytes())
    folder = RunFolder(inputs.parent / "run")
    run(manifest(inputs), folder, workers=1, shard=(1, 2))
    run(manifest(inputs), folder, workers=1, shard=(2, 2))
    assert [row.status for row in rows_of(folder)] == ["done"] * 3
    assert len(set(pixels(inputs).values())) == 1


@pytest.mark.parametrize("shape", [None, [], [3, "x", 4], [3, -1, 4], {}, [1, 2, 3, 4]])
def test_a_list_with_an_odd_shape_has_a_row_of_no_size(inputs: Path, shape: object) -> None:
    folder = RunFolder(inputs.parent / "run")
    folder.root.mkdir()
    entry = {"path": "a", "output": "a.png", "id": "a", "shape": shape}
    (folder.root / "items.jsonl").write_text(json.dumps(entry) + "\n")
    assert [(row.status, row.pixels) for row in rows_of(folder)] == [("pending", None)]


@pytest.mark.parametrize("line", [b"3", b"[]", b"{}", b'{"path": 1, "output": "a", "id": null}', b"{", b"\xff"])
def test_a_damaged_list_of_items_is_one_line(inputs: Path, line: bytes) -> None:
    folder = go(inputs, steps=1).folder
    (folder.root / "items.jsonl").write_bytes(line + b"\n")
    with pytest.raises(DipfastError, match=r"items.jsonl:1: is damaged; run the manifest again"):
        rows_of(folder)
    assert go(inputs, steps=1).already_done == 3


@pytest.mark.parametrize("name", ["images", "records", "ledger", "generators", "items.jsonl"])
def test_a_folder_that_cannot_be_written_is_one_line_and_what_is_done_stays_done(inputs: Path, name: str) -> None:
    """A file where a folder is needed, or the other way round, is what every user and root alike cannot write."""
    folder = RunFolder(inputs.parent / "run")
    blocked = folder.root / name
    if name == "items.jsonl":
        blocked.mkdir(parents=True)
    else:
        folder.root.mkdir()
        blocked.write_bytes(b"")
    if name in ("items.jsonl", "records"):
        with pytest.raises(MachineError, match=r"run: cannot be written"):
            go(inputs, steps=1)
        return
    result = go(inputs, steps=1)
    assert result.exit_code == 3
    assert {row.kind for row in result.rows} <= {"unwritable", None}


def test_a_full_disk_ends_the_run_with_one_line(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes: list[str] = []

    def full(self: RunFolder, path: str, data: bytes) -> None:
        writes.append(path)
        raise OSError(28, "No space left on device")

    folder = RunFolder(inputs.parent / "run")
    run(replace(manifest(inputs, 1), items=manifest(inputs, 1).items[:1]), folder, workers=1)
    monkeypatch.setattr(RunFolder, "put", full)
    with pytest.raises(MachineError, match=r"run: cannot be written \(No space left on device\); what is done stays"):
        go(inputs, steps=1)
    assert len(writes) == 1  # the other item was not even tried
    assert [row.status for row in rows_of(folder)].count("done") == 1


@pytest.mark.parametrize(
    ("attempt", "kind"),
    [
        (lambda: torch.empty(1 << 60), "out-of-memory"),
        (lambda: np.empty(1 << 60, np.uint8), "out-of-memory"),
        (lambda: exec("raise torch.OutOfMemoryError('CUDA out of memory. Tried')", {"torch": torch}), "out-of-memory"),
        (lambda: exec("raise RuntimeError('another')"), "internal"),
    ],
)
def test_a_lack_of_memory_is_called_that(inputs: Path, monkeypatch: Any, attempt: Any, kind: str) -> None:
    monkeypatch.setattr(pipeline, "restoring", lambda *_: attempt())
    row = go(inputs).rows[0]
    assert (row.status, row.kind) == ("failed", kind)
    assert "\n" not in (row.reason or "")


def test_the_environment_names_the_machine(inputs: Path) -> None:
    folder = go(inputs, steps=0).folder
    found = json.loads((folder.root / "environment.json").read_text())
    assert found["cpu"]
    assert found["memory"] > 1 << 27
    assert len(found["devices"]) == torch.cuda.device_count()
    assert {"driver", "cuda", "cudnn", "host", "cores", "command", "versions"} <= found.keys()


def test_an_input_that_changes_between_plan_and_fit_fails_alone(inputs: Path) -> None:
    def change(event: Any) -> None:
        if event["event"] == "started":
            write(inputs / "a.png", np.zeros((3, 32, 32), np.float32), Source("png", "rgb", 8))
            (inputs / "b.png").unlink()

    result = run(manifest(inputs, 1), RunFolder(inputs.parent / "run"), workers=1, on_event=change)
    assert [row.kind for row in result.rows] == ["changed", "unreadable", None]
    assert result.exit_code == 3
    assert go(inputs, steps=1).exit_code == 0  # b.png is no item any more


def test_a_fit_that_gives_nan_fails_alone(inputs: Path) -> None:
    result = go(inputs, steps=101, fit__optimizer__lr="3e38")
    assert {(row.status, row.kind) for row in result.rows} == {("failed", "non-finite")}


def test_a_generator_that_no_memory_holds_fails_alone(inputs: Path) -> None:
    """Four gigabytes of weights, in a process that may have one more than it has."""
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30), before[1]))
    try:
        result = go(inputs, steps=1, generator__channels="[4096, 4096]", generator__kernel_down="7")
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert {(row.status, row.kind) for row in result.rows} == {("failed", "out-of-memory")}


def test_another_mask_of_the_same_size_and_time_makes_another_item(inputs: Path) -> None:
    for name, row in (("one.tif", 3), ("two.tif", 9)):
        known = np.full((24, 40), 255, np.uint8)
        known[row] = 0
        Pillow.fromarray(known).save(inputs.parent / name, compression=None)
        os.utime(inputs.parent / name, ns=(1, 1))
    [item, *_] = manifest(inputs).items
    first = prepare([replace(item, mask=str(inputs.parent / "one.tif"))])
    seen = {entry["path"]: entry for entry in first.entries}
    again = prepare([replace(item, mask=str(inputs.parent / "one.tif"))], seen)
    other = prepare([replace(item, mask=str(inputs.parent / "two.tif"))], seen)
    assert first.jobs[0].id == again.jobs[0].id != other.jobs[0].id


class Gone:
    """A worker's end of a pipe that gives one job, and whose other end is closed from its first step on."""

    def __init__(self, job: Job) -> None:
        self.job, self.begun, self.events = job, threading.Event(), list[str]()

    def send(self, event: Any) -> None:
        self.events.append(event["event"])
        if event["event"] == "progress":
            self.begun.set()
            raise BrokenPipeError

    def recv(self) -> Any:
        if self.events.count("job"):
            self.begun.wait()
            raise EOFError
        self.events.append("job")
        return self.job


def test_a_driver_that_is_gone_fails_no_item(inputs: Path) -> None:
    [job, *_] = prepare(manifest(inputs, steps=100_000).items).jobs
    folder, gone = RunFolder(inputs / "left"), Gone(job)
    worker.work(gone, str(folder.root), Place("cpu-0", "cpu", torch.get_num_threads()))
    assert [event["event"] for event in folder.events()] == ["claimed", "cancelled"]
    assert "failed" not in gone.events


def test_a_fit_that_was_cancelled_is_gone_on_from_and_its_checkpoint_is_then_gone(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.fit.loop.LEAST_SECONDS", 0.0)
    monkeypatch.setattr(pipeline, "PROGRESS_SECONDS", 0.0)
    [job, *_] = prepare(manifest(inputs, steps=20).items).jobs
    place, steps = Place("cpu-0", "cpu", torch.get_num_threads()), list[int]()

    def attempt(name: str, cancelled_after: int = 100) -> Any:
        folder = RunFolder(inputs / name)

        def hear(event: Any) -> None:
            steps.extend([event["step"]] if event["event"] == "progress" else [])
            if event["event"] == "done" or event.get("step") == cancelled_after:
                one.inbox.put(Leave())

        one = pipeline.Pipeline(folder, place, None, hear)
        one.inbox.put(job)
        one.run()
        return folder.record(job.id)

    assert attempt("broken", cancelled_after=13) is None
    saved = RunFolder(inputs / "broken").checkpoint(job.id)
    assert saved.is_file()
    steps.clear()
    resumed = attempt("broken")
    assert steps[0] == 14 and not saved.exists()
    assert resumed["seconds"]["total"] >= resumed["seconds"]["fit"]
    whole = attempt("whole")
    assert resumed["output"]["sha256"] == whole["output"]["sha256"]
    assert resumed["generator"]["sha256"] == whole["generator"]["sha256"]
    saved.parent.mkdir(exist_ok=True)
    saved.write_bytes(b"torn")
    assert attempt("broken")["output"]["sha256"] == whole["output"]["sha256"]
