"""A run from manifest to records, with real workers: resume, failures, signals, death."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipfast.batch.ledger import RunFolder
from dipfast.batch.run import RunResult, prepare, rows_of, run
from dipfast.image import Source, read, write
from dipfast.manifest import Manifest, parse

MANIFEST = """\
version: 1
defaults:
  task: {{type: denoise, noise: {{type: gaussian, sigma: 25}}}}
  fit: {{steps: {steps}, precision: fp32, optimizer: {{type: adam, lr: 0.01}}}}
  generator: {{type: skip, channels: [8, 8], skip_channels: 4, input: {{type: noise, depth: 8}}}}
items: ["*.png"]
"""


@pytest.fixture
def inputs(tmp_path: Path, picture: np.ndarray) -> Path:
    """A folder of three noisy pictures of two sizes."""
    rng = np.random.default_rng(0)
    for name, height in (("a", 32), ("b", 20), ("c", 32)):
        noisy = (picture[:, :height] + rng.normal(scale=0.1, size=picture[:, :height].shape)).clip(0, 1)
        write(tmp_path / "in" / f"{name}.png", noisy.astype(np.float32), Source("png", "rgb", 8))
    return tmp_path / "in"


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
    assert [row.status for row in result.rows].count("pending") == 2


def test_inputs_that_cannot_be_read_count_as_failures_too(inputs: Path) -> None:
    (inputs / "b.png").write_bytes(b"no picture")
    result = run(manifest(inputs), RunFolder(inputs.parent / "run"), workers=1, max_failures=0)
    assert result.gave_up == "more items failed than allowed"
    assert [row.status for row in result.rows] == ["pending", "failed", "pending"]


DRIVER = """
import sys
from pathlib import Path
from dipfast.batch.ledger import RunFolder
from dipfast.batch.run import run
from dipfast.manifest import parse
if __name__ == "__main__":
    text, base, folder = sys.argv[1:4]
    def show(event):
        print(event["event"], event.get("step", ""), flush=True)
    sys.exit(run(parse(text, "m.yaml", base), RunFolder(Path(folder)), workers=1, on_event=show).exit_code)
"""


def start(inputs: Path, steps: int) -> subprocess.Popen[str]:
    script = inputs.parent / "driver.py"
    script.write_text(DRIVER)
    arguments = [sys.executable, str(script), MANIFEST.format(steps=steps), str(inputs), str(inputs.parent / "run")]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)


def wait_for(process: subprocess.Popen[str], word: str, times: int = 1) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        times -= line.startswith(word)
        if not times:
            return
    raise AssertionError(f"ended before {word!r}")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The pids of spawned workers, by the kernel's list of children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_with_its_code_and_leaves_nothing_half_done(inputs: Path, number: Any, code: int) -> None:
    with start(inputs, steps=100_000) as process:
        wait_for(process, "progress")
        process.send_signal(number)
        assert process.wait(60) == code
    rows = rows_of(RunFolder(inputs.parent / "run"))
    assert [row.status for row in rows] == ["pending"] * 3
    assert not list((inputs.parent / "run").rglob("*.part"))


def test_a_driver_that_is_killed_leaves_no_worker_and_the_rest_is_done_the_same(inputs: Path) -> None:
    with start(inputs, steps=150) as process:
        wait_for(process, "done")
        workers = workers_of(process)
        process.kill()
    done = {row.output for row in rows_of(RunFolder(inputs.parent / "run")) if row.status == "done"}
    assert done
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    events: list[Any] = []
    assert go(inputs, steps=150, events=events).exit_code == 0
    assert not {f"{name}.png" for name in fitted(events)} & done
    interrupted = pixels(inputs)
    go(inputs, steps=150, resume="never")
    assert pixels(inputs) == interrupted


def test_a_killed_worker_costs_one_attempt_and_is_replaced(inputs: Path) -> None:
    with start(inputs, steps=150) as process:
        wait_for(process, "progress")
        os.kill(workers_of(process)[0], signal.SIGKILL)
        wait_for(process, "lost")
        assert process.wait(100) == 0
    assert [row.status for row in rows_of(RunFolder(inputs.parent / "run"))] == ["done"] * 3


def test_records_hold_no_nan_and_name_what_ran(inputs: Path) -> None:
    folder = go(inputs).folder
    for path in folder.records.iterdir():
        record = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
        assert {"input", "settings", "seed", "ran", "steps", "chosen_step", "why", "seconds", "metrics"} <= set(record)
