"""Real worker processes: signals, death, and a driver that outlives them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import MANIFEST

from dipfast.batch.ledger import RunFolder
from dipfast.batch.rows import rows_of

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


