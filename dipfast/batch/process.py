"""The driver's side of one worker: what it does, since when, whether it still moves; and of one that is a process.

Two clocks run. A worker says every second that it is alive; one that is silent for minutes is stopped or stuck in a
call that lets no thread run. A fit says how far it is; one that does not move for many times as long as the whole of
it was predicted to take hangs, alive as its process may be. The prediction is rough, hence the factor.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from dipfast.batch.plan import Job, Place, predicted_seconds

START_SECONDS = 600.0  # until a worker is ready: torch from a cold network disk
SILENT_SECONDS = 300.0
STILL_SECONDS, STILL_FACTOR = 900.0, 20.0  # without progress; a compilation is in the first
Event = dict[str, Any]


class Worker(ABC):
    """One worker, wherever it lives, and what the driver knows of it."""

    def __init__(self, place: Place) -> None:
        self.place, self.ready, self.leaving = place, False, False
        self.job: Job | None = None
        self.bucket: tuple | None = None
        self.heard = self.moved = time.monotonic()
        self.first: tuple[float, int] | None = None  # time and step of the first progress of the job
        self.last: tuple[float, int] | None = None

    @abstractmethod
    def send(self, message: Job | None) -> None:
        """A job, or None to leave. Raises OSError where it is dead."""

    @abstractmethod
    def receive(self) -> Event | None:
        """What it says next, None while it says nothing. Raises EOFError where it is dead."""

    @abstractmethod
    def end(self, patience: float) -> str:
        """Have it gone, by itself within ``patience`` seconds or by force. In which way it ended."""

    @abstractmethod
    def kill(self) -> None:
        """Have it gone."""

    def give(self, job: Job) -> None:
        """Send it a job. Raises OSError where it is dead."""
        self.send(job)
        self.job, self.bucket = job, job.bucket
        self.moved, self.first, self.last = time.monotonic(), None, None

    def note(self, event: Event) -> None:
        """It has said something."""
        now = self.heard = time.monotonic()
        if event["event"] == "progress":
            self.moved, self.last = now, (now, event["step"])
            self.first = self.first or self.last
        elif event["event"] == "ready":
            self.ready = True

    def hung(self, now: float) -> str | None:
        """In which way it hangs, if it does."""
        silent, still = now - self.heard, now - self.moved
        if silent > (SILENT_SECONDS if self.ready else START_SECONDS):
            return f"timeout: its worker said nothing for {silent:.0f} s"
        if self.job is not None and still > STILL_SECONDS + STILL_FACTOR * self._predicted(self.job):
            return f"timeout: it did not move for {still:.0f} s"
        return None

    def _predicted(self, job: Job) -> float:
        return predicted_seconds(job, self.place.device.split(":")[0], self.place.threads, "fp32")

    def excuse(self, seconds: float) -> None:
        """Set its clocks back by time in which nobody could hear it."""
        self.heard, self.moved = self.heard + seconds, self.moved + seconds

    def ends_within(self, seconds: float, now: float) -> bool:
        """Whether its job is done in so many seconds, at the pace so far."""
        if self.job is None or self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return False
        pace = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
        left = self.job.settings["fit"]["steps"] - self.last[1]
        return left * pace - (now - self.last[0]) <= seconds

    def dismiss(self) -> None:
        """Ask it to leave; a fit in flight is cancelled."""
        with contextlib.suppress(OSError):
            self.send(None)


class Process(Worker):
    """A worker that is a spawned process of this machine."""

    def __init__(self, place: Place, root: str) -> None:
        super().__init__(place)
        context = mp.get_context("spawn")
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_start, args=(child, root, place), name=place.name, daemon=True)
        with _deaf():
            self.process.start()
        child.close()

    def send(self, message: Job | None) -> None:
        self.connection.send(message)

    def receive(self) -> Event | None:
        try:
            if self.connection.poll():
                event: Event = self.connection.recv()
                return event
            if self.process.is_alive() or self.connection.poll():
                return None
        except OSError:
            pass
        raise EOFError

    def end(self, patience: float) -> str:
        self.process.join(patience)
        self.kill()
        code = self.process.exitcode
        return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def listen(workers: Sequence[Process], seconds: float) -> list[Process]:
    """Those that say something or end, as soon as there are any."""
    by_handle: dict[Any, Process] = {worker.connection: worker for worker in workers}
    by_handle |= {worker.process.sentinel: worker for worker in workers}
    return list(dict.fromkeys(by_handle[handle] for handle in wait(list(by_handle), seconds)))


def _start(connection: Connection, root: str, place: Place) -> None:
    # Before torch is loaded: threads that spin while they wait make a step 30 times as slow on a busy machine (LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver decides what they mean
    from dipfast.batch.worker import work

    work(connection, root, place.name, place.device, place.threads)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM for a moment: a process that is spawned in it never hears them."""
    resource_tracker.ensure_running()  # or else starting it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
