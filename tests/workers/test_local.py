"""Real worker processes: signals, death, hanging, and a driver that outlives them or does not."""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import MANIFEST, run, settings_of, worker_processes

from dipfast import environment
from dipfast.batch.run import RunResult
from dipfast.manifest import parse
from dipfast.plan import Job, Place
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of
from dipfast.workers import local, process
from dipfast.workers.options import RunOptions
from dipfast.workers.process import Held

ENDLESS = 1_000_000  # steps
KILLED = "its worker died (signal SIGKILL)"


@pytest.fixture(autouse=True)
def _one_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "cores", lambda: 1)


def go(inputs: Path, steps: int, hear: Callable[[Any], None] = lambda event: None, **sets: str) -> RunResult:
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in sets.items()]
    manifest = parse(MANIFEST.format(steps=steps), "m.yaml", str(inputs), sets=overrides)
    return run(manifest, RunFolder(inputs.parent / "run"), workers=1, on_event=hear)


def states(result: RunResult) -> list[str]:
    return [row.status for row in result.rows]


@contextmanager
def driver(inputs: Path, steps: int, shard: str = "None") -> Iterator[subprocess.Popen[str]]:
    """A run in a process group of its own, which does not outlive the test."""
    script = inputs.parent / "driver.py"
    script.write_text(DRIVER)
    folder = str(inputs.parent / "run")
    arguments = [sys.executable, str(script), MANIFEST.format(steps=steps), str(inputs), folder, shard]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.kill()


DRIVER = """
import sys
from pathlib import Path
from dipfast import environment
from dipfast.store.folder import RunFolder
from dipfast.batch.run import run
from dipfast.manifest import parse
from dipfast.workers.options import RunOptions
if __name__ == "__main__":
    environment.cores = lambda: 1
    text, base, folder, shard = sys.argv[1:5]
    def show(event):
        print(event["event"], flush=True)
    manifest, into = parse(text, "m.yaml", base), RunFolder(Path(folder))
    sys.exit(run(manifest, into, RunOptions(workers=1, shard=eval(shard)), show).exit_code)
"""


def wait_for(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return
    raise AssertionError(f"ended before {word!r}")


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The pids of spawned workers, by the kernel's list of children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_ends_a_long_fit_with_its_code_and_leaves_nothing_half_done(
    inputs: Path, number: Any, code: int
) -> None:
    with driver(inputs, ENDLESS) as process:
        wait_for(process, "progress")
        os.killpg(process.pid, number)
        assert process.wait(60) == code
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert [row.status for row in rows_of(RunFolder(inputs.parent / "run"))] == ["pending"] * 3
    assert not list((inputs.parent / "run").rglob("*.part"))


def test_a_ctrl_c_while_workers_start_says_nothing_of_them(inputs: Path) -> None:
    with driver(inputs, ENDLESS) as process:
        wait_for(process, "started")
        while not workers_of(process):
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(100) == 130
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_a_driver_that_is_killed_leaves_no_worker_and_the_rest_is_done_the_same(inputs: Path) -> None:
    with driver(inputs, 30) as process:
        wait_for(process, "done")
        workers = workers_of(process)
        process.kill()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
    done = {row.output for row in rows_of(RunFolder(inputs.parent / "run")) if row.status == "done"}
    assert done
    events: list[Any] = []
    result = go(inputs, 30, events.append)
    assert result.exit_code == 0
    assert not {f"{Path(event['path']).stem}.png" for event in events if event["event"] == "done"} & done
    interrupted = {path.name: path.read_bytes() for path in result.folder.images.iterdir()}
    for path in result.folder.records.iterdir():
        path.unlink()
    assert go(inputs, 30).exit_code == 0
    assert {path.name: path.read_bytes() for path in result.folder.images.iterdir()} == interrupted


def test_two_shards_run_into_one_folder_at_the_same_time(inputs: Path) -> None:
    with driver(inputs, 30, "(1, 2)") as first, driver(inputs, 30, "(2, 2)") as second:
        wait_for(first, "progress")
        wait_for(second, "progress")
        for process in (first, second):
            assert process.stdout is not None
            assert "done" in process.stdout.read()
            assert process.wait(60) == 0
    rows = rows_of(RunFolder(inputs.parent / "run"))
    assert [row.status for row in rows] == ["done"] * 3


