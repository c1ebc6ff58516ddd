"""The default executor: spawned processes on this machine, one for each device, and a driver that feeds them.

An item whose worker dies, hangs or falls silent loses one of three attempts and no other item loses anything; the
worker is replaced. The first Ctrl-C or SIGTERM starts nothing more, finishes what is nearly done and cancels the
rest, which the next run begins anew; the second kills.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from dipfast.batch.ledger import RunFolder
from dipfast.batch.plan import Job, Place, Queue
from dipfast.batch.process import Process, Worker, listen

ATTEMPTS = 3
FINISH_SECONDS = {signal.SIGINT: 30.0, signal.SIGTERM: 10.0}  # a fit that needs more is cancelled by the signal
LEAVE_SECONDS = 30.0  # for a worker that was asked to leave and has nothing to finish
Event = dict[str, Any]
W = TypeVar("W", bound=Worker)


@dataclass
class Outcome:
    """How a run ended: events of what failed, and what cut it short.

    ``signal``: SIGINT or SIGTERM; ``gave_up``: more failures than allowed; ``broken``: no item can be done any more.
    """

    failed: list[Event] = field(default_factory=list)
    signal: int | None = None
    gave_up: str | None = None
    broken: str | None = None


class Driver(Generic[W]):
    """Feeds the queue to the workers and gathers what comes back.

    ``hire``: a worker at a place; ``listen``: those of some workers that have something to say, within seconds.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        places: Sequence[Place],
        folder: RunFolder,
        on_event: Callable[[Event], None],
        max_failures: int | None,
        name: str,
        hire: Callable[[Place], W],
        listen: Callable[[Sequence[W], float], list[W]],
    ) -> None:
        self.hire, self.listen = hire, listen
        self.queue, self.folder, self.on_event = Queue(jobs), folder, on_event
        self.max_failures, self.name, self.places = max_failures, name, places
        self.attempts: dict[str, int] = {}
        self.stillborn: Counter[str] = Counter()  # workers of a place in a row that died before they were ready
        self.outcome = Outcome()
        self.workers: list[W] = []
        self.looked = time.monotonic()

    def run(self) -> Outcome:
        with _signals() as caught:
            try:
                for place in self.places:
                    self.workers.append(self.hire(place))
                while self._busy() and not caught and self._going():
                    self._look(0.2)
                self._leave(caught)
            finally:
                for worker in self.workers:
                    worker.kill()
            self.outcome.signal = caught[0] if caught else None
        return self.outcome

    def _going(self) -> bool:
        return self.outcome.gave_up is None and self.outcome.broken is None

    def _busy(self) -> bool:
        return bool(self.queue) or any(worker.job is not None for worker in self.workers)

    def _look(self, seconds: float) -> None:
        """Hear every worker that has something to say, and replace those that died or hang."""
        for worker in self.listen(self.workers, seconds):
            self._hear(worker)
        now = time.monotonic()
        for worker in list(self.workers):
            if now - self.looked > 5 * max(seconds, 1):
                worker.excuse(now - self.looked)  # this process slept: they may have, too
            elif (hung := worker.hung(now)) is not None:
                self._bury(worker, "timeout", hung)
        self.looked = now

    def _hear(self, worker: W) -> None:
        while True:
            try:
                event = worker.receive()
            except EOFError:
                self._bury(worker, "worker-died", "its worker died")
                return
            if event is None:
                return
            self._take(worker, event)

    def _take(self, worker: W, event: Event) -> None:
        worker.note(event)
        match event["event"]:
            case "heartbeat" if worker.job is not None:
                return
            case "heartbeat":
                pass  # another worker may have put its job back since
            case "ready":
                self.stillborn.pop(worker.place.name, None)
            case "progress":
                self.on_event(event)
                return
            case "failed":
                self._fail(event)
                self.on_event(event)
            case _:
                self.on_event(event)
        worker.job = None
        self._feed(worker)

    def _feed(self, worker: W) -> None:
        """The worker's next job: of its own bucket, of one that no other worker has, or else of another's."""
        if not (self.queue and self._going()) or worker.leaving:
            return
        job = self.queue.take(worker.bucket, {other.bucket for other in self.workers if other is not worker})
        try:
            worker.give(job)
        except OSError:  # it died with nothing to do; the sentinel tells of it
            self.queue.put_back(job)
            return
        self.on_event({"event": "claimed", "id": job.id, "path": job.path, "worker": worker.place.name})

    def _fail(self, event: Event) -> None:
        self.outcome.failed.append(event)
        self.outcome.broken = self.outcome.broken or event.get("broken")
        if self.max_failures is not None and len(self.outcome.failed) > self.max_failures:
            self.outcome.gave_up = "more items failed than allowed"

    def _bury(self, worker: W, kind: str, reason: str) -> None:
        """A worker died or hangs: its item loses an attempt, and another worker takes its place."""
        ended = worker.end(0.0 if kind == "timeout" else 1.0)
        self.workers.remove(worker)
        how = reason if kind == "timeout" else f"{reason} ({ended})"
        if worker.job is not None:
            self._lose(worker.job, kind, how)
        if not worker.ready:
            self.stillborn[worker.place.name] += 1
        given_up = self.stillborn[worker.place.name] >= ATTEMPTS
        if given_up and not self.workers:
            self.outcome.broken = f"workers die before they are ready ({ended})"
        if self._busy() and self._going() and not (worker.leaving or given_up):
            self.workers.append(self.hire(worker.place))

    def _lose(self, job: Job, kind: str, reason: str) -> None:
        self.attempts[job.id] = self.attempts.get(job.id, 0) + 1
        text = f"{reason}, attempt {self.attempts[job.id]} of {ATTEMPTS}"
        event = {"event": "lost", "id": job.id, "path": job.path, "kind": kind, "reason": text}
        if self.attempts[job.id] >= ATTEMPTS:
            event["event"] = "quarantined"
            self._fail(event)
        else:
            self.queue.put_back(job)
        with contextlib.suppress(OSError):  # the event is told all the same
            self.folder.log(self.name, **event)
        self.on_event(event)

    def _leave(self, caught: list[int]) -> None:
        """Let the workers end what is nearly done; kill those that do not leave, all of them at a second signal."""
        patience = FINISH_SECONDS[signal.Signals(caught[0])] if caught else 0.0
        now = time.monotonic()
        for worker in self.workers:
            worker.leaving = True
            if worker.job is None or not worker.ends_within(patience, now):
                worker.dismiss()
        until = now + patience + LEAVE_SECONDS
        while self.workers and len(caught) < 2 and time.monotonic() < until:
            self._look(0.1)
            for worker in self.workers:
                if worker.job is None:
                    worker.dismiss()


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


def execute(
    jobs: Sequence[Job],
    places: Sequence[Place],
    folder: RunFolder,
    on_event: Callable[[Event], None],
    max_failures: int | None = None,
    name: str = "driver",
) -> Outcome:
    """Run ``jobs`` on ``places``, longest first. ``on_event`` hears of everything, in this process.

    ``name``: of this process in the ledger.
    """
    hire = partial(Process, root=str(folder.root))
    return Driver(jobs, places, folder, on_event, max_failures, name, hire, listen).run()
