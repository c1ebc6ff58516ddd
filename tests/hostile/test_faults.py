"""What goes wrong in earnest, and how it ends: a dead device, a hung decoder, a full disk, a folder that is gone.

Elsewhere: killed and stopped workers (test_batch_local), memory, NaN, changed and unreadable inputs (test_batch_run).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MANIFEST, run, worker_processes

from dipfast import environment
from dipfast.batch.run import RunResult
from dipfast.errors import MachineError
from dipfast.manifest import parse
from dipfast.plan import Place
from dipfast.store.folder import RunFolder
from dipfast.workers import local, pipeline, process

ILLEGAL = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be reported later"


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 1)


def go(inputs: Path, steps: int = 4, hear: Any = lambda event: None) -> RunResult:
    manifest = parse(MANIFEST.format(steps=steps), "m.yaml", str(inputs))
    return run(manifest, RunFolder(inputs.parent / "run"), workers=1, on_event=hear)


def states(result: RunResult) -> list[tuple[str, str | None]]:
    return [(row.status, row.kind) for row in result.rows]


def torn(inputs: Path) -> list[Path]:
    return [path for path in (inputs.parent / "run").rglob("*") if path.name.endswith(".part")]


def start_with_a_device_that_fails_once(connection: Any, root: str, place: Place) -> None:
    """What a spawned worker runs: its first fit of all ends as one on a GPU ends whose context died."""
    real, seen = pipeline.restoring, Path(root) / "seen"

    def restoring(*arguments: Any) -> Iterator[None]:
        if not seen.exists():
            seen.touch()
            raise torch.AcceleratorError(ILLEGAL)
        return (yield from real(*arguments))

    pipeline.restoring = restoring  # type: ignore[assignment]
    REAL_START(connection, root, place)


def start_with_a_decoder_that_hangs(connection: Any, root: str, place: Place) -> None:
    real = pipeline.load

    def load(job: Any) -> Any:
        if job.path.endswith("a.png"):
            threading.Event().wait()
        return real(job)

    pipeline.load = load
    REAL_START(connection, root, place)


REAL_START = process._start


@worker_processes()
def test_a_dead_device_costs_an_attempt_and_its_worker_is_replaced(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_start", start_with_a_device_that_fails_once)
    events: list[Any] = []
    result = go(inputs, hear=events.append)
    assert states(result) == [("done", None)] * 3
    lost = [event["reason"] for event in events if event["event"] == "lost"]
    assert lost  # the item on the device, and what was being loaded at that moment
    assert all("an illegal memory access was encountered" in reason for reason in lost)
    assert all(reason.endswith("attempt 1 of 3") for reason in lost)


@worker_processes()
def test_a_decoder_that_hangs_is_killed_and_its_item_put_aside(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_start", start_with_a_decoder_that_hangs)
    monkeypatch.setattr(process, "STILL_SECONDS", 4.0)
    monkeypatch.setattr(process, "STILL_FACTOR", 0.0)
    monkeypatch.setattr(local, "CHECK_SECONDS", 0.1)
    monkeypatch.setattr(local, "ATTEMPTS", 1)
    result = go(inputs)
    assert states(result) == [("failed", "timeout"), ("done", None), ("done", None)]
    assert result.exit_code == 3


def test_a_folder_that_is_taken_away_costs_what_was_in_it_and_no_more(inputs: Path) -> None:
    gone: list[str] = []

    def hear(event: Any) -> None:
        if event["event"] == "done" and not gone:
            gone.append(Path(event["path"]).name)
            shutil.rmtree(inputs.parent / "run")

    result = go(inputs, hear=hear)
    assert {row.output: row.status for row in result.rows} == {
        name: "pending" if name in gone else "done" for name in ("a.png", "b.png", "c.png")
    }
    assert result.exit_code == 3
    again: list[Any] = []
    assert go(inputs, hear=again.append).exit_code == 0
    assert [Path(event["path"]).name for event in again if event["event"] == "done"] == gone


def test_a_disk_that_is_full_ends_the_run_and_the_next_one_goes_on(inputs: Path) -> None:
    folder = inputs.parent / "run"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, "size=72k", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("this user may not mount a small disk")
    try:
        with pytest.raises(MachineError, match=r"cannot be written \(No space left on device\); what is done stays"):
            go(inputs)
        assert not torn(inputs)
        subprocess.run([*mount, "remount,size=4m", str(folder)], check=True)
        assert go(inputs).exit_code == 0
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_files_that_may_not_grow_fail_their_items_and_leave_nothing_torn(inputs: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (6000, before[1]))
    try:
        result = go(inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert states(result) == [("failed", "unwritable")] * 3
    assert os.strerror(27) in (result.rows[0].reason or "")
    assert not torn(inputs)
    assert go(inputs).exit_code == 0
