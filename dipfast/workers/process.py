"""The driver's side of one worker: what it does, since when, whether it still moves; and of one that is a process.

Two clocks run. A worker says every second that it is alive; one that is silent for minutes is stopped or stuck in a
call that lets no thread run. An item says which stage it is at and how far its fit is; one that is being worked on and
does not move for many times as long as the fits beside it were predicted to take hangs, alive as its process may be.
The prediction is rough, hence the factor.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from dipfast.plan import Job, Place, predicted_seconds
from dipfast.store.folder import RunFolder
from dipfast.threads import use_threads, wait_briefly
from dipfast.workers.messages import AT_WORK, GIVEN, STAGES, GiveBack, Leave, Message, cohort_size, held_at_most

START_SECONDS = 600.0  # until a worker is ready: torch from a cold network disk
SILENT_SECONDS = 300.0
STILL_SECONDS, STILL_FACTOR = 900.0, 20.0  # without progress; a compilation is in the first
Event = dict[str, Any]


@dataclass
class Held:
    """An item that a worker has, and how far it is."""

    job: Job
    stage: str = GIVEN
    moved: float = field(default_factory=time.monotonic)
    asked_back: bool = False
    first: tuple[float, int] | None = None  # time and step of the first progress
    last: tuple[float, int] | None = None

    def note(self, event: Event, now: float) -> None:
        if event["event"] == "progress":
            self.moved, self.last = now, (now, event["step"])
            self.first = self.first or self.last
        elif event["event"] in STAGES:
            self.moved, self.stage = now, event["event"]

    def ends_within(self, seconds: float, now: float) -> bool:
        """Return whether its fit is done in so many seconds, at the pace so far."""
        if self.stage != "fitting" or self.first is None or self.last is None or self.last[1] <= self.first[1]:
            return False
        pace = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
        left = self.job.shared.fit.steps - self.last[1]
        return left * pace - (now - self.last[0]) <= seconds


class Worker(ABC):
    """One worker, wherever it lives, and what the driver knows of it."""

    clock: Callable[[], float] = time.monotonic

    def __init__(self, place: Place) -> None:
        self.place, self.ready, self.leaving = place, False, False
        self.jobs: dict[str, Held] = {}
        self.memory: int | None = None  # bytes that its device has free
        self.bucket: tuple | None = None
        self.heard = self.clock()
        self.last_words: str | None = None  # why it ends, where it could say so

    @abstractmethod
    def send(self, message: Message) -> None:
        """Send a job or an order. Raises OSError where it is dead."""

    @abstractmethod
    def receive(self) -> Event | None:
        """Return what it says next; None while it says nothing. Raises EOFError where it is dead."""

    @abstractmethod
    def end(self, patience: float) -> str:
        """End it, by itself within ``patience`` seconds or by force. Return in which way it ended."""

    @abstractmethod
    def kill(self) -> None:
        """End it by force."""

    def give(self, job: Job) -> None:
        """Send it a job. Raises OSError where it is dead."""
        self.send(job)
        self.jobs[job.id], self.bucket = Held(job, moved=self.clock()), job.bucket

    def ask_back(self, held: Held) -> None:
        """Ask for an item whose fit has not begun."""
        held.asked_back = True
        with contextlib.suppress(OSError):
            self.send(GiveBack(held.job.id))

    def note(self, event: Event) -> None:
        """Take note of what it has said."""
        self.heard = self.clock()
        if event["event"] == "ready":
            self.ready, self.memory = True, event["memory"]
        elif event["event"] == "dying":
            self.last_words = event["reason"]
        elif event.get("id") in self.jobs:
            self.jobs[event["id"]].note(event, self.heard)

    @property
    def room(self) -> int:
        """The number of items that it may hold."""
        device, asked = self.place.device, self.place.cohort
        sizes = [cohort_size(held.job, device, self.memory, asked) for held in self.jobs.values()]
        return held_at_most(min(sizes, default=1))

    @property
    def suspects(self) -> list[Job]:
        """What it may have died of: the items at work, or the only one that it has.

        Where its last words are of its device, only what was fitted there: loading and saving do not touch it.
        """
        fitting = [held.job for held in self.jobs.values() if held.stage == "fitting"]
        if self.last_words is not None and fitting:
            return fitting
        return [held.job for held in self.jobs.values() if held.stage in AT_WORK or len(self.jobs) == 1]

    def hung(self, now: float) -> tuple[str, list[Job]] | None:
        """Return in which way it hangs, if it does, and on which items."""
        silent = now - self.heard
        if silent > (SILENT_SECONDS if self.ready else START_SECONDS):
            return f"timeout: its worker said nothing for {silent:.0f} s", self.suspects
        busy = [held for held in self.jobs.values() if held.stage in AT_WORK]
        patience = STILL_SECONDS + STILL_FACTOR * sum(self._predicted(h.job) for h in busy if h.stage == "fitting")
        still = [held for held in busy if now - held.moved > patience]
        if still:
            longest = max(now - held.moved for held in still)
            return f"timeout: it did not move for {longest:.0f} s", [held.job for held in still]
        return None

    def _predicted(self, job: Job) -> float:
        return predicted_seconds(job, self.place.device.split(":")[0], self.place.threads, "fp32")

    def excuse(self, seconds: float) -> None:
        """Set its clocks back by time in which nobody could hear it."""
        self.heard += seconds
        for held in self.jobs.values():
            held.moved += seconds

    def dismiss(self, finish: frozenset[str] = frozenset()) -> None:
        """Ask it to leave once ``finish`` is done; other fits in flight are cancelled."""
        with contextlib.suppress(OSError):
            self.send(Leave(finish))


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

    @staticmethod
    def listen(workers: Sequence[Process], seconds: float) -> list[Process]:
        """Return those that say something or end, as soon as there are any."""
        by_handle: dict[Any, Process] = {worker.connection: worker for worker in workers}
        by_handle |= {worker.process.sentinel: worker for worker in workers}
        return list(dict.fromkeys(by_handle[handle] for handle in wait(list(by_handle), seconds)))

    def send(self, message: Message) -> None:
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


class InProcess(Worker):
    """A worker that is a thread of this process, with one item at a time, for tests: their order is the queue's."""

    room = 1

    def __init__(self, place: Place, root: str) -> None:
        from dipfast.workers.pipeline import Pipeline

        super().__init__(place)
        self.said: SimpleQueue[Event | None] = SimpleQueue()
        self.pipeline = Pipeline(RunFolder(Path(root)), place, None, self.said.put)
        self.thread = threading.Thread(target=self._live, name=place.name, daemon=True)
        self.thread.start()

    def _live(self) -> None:
        self.said.put({"event": "ready", "memory": None})
        try:
            self.pipeline.run()
        finally:
            self.said.put(None)

    @staticmethod
    def listen(workers: Sequence[InProcess], seconds: float) -> list[InProcess]:
        """Return those that have said something or ended, once there are any or ``seconds`` are over."""
        until = time.monotonic() + seconds
        while not (heard := [worker for worker in workers if not worker.said.empty()]) and time.monotonic() < until:
            time.sleep(0.001)
        return heard

    def send(self, message: Message) -> None:
        self.pipeline.inbox.put(message)

    def receive(self) -> Event | None:
        if self.said.empty():
            return None
        event = self.said.get()
        if event is None:
            raise EOFError
        return event

    def end(self, patience: float) -> str:
        self.kill()
        return "its thread ended"

    def kill(self) -> None:
        """Have it cancel what it fits, and wait until it has done so."""
        self.dismiss()
        self.thread.join()


def _start(connection: Connection, root: str, place: Place) -> None:
    wait_briefly()
    use_threads(place.threads)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the driver decides what they mean
    from dipfast.workers.worker import work

    work(connection, root, place)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM for a moment: a process that is spawned in it never hears them."""
    resource_tracker.ensure_running()  # or else starting it would let the signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
