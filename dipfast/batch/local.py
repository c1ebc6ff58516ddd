"""The default executor: spawned processes on this machine, one for each device, and a driver that feeds them.

A worker that dies costs its item one attempt and is replaced; an item that took three workers with it is
quarantined. The first signal cancels the fits in flight and leaves; the second kills.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from dipfast.batch.ledger import RunFolder
from dipfast.batch.plan import Job, Place

ATTEMPTS = 3
GRACE_SECONDS = 30.0  # for workers to leave after a cancellation
Event = dict[str, Any]


@dataclass
class Outcome:
    """How a run ended: events of what failed, and what cut it short: a signal, a limit, a disk that takes no more."""

    failed: list[Event] = field(default_factory=list)
    signal: int | None = None
    gave_up: str | None = None
    broken: str | None = None


class Worker:
    """The driver's side of one worker process."""

    def __init__(self, place: Place, root: str) -> None:
        context = mp.get_context("spawn")
        self.place, self.ready = place, False
        self.job: Job | None = None
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_start, args=(child, root, place), name=place.name, daemon=True)
        with _deaf():
            self.process.start()
        child.close()

    def give(self, job: Job) -> None:
        self.job = job
        self.connection.send(job)

    def dismiss(self) -> None:
        """Ask it to leave; a fit in flight is cancelled."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _start(connection: Connection, root: str, place: Place) -> None:
    from dipfast.batch.worker import work

    work(connection, root, place.name, place.device, place.threads)


class Driver:
    """Feeds the queue to the workers and gathers what comes back."""

    def __init__(
        self,
        jobs: Sequence[Job],
        places: Sequence[Place],
        folder: RunFolder,
        on_event: Callable[[Event], None],
        max_failures: int | None,
        name: str,
    ) -> None:
        self.queue, self.folder, self.on_event = deque(jobs), folder, on_event
        self.max_failures = max_failures
        self.attempts: dict[str, int] = {}
        self.outcome = Outcome()
        self.name, self.places = name, places
        self.workers: list[Worker] = []

    def run(self) -> Outcome:
        with _signals() as caught:
            try:
                for place in self.places:
                    self._hire(place)
                while self._busy() and not caught and self._going():
                    self._listen(0.2)
                self._leave(caught)
            finally:
                for worker in self.workers:
                    worker.kill()
            self.outcome.signal = caught[0] if caught else None
        return self.outcome

    def _hire(self, place: Place) -> None:
        self.workers.append(Worker(place, str(self.folder.root)))

    def _going(self) -> bool:
        return self.outcome.gave_up is None and self.outcome.broken is None

    def _busy(self) -> bool:
        return bool(self.queue) or any(worker.job is not None for worker in self.workers)

    def _listen(self, seconds: float) -> None:
        """Hear every worker that has something to say, and replace those that died."""
        by_handle: dict[Any, Worker] = {worker.connection: worker for worker in self.workers}
        by_handle |= {worker.process.sentinel: worker for worker in self.workers}
        for worker in dict.fromkeys(by_handle[handle] for handle in wait(list(by_handle), seconds)):
            self._hear(worker)

    def _hear(self, worker: Worker) -> None:
        while True:
            try:
                if not worker.connection.poll():
                    break
                event = worker.connection.recv()
            except (EOFError, OSError):
                self._bury(worker)
                return
            self._take(worker, event)
        if not worker.process.is_alive() and not worker.connection.poll():
            self._bury(worker)

    def _take(self, worker: Worker, event: Event) -> None:
        if event["event"] == "progress":
            self.on_event(event)
            return
        if event["event"] == "failed":
            self._fail(event)
        if event["event"] == "ready":
            worker.ready = True
        else:
            self.on_event(event)
        worker.job = None
        self._feed(worker)

    def _feed(self, worker: Worker) -> None:
        if self.queue and self._going():
            job = self.queue.popleft()
            self.on_event({"event": "claimed", "id": job.id, "path": job.path, "worker": worker.place.name})
            worker.give(job)

    def _fail(self, event: Event) -> None:
        self.outcome.failed.append(event)
        self.outcome.broken = self.outcome.broken or event.get("broken")
        if self.max_failures is not None and len(self.outcome.failed) > self.max_failures:
            self.outcome.gave_up = "more items failed than allowed"

    def _bury(self, worker: Worker) -> None:
        """A worker died: its item loses an attempt, and another worker takes its place."""
        worker.process.join(1)
        worker.kill()
        self.workers.remove(worker)
        code, job = worker.process.exitcode, worker.job
        if not worker.ready:
            self.outcome.gave_up = f"a worker died before it was ready ({_exit_text(code)})"
        if job is not None:
            self._lose(job, code)
        if self._busy() or job is not None:
            self._hire(worker.place)

    def _lose(self, job: Job, code: int | None) -> None:
        self.attempts[job.id] = self.attempts.get(job.id, 0) + 1
        reason = f"its worker died ({_exit_text(code)}), attempt {self.attempts[job.id]} of {ATTEMPTS}"
        event = {"event": "lost", "id": job.id, "path": job.path, "reason": reason}
        if self.attempts[job.id] >= ATTEMPTS:
            event |= {"event": "quarantined", "kind": "worker-died"}
            self._fail(event)
        else:
            self.queue.appendleft(job)
        with contextlib.suppress(OSError):  # the event is told all the same
            self.folder.log(self.name, **event)
        self.on_event(event)

    def _leave(self, caught: list[int]) -> None:
        """Let the workers end what they do; kill those that do not, at a second signal or after a while."""
        for worker in self.workers:
            worker.dismiss()
        deadline = time.monotonic() + GRACE_SECONDS
        while any(worker.process.is_alive() for worker in self.workers):
            if len(caught) > 1 or time.monotonic() > deadline:
                break
            self._drain()
            time.sleep(0.02)
        self._drain()

    def _drain(self) -> None:
        """Take what a leaving worker still finished."""
        for worker in self.workers:
            with contextlib.suppress(EOFError, OSError):
                while worker.connection.poll():
                    event = worker.connection.recv()
                    if event["event"] == "done":
                        self.on_event(event)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Gather SIGINT and SIGTERM instead of dying of them. In a thread other than the main one, none is caught."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda received, _: caught.append(received)) for number in watched]
    try:
        yield caught
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Ignore SIGINT for a moment: a process that is spawned in it ignores Ctrl-C from its first instruction on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _exit_text(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def execute(
    jobs: Sequence[Job],
    places: Sequence[Place],
    folder: RunFolder,
    on_event: Callable[[Event], None],
    max_failures: int | None = None,
    name: str = "driver",
) -> Outcome:
    """Run ``jobs`` in the order given on ``places``. ``on_event`` hears of everything, in this process.

    ``name``: of this process in the ledger.
    """
    return Driver(jobs, places, folder, on_event, max_failures, name).run()