def at_first_progress(what: Callable[[], None]) -> Callable[[Any], None]:
    """Listens to a run and does ``what`` once."""
    seen: list[Any] = []

    def hear(event: Any) -> None:
        if event["event"] == "progress" and not seen:
            seen.append(event)
            what()

    return hear


def test_the_first_ctrl_c_finishes_what_is_nearly_done(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Held, "ends_within", lambda self, *_: self.stage == "fitting")
    result = go(inputs, 30, at_first_progress(lambda: os.kill(os.getpid(), signal.SIGINT)))
    assert result.exit_code == 130
    assert sorted(states(result)) == ["done", "pending", "pending"]


@worker_processes()
def test_the_second_ctrl_c_waits_for_nothing(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Held, "ends_within", lambda self, *_: self.stage == "fitting")
    hit = iter(range(2))

    def hear(event: Any) -> None:
        if event["event"] == "progress" and next(hit, None) is not None:
            os.kill(os.getpid(), signal.SIGINT)

    result = go(inputs, ENDLESS, hear)
    assert result.exit_code == 130
    assert states(result) == ["pending"] * 3
    assert not mp.active_children()


def kill_worker(number: int = signal.SIGKILL) -> None:
    os.kill(mp.active_children()[0].pid or 0, number)


def test_a_killed_cohort_is_done_again_item_by_item_to_the_same_bytes(inputs: Path) -> None:
    events: list[Any] = []
    manifest = parse(MANIFEST.format(steps=100), "m.yaml", str(inputs), sets=["generator.channels=[8]", "fit.seeds=1"])

    def hear(event: Any) -> None:
        events.append(event)
        if [event["event"] for event in events].count("claimed") == 2 and event["event"] == "claimed":
            kill_worker()

    def into(name: str, cohort: int) -> dict[str, Any]:
        result = run(manifest, RunFolder(inputs.parent / name), workers=1, cohort=cohort, on_event=hear)
        assert states(result) == ["done"] * 3
        return {row.output: row.record["output"]["sha256"] for row in result.rows if row.record}

    with worker_processes():
        killed = into("killed", 2)
    lost = [Path(event["path"]).stem for event in events if event["event"] == "lost"]
    assert {"a", "c"} <= set(lost) and len(lost) == len(set(lost))  # the two in slots; b only if it was being read
    assert {event["reason"] for event in events if event["event"] == "lost"} == {f"{KILLED}, attempt 1 of 3"}
    told = [event["event"] for event in RunFolder(inputs.parent / "killed").events()]
    assert (told.count("lost"), told.count("done")) == (len(lost), 3)
    assert killed == into("whole", 1)


def test_an_item_that_takes_its_workers_with_it_is_quarantined_alone_and_retried_on_request(
    inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ATTEMPTS", 2)

    def hear(event: Any) -> None:
        if event["event"] == "progress" and event["path"].endswith("a.png"):
            kill_worker()

    with worker_processes():
        result = go(inputs, 30, hear)
    assert result.exit_code == 3
    assert states(result) == ["failed", "done", "done"]
    assert (result.rows[0].kind, result.rows[0].reason) == ("worker-died", f"{KILLED}, attempt 2 of 2")
    assert [event["event"] for event in result.folder.events()].count("quarantined") == 1
    assert go(inputs, 30).exit_code == 0


@worker_processes()
def test_a_worker_that_falls_silent_is_replaced(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "SILENT_SECONDS", 4.0)
    monkeypatch.setattr(local, "CHECK_SECONDS", 0.1)
    events: list[Any] = []
    stop = at_first_progress(lambda: kill_worker(signal.SIGSTOP))
    result = go(inputs, 30, lambda event: (events.append(event), stop(event))[0])
    assert states(result) == ["done"] * 3
    lost = [event for event in events if event["event"] == "lost"]
    assert lost[0]["kind"] == "timeout"
    assert lost[0]["reason"].startswith("timeout: its worker said nothing for ")


def test_workers_that_cannot_start_end_the_run(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_start", os._exit)  # a spawned process has no such argument
    jobs = [
        Job("a", "a.png", "", ("a.png",), settings_of({"fit": {"steps": 1, "stop": {"type": "fixed"}}}), bucket=("a",))
    ]
    folder, place = RunFolder(inputs.parent / "run"), Place("cpu-0", "cpu", 1)
    outcome = local.execute(jobs, [place], folder, lambda event: None, RunOptions())
    assert outcome.broken == "workers die before they are ready (exit code 1)"
