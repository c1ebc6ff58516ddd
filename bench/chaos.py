"""Run one manifest again and again while everything around it breaks, and see whether anything is lost.

    python bench/chaos.py OUT [--items 200] [--faults 100] [--workers 2] [--seed 0] [--no-mount]

First the manifest runs undisturbed. Then it runs into another folder until so many faults have been injected: workers
and driver are killed, told to leave and stopped, the disk is filled (a small tmpfs where this process may mount one,
else a limit on the size of files), outputs, records, ledgers and lists are cut off, inputs are changed and changed
back. Each round is a process that goes on where the last one ended. At last the inputs are as they were, and the
manifest runs until it is done.

Asked of the end: every item is done, and was done no more often than its files were damaged; no file that a run had
finished was found torn behind any round, but for those cut off here; every picture has the bytes of the undisturbed
run. result.json has the faults by kind. Exit code 1 where something was asked for that is not so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from dipfast.errors import ItemError
from dipfast.image import Source, read, write
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of

MANIFEST = """\
version: 1
root: in
defaults:
  task: {{type: denoise, noise: {{type: gaussian, sigma: 25}}}}
  fit: {{steps: {steps}, precision: fp32, optimizer: {{type: adam, lr: 0.01}}}}
  generator: {{type: skip, channels: [8, 8], skip_channels: 4, input: {{type: noise, depth: 8}}}}
