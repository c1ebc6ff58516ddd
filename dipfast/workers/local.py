"""The default executor: spawned processes on this machine, one for each device, and a driver that feeds them.

A worker has a few items at a time, so that it loads and saves while it fits. An item that is being worked on when its
worker dies, hangs or falls silent loses one of three attempts and is tried again alone; those that waited lose nothing.
The worker is replaced. One that has nothing to do is given what waits at another. The first Ctrl-C or SIGTERM starts
nothing more, finishes what is nearly done and cancels the rest, which the next run goes on with; the second kills.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar

from dipfast.plan import Job, Place, Queue, expected_share, predicted_seconds
from dipfast.store.folder import RunFolder
from dipfast.workers.messages import NOT_BEGUN
from dipfast.workers.options import RunOptions
from dipfast.workers.process import InProcess, Process, Worker

ATTEMPTS = 3
FINISH_SECONDS = {signal.SIGINT: 30.0, signal.SIGTERM: 10.0}  # a fit that needs more is cancelled by the signal
CHECK_SECONDS = 2.0  # between two looks at the clocks of all workers, of which there may be a thousand
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
        options: RunOptions,
        hire: Callable[[Place], W],
        listen: Callable[[Sequence[W], float], list[W]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.hire, self.listen, self.clock = hire, listen, clock
        self.queue, self.folder, self.on_event = Queue(jobs), folder, on_event
        self.max_failures, self.name, self.places = options.max_failures, options.named("driver"), places
        self.attempts: dict[str, int] = {}
        self.suspected: set[str] = set()  # items that a worker may have died of
        self.alone: deque[Job] = deque()  # those of them that are to be tried again
        self.stillborn: Counter[str] = Counter()  # workers of a place in a row that died before they were ready
        self.outcome = Outcome()
        self.expected: dict[tuple, dict[str, float]] = {}  # by bucket
        self.workers: list[W] = []
        self.looked = self.checked = clock()

    def run(self) -> Outcome:
        self._tell_expectation()
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

    def _tell_expectation(self) -> None:
        """Send what the plan says of all jobs together, for what shows how long the run will take."""
        seconds = sum(self._expected(job)["expected_seconds"] for job in self.queue)
        self.on_event({"event": "scheduled", "expected_seconds": round(seconds, 1), "workers": len(self.places)})

    def _expected(self, job: Job) -> dict[str, float]:
        """Return what the plan says of ``job``; the same for all in its bucket."""
        if job.bucket not in self.expected:
            place, share = self.places[0], expected_share(job.shared)
            seconds = share * predicted_seconds(job, place.device.split(":")[0], place.threads, "fp32")
            self.expected[job.bucket] = {"expected_seconds": round(seconds, 2), "expected_share": share}
        return self.expected[job.bucket]

    def _going(self) -> bool:
        return self.outcome.gave_up is None and self.outcome.broken is None

    def _busy(self) -> bool:
        return bool(self.queue or self.alone) or any(worker.jobs for worker in self.workers)

    def _look(self, seconds: float) -> None:
        """Hear every worker that has something to say, and replace those that died or hang."""
        for worker in self.listen(self.workers, seconds):
            self._hear(worker)
        now = self.clock()
        slept, self.looked = now - self.looked, now
        if slept > 5 * max(seconds, 1):
            for worker in self.workers:
                worker.excuse(slept)  # they may have slept, too
        elif now - self.checked > CHECK_SECONDS:
            self.checked = now
            for worker in list(self.workers):
                if (hung := worker.hung(now)) is not None:
                    self._bury(worker, "timeout", *hung)

    def _hear(self, worker: W) -> None:
        while True:
            try:
                event = worker.receive()
            except EOFError:
                self._bury(worker, "worker-died", "its worker died", worker.suspects)
                return
            if event is None:
                return
            self._take(worker, event)

    def _take(self, worker: W, event: Event) -> None:
        worker.note(event)
        match event["event"]:
            case "ready":
                self.stillborn.pop(worker.place.name, None)
            case "dying":
                return
            case "progress":
                self.on_event(event)
                return
            case "fitting":
                self.on_event({**event, "event": "claimed", **self._expected(worker.jobs[event["id"]].job)})
            case "returned":
                self._put_back(worker.jobs.pop(event["id"]).job)
                for other in self.workers:
                    if other.ready and not other.jobs:
                        self._feed(other)
            case "done" | "failed" | "cancelled":
                job = worker.jobs.pop(event["id"]).job
                if event["event"] == "failed":
                    self._fail(event)
                    event = event | self._expected(job)
                self.on_event(event)
        self._feed(worker)

    def _feed(self, worker: W) -> None:
        """Give a worker as many jobs as it has room for; where none are left, ask for one that waits at another."""
        while self._going() and not worker.leaving and (job := self._next(worker)) is not None:
            try:
                worker.give(job)
            except OSError:  # it died; the sentinel tells of it
                self._put_back(job)
                return
        if not (worker.jobs or worker.leaving):
            self._ask_back()

    def _next(self, worker: W) -> Job | None:
        """Return its next job: of its own bucket, of one that no worker has, or else of another's. At most its share.

        What was at work in a worker that died is tried again in a worker that has nothing else.
        """
        if self.alone and not worker.jobs:
            return self.alone.popleft()
        if not self.queue or not self.suspected.isdisjoint(worker.jobs):
            return None
        if worker.jobs and len(worker.jobs) >= self._share(worker.room):
            return None
        stays = worker.bucket in self.queue.buckets
        others = () if stays else {other.bucket for other in self.workers if other is not worker}
        return self.queue.take(worker.bucket, others)

    def _share(self, room: int) -> int:
        """Return how many of the items that are not done each worker would have, ``room`` at the most."""
        if len(self.queue) >= room * len(self.workers):
            return room
        left = len(self.queue) + sum(len(worker.jobs) for worker in self.workers)
        return min(room, -(-left // len(self.workers)))

    def _ask_back(self) -> None:
        """Ask, for every worker that has nothing to do, for one item of those that wait where there are others."""
        idle = sum(worker.ready and not worker.jobs for worker in self.workers)
        waiting = [
            (worker, held)
            for worker in sorted(self.workers, key=lambda worker: -len(worker.jobs))
            if len(worker.jobs) > 1
            for held in reversed(worker.jobs.values())
            if held.stage in NOT_BEGUN
        ]
        asked = sum(held.asked_back for _, held in waiting)
        for worker, held in waiting:
            if asked < idle and not held.asked_back:
                worker.ask_back(held)
                asked += 1

    def _put_back(self, job: Job) -> None:
        if job.id in self.suspected:
            self.alone.appendleft(job)
        else:
            self.queue.put_back(job)

    def _fail(self, event: Event) -> None:
        self.outcome.failed.append(event)
        self.outcome.broken = self.outcome.broken or event.get("broken")
        if self.max_failures is not None and len(self.outcome.failed) > self.max_failures:
            self.outcome.gave_up = "more items failed than allowed"

    def _bury(self, worker: W, kind: str, reason: str, suspects: Sequence[Job]) -> None:
        """Replace a worker that died or hangs: what it may have died of loses an attempt."""
        ended = worker.end(0.0 if kind == "timeout" else 1.0)
        ended = worker.last_words or ended
        self.workers.remove(worker)
        how = reason if kind == "timeout" else f"{reason} ({ended})"
        if not suspects:  # nothing tells which: none loses an attempt, and each is tried alone
            self.suspected.update(worker.jobs)
        for job in suspects:
            del worker.jobs[job.id]
            self._lose(job, kind, how)
        for held in reversed(worker.jobs.values()):
            self._put_back(held.job)
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
            self.suspected.add(job.id)
            self.alone.append(job)
        with contextlib.suppress(OSError):  # the event is told all the same
            self.folder.log(self.name, **event)
        self.on_event(event | self._expected(job))

    def _leave(self, caught: list[int]) -> None:
        """Let the workers end what is nearly done; kill those that do not leave, all of them at a second signal."""
        patience = FINISH_SECONDS[signal.Signals(caught[0])] if caught else 0.0
        now = self.clock()
        for worker in self.workers:
            worker.leaving = True
            worker.dismiss(frozenset(id for id, held in worker.jobs.items() if held.ends_within(patience, now)))
        until = now + patience + LEAVE_SECONDS
        while self.workers and len(caught) < 2 and self.clock() < until:
            self._look(0.1)


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
    options: RunOptions,
    worker: type[Process] | type[InProcess] = Process,
) -> Outcome:
    """Run ``jobs`` on ``places``, longest first. ``on_event`` hears of everything, in this process.

    Each worker is a process of its own unless ``worker`` is `InProcess`.
    """
    places = [replace(place, neighbours=len(places)) if place.device == "cpu" else place for place in places]
    hire: Any = partial(worker, root=str(folder.root))
    return Driver(jobs, places, folder, on_event, options, hire, worker.listen).run()