items: ["*.png"]
"""
DISK_BYTES = 64 << 20
FILE_BYTES = (3_000, 30_000, 300_000)  # what a file may have at the most in a round with a limit
CALM_ROUNDS = 6  # until all is done, once nothing breaks any more
ROUND_SECONDS = 600.0
# How a disturbed run may end. Of a SIGTERM before its workers start it dies, which a shell calls 143 too.
LEFT = (0, 3, 5, 130, 143, -signal.SIGKILL, -signal.SIGTERM)


@dataclass
class Campaign:
    """The folders, what was done to them, and what was found."""

    out: Path
    items: int
    faults: int
    workers: int
    steps: int
    rng: random.Random
    pauses: tuple[float, float]  # seconds between two faults
    injected: Counter[str] = field(default_factory=Counter)
    damaged: Counter[str] = field(default_factory=Counter)  # how often an item's files were, by name of its picture
    changed: dict[Path, bytes] = field(default_factory=dict)  # inputs that are not as they were, and how they were
    cut: set[Path] = field(default_factory=set)  # files that were cut off and not made again yet
    ends: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @property
    def run(self) -> RunFolder:
        return RunFolder(self.out / "disk" / "run")

    @property
    def inputs(self) -> list[Path]:
        return sorted((self.out / "in").glob("*.png"))

    # The pictures, and runs of them

    def prepare(self) -> None:
        """Write noisy pictures of 32 to 64 pixels and the manifest."""
        noise = np.random.default_rng(0)
        for number in range(self.items):
            height, width = noise.integers(4, 9, 2) * 8
            smooth = np.linspace(0.2, 0.8, width) + 0.1 * np.sin(np.linspace(0, 6, height))[:, None]
            noisy = (smooth + noise.normal(scale=0.1, size=(1, height, width))).clip(0, 1).astype(np.float32)
            write(self.out / "in" / f"scan{number:03d}.png", noisy, Source("png", "gray", 8))
        (self.out / "manifest.yaml").write_text(MANIFEST.format(steps=self.steps))

    def start(self, folder: Path, file_bytes: int | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dipfast.cli", "run", str(self.out / "manifest.yaml"), "-o", str(folder)]
        options = ["--devices", "cpu", "--workers", str(self.workers), "--progress", "none"]

        def limited() -> None:
            if file_bytes is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))

        with (self.out / f"log-{self.ends.total():03d}.txt").open("a") as log:
            return subprocess.Popen(
                command + options, stdout=log, stderr=log, text=True, start_new_session=True, preexec_fn=limited
            )

    def calm(self, folder: Path) -> int:
        """One run that nothing disturbs. Its exit code."""
        with self.start(folder) as process:
            return process.wait(ROUND_SECONDS)

    # What breaks

    def round(self) -> None:
        """One run, disturbed until it ends, and what it left."""
        for breaking in self.rng.sample([self.cut_output, self.cut_list, self.change_input], 2):
            self.inject(breaking)
        limit = None
        if not self.mounted and self.rng.random() < 0.3:
            limit = self.rng.choice(FILE_BYTES)
            self.injected["files limited in size"] += 1
        with self.start(self.run.root, limit) as process:
            deadline = time.monotonic() + ROUND_SECONDS
            if self.rng.random() < 0.8:
                self.await_work(process)
            while self.alive(process) and time.monotonic() < deadline:
                self.disturb(process)
            if self.alive(process):
                self.wrong.append(f"a run did not end within {ROUND_SECONDS:.0f} s")
                os.killpg(process.pid, signal.SIGKILL)
            self.ends[process.wait()] += 1
            if process.returncode not in LEFT:
                self.wrong.append(f"a run ended with exit code {process.returncode}: round {self.ends.total() - 1}")
        self.check_whole()

    def await_work(self, process: subprocess.Popen[str]) -> None:
        """Wait until a worker has begun: much of a short run is its start."""
        before = self.ledger_bytes()
        while self.alive(process) and self.ledger_bytes() <= before:
            time.sleep(0.05)

    def ledger_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.run.ledger.glob("*.jsonl"))

    @staticmethod
    def alive(process: subprocess.Popen[str]) -> bool:
        return process.poll() is None

    def disturb(self, process: subprocess.Popen[str]) -> None:
        """Wait a moment, then break something, while faults are left."""
        with suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(*self.pauses))
        if not self.alive(process) or self.injected.total() >= self.faults:
            return
        breakings: list[Callable[[], str | None]] = [
            *(self.of(self.hit_worker, process, number) for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)),
            self.of(self.pause, process, True),
            self.of(self.pause, process, False),
            *(self.of(self.hit_driver, process, n) for n in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)),
            self.cut_output,
            self.cut_list,
            self.change_input,
            *([self.of(self.fill_disk, process)] if self.mounted else []),
        ]
        self.inject(self.rng.choice(breakings))

    @staticmethod
    def of(what: Callable[..., str | None], *arguments: object) -> Callable[[], str | None]:
        return lambda: what(*arguments)

    def inject(self, breaking: Callable[[], str | None]) -> None:
        """Break something and count it, where there is something to break."""
        kind = None
        with suppress(OSError, IndexError, ValueError):
            kind = breaking()
        if kind is not None:
            self.injected[kind] += 1

    def hit_worker(self, process: subprocess.Popen[str], number: signal.Signals) -> str | None:
        os.kill(self.rng.choice(workers_of(process)), number)
        return f"worker {number.name}"

    def hit_driver(self, process: subprocess.Popen[str], number: signal.Signals) -> str:
        process.send_signal(number)
        return f"driver {number.name}"

    def pause(self, process: subprocess.Popen[str], worker: bool) -> str:
        """Stop a process, and let it go on a little later."""
        pid = self.rng.choice(workers_of(process)) if worker else process.pid
        os.kill(pid, signal.SIGSTOP)
        time.sleep(self.rng.uniform(*self.pauses))
        os.kill(pid, signal.SIGCONT)
        return f"{'worker' if worker else 'driver'} SIGSTOP"

    def cut_output(self) -> str | None:
        """Cut off a file that a run has finished: a picture, a generator, or a record."""
        kind = self.rng.choice(("images", "generators", "records"))
        path = self.rng.choice(sorted((self.run.root / kind).glob("[!.]*")))
        pictures = [path.name] if kind == "images" else self.pictures_of(path.stem)
        self.damaged.update(pictures)
        self.cut.add(path)
        os.truncate(path, self.rng.randrange(path.stat().st_size))
        return f"{kind} cut off"

    def pictures_of(self, id: str) -> list[str]:
        record = self.run.record(id)
        return [] if record is None else record["output"]["paths"]

    def cut_list(self) -> str:
        """Cut off the tail of a ledger, of the index, of a snapshot or of the list of items."""
        files = [*self.run.ledger.glob("*.jsonl"), *self.run.root.glob("items.jsonl")]
        files += [*self.run.index.glob("*.jsonl"), *self.run.index.glob("done.txt")]
        path = self.rng.choice(sorted(files))
        os.truncate(path, max(0, path.stat().st_size - self.rng.randrange(1, 200)))
        return f"{path.parent.name if path.parent != self.run.root else path.name} tail cut off"

    def change_input(self) -> str:
        """Put another picture in an input's place, or the first one back."""
        path = self.rng.choice(self.inputs)
        self.damaged[path.name] += 1
        before = self.changed.pop(path, None)
        if before is None:
            self.changed[path] = path.read_bytes()
            other = np.random.default_rng(self.injected.total()).random((1, 40, 40), np.float32)
            write(path, other, Source("png", "gray", 8))
        else:
            path.write_bytes(before)
        return "input changed"

    def fill_disk(self, process: subprocess.Popen[str]) -> str:
        """Leave no byte free until the run has ended, or for some seconds."""
        ballast = self.out / "disk" / "ballast"
        try:
            with suppress(OSError), ballast.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(1 << 12))
            with suppress(subprocess.TimeoutExpired):
                process.wait(5 * self.pauses[1])
        finally:
            ballast.unlink(missing_ok=True)
        return "disk full"

    @property
    def mounted(self) -> bool:
        return (self.out / "disk").is_mount()

    # What was found

    def check_whole(self) -> None:
        """No file under a final name is torn, but those that were cut off and that no run has come to since."""
        for path in sorted(self.run.root.glob("*/[!.]*")):
            if is_whole(self.run, path):
                self.cut.discard(path)
            elif path not in self.cut:
                self.wrong.append(f"torn: {path}")

    def check_done(self, truth: Path) -> None:
        """Everything is done, no more often than was needed, with the pixels of the undisturbed run."""
        rows = rows_of(self.run)
        self.wrong += [f"{row.output} is {row.status}: {row.reason}" for row in rows if row.status != "done"]
        if [row.output for row in rows] != [path.name for path in self.inputs]:
            self.wrong.append("the list of items is another one")
        for row in rows:
            record = self.run.record(row.id) if row.id is not None and row.record is not None else None
            if record is not None and not self.run.holds(record):
                self.wrong.append(f"{row.output}: its record does not hold")
            if (self.run.images / row.output).read_bytes() != (truth / "images" / row.output).read_bytes():
                self.wrong.append(f"{row.output}: other pixels than undisturbed")
        done = Counter(Path(event["path"]).name for event in self.run.events() if event["event"] == "done")
        self.wrong += [
            f"{name} was done {times} times, its files were damaged {self.damaged[name]} times"
            for name, times in done.items()
            if times > 1 + self.damaged[name]
        ]

    def conclude(self, seconds: float) -> dict[str, object]:
        events = Counter(event["event"] for event in self.run.events())
        return {
            "items": self.items,
            "faults": self.injected.total(),
            "faults_by_kind": dict(sorted(self.injected.items())),
            "rounds": self.ends.total(),
            "exit_codes": {str(code): count for code, count in sorted(self.ends.items())},
            "events": dict(sorted(events.items())),
            "seconds": round(seconds),
            "wrong": self.wrong,
        }


def is_whole(run: RunFolder, path: Path) -> bool:
    """Whether a file of the run's folder can be read to its end. Lists of lines may have a torn tail."""
    try:
        if path.parent == run.images:
            read(path)
        elif path.parent == run.generators:
            safe_open(path, "numpy")
        elif path.parent == run.records:
            return run.record(path.stem) is not None
    except (ItemError, SafetensorError):
        return False
    return True


def workers_of(process: subprocess.Popen[str]) -> list[int]:
    """The pids of a driver's workers, by the kernel's list of children."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@contextmanager
def small_disk(folder: Path, mount: bool) -> Iterator[None]:
    """A file system of 64 MiB at ``folder``, where one may be mounted; else a plain folder."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    mounted = mount and subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield
    finally:
        if mounted:
            shutil.copytree(folder, folder.with_name("left"), symlinks=True)
            subprocess.run(["umount", str(folder)], check=True)


def campaign(
    out: Path, items: int, faults: int, workers: int, seed: int, mount: bool, steps: int, pauses: tuple[float, float]
) -> dict[str, object]:
    """The whole of it. ``out`` is new or empty."""
    start = time.monotonic()
    chaos = Campaign(out, items, faults, workers, steps, random.Random(seed), pauses)
    with small_disk(out / "disk", mount):
        chaos.prepare()
        if chaos.calm(out / "undisturbed") != 0:
            raise SystemExit("the undisturbed run failed, see log-000.txt")
        while chaos.injected.total() < faults:
            chaos.round()
            print(json.dumps(chaos.conclude(time.monotonic() - start)), flush=True)
        for path, data in chaos.changed.items():
            path.write_bytes(data)
            chaos.damaged[path.name] += 1
        for _ in range(CALM_ROUNDS):
            if chaos.calm(chaos.run.root) == 0:
                break
        chaos.check_whole()
        chaos.check_done(out / "undisturbed")
        result = chaos.conclude(time.monotonic() - start)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, value in (("items", 200), ("faults", 100), ("workers", 2), ("seed", 0), ("steps", 8)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--no-mount", action="store_true", help="limit the size of files instead of the disk")
    asked = parser.parse_args()
    result = campaign(
        asked.out, asked.items, asked.faults, asked.workers, asked.seed, not asked.no_mount, asked.steps, (0.3, 5.0)
    )
    print(json.dumps(result, indent=2))
    return 1 if result["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
