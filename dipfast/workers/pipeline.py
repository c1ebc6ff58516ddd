"""A worker's items under way: one thread loads them, the slots fit them, one thread saves them.

While an item is fitted the next ones are read and decoded, and the last ones encoded and written. Every decision is
made in the thread that moves the slots, which is the only one that touches the device; the others take from one queue
and put into another. Loading and saving cost the fit the processor time that they take, and nothing else.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import torch

from dipfast.fit import Cancelled, Course, Hooks, Slot
from dipfast.plan import Job, Place
from dipfast.restoration.failure import is_dead, is_out_of_memory, reason_of
from dipfast.restoration.line import Restored, restoring
from dipfast.restoration.memory import Free, MemoryPolicy
from dipfast.store.folder import RunFolder
from dipfast.workers.items import CheckpointFile, Loaded, load, save
from dipfast.workers.messages import GiveBack, Leave, Message, cohort_size

PROGRESS_SECONDS = 0.5  # between two progress events of one fit
Event = dict[str, Any]


@dataclass(frozen=True)
class Failed:
    """An item that could not be loaded, and why."""

    job: Job
    reason: dict[str, Any]
    since: float


@dataclass(frozen=True)
class Saved:
    """An item that the saving thread is done with, well or not."""

    id: str


class Pipeline:
    """The items of one worker. Orders come through `inbox`; ``send`` takes events to the driver, from every thread."""

    def __init__(self, folder: RunFolder, place: Place, memory: int | None, send: Callable[[Event], object]) -> None:
        self.folder, self.place, self.memory, self.send = folder, place, memory, send
        self.inbox: SimpleQueue[Message | Loaded | Failed | Saved] = SimpleQueue()
        self.to_load: SimpleQueue[Job | None] = SimpleQueue()
        self.to_save: SimpleQueue[tuple[Loaded, Restored, int] | None] = SimpleQueue()
        self.writing = threading.Lock()  # of the ledger
        self.given: dict[str, Job] = {}  # not ended and not given back
        self.loaded: deque[Loaded] = deque()
        self.slots: list[Slot[Restored]] = []
        self.fitting: dict[Slot[Restored], Loaded] = {}
        self.begun: set[str] = set()  # being fitted, or fitted and not saved yet
        self.bucket: tuple = ()  # of what was fitted last
        self.most: dict[tuple, int] = {}  # slots for which a bucket's memory was found to do
        self.policy = MemoryPolicy(Free(place.neighbours))
        self.leaving: Leave | None = None

    def run(self) -> None:
        """Work until told to leave, and then until what is to be finished is saved. Raises where the device dies."""
        threads = [threading.Thread(target=life, daemon=True) for life in (self._load, self._save)]
        for thread in threads:
            thread.start()
        while self.leaving is None or self.given:
            self._hear(wait=not (self.fitting or (self.loaded and self._has_room(self.loaded[0].job))))
            self._fill()
            for slot in list(self.fitting):
                self._move(slot)
        self.to_load.put(None)
        self.to_save.put(None)
        for thread in threads:
            thread.join()  # a process that ends while a thread is in a library's code aborts

    def _hear(self, wait: bool = False) -> None:
        """Take what has come in; with ``wait``, until something has."""
        with suppress(Empty):
            while True:
                self._take(self.inbox.get(block=wait))
                wait = False

    def _take(self, message: Message | Loaded | Failed | Saved) -> None:
        match message:
            case Job() if self.leaving is None:
                self.given[message.id] = message
                self.to_load.put(message)
            case Loaded() if self._is_wanted(message.job.id):
                self.loaded.append(message)
            case Failed() if self._is_wanted(message.job.id):
                self._end(message.job, {"event": "failed", **message.reason}, message.since)
            case Saved():
                del self.given[message.id]
                self.begun.discard(message.id)
            case GiveBack():
                self._give_back([message.id])
            case Leave():
                self.leaving = message
                self._give_back(list(self.given))

    def _give_back(self, ids: list[str]) -> None:
        """Give back those of ``ids`` whose fits have not begun."""
        for id in ids:
            if id in self.given and id not in self.begun:
                self.loaded = deque(loaded for loaded in self.loaded if loaded.job.id != id)
                self._tell("returned", self.given.pop(id))

    def _is_wanted(self, id: str) -> bool:
        """Return whether what was loaded of ``id`` is to be fitted: it was not given back or given twice."""
        waiting = any(loaded.job.id == id for loaded in self.loaded)
        return id in self.given and id not in self.begun and not waiting

    def _load(self) -> None:
        """Load what comes in, in a thread of its own."""
        while (job := self.to_load.get()) is not None:
            start = time.perf_counter()
            if job.id not in self.given or job.id in self.begun:
                continue  # given back meanwhile, and perhaps given again
            try:
                self._tell("loading", job)
                self._log("claimed", job)
                loaded = load(job)
                self._tell("loaded", job)
                self.inbox.put(loaded)
            except Exception as error:
                self.inbox.put(Failed(job, reason_of(error), start))

    def _fill(self) -> None:
        """Begin what is loaded while there are slots for it; all that are fitted at a time are of one bucket."""
        while self.loaded and self._has_room(self.loaded[0].job):
            loaded = self.loaded.popleft()
            slot = self._free_slot(loaded.job)
            self.fitting[slot] = loaded
            self.begun.add(loaded.job.id)
            self._tell("fitting", loaded.job)
            slot.begin(self._course(loaded, slot))

    def _has_room(self, job: Job) -> bool:
        """Return whether a fit may begin: beside those of its bucket, and not while as many wait to be saved.

        A disk that is slower than the device holds it back, or all of its memory would be pictures in the end.
        """
        most = cohort_size(job, self.place.device, self.memory, self.place.cohort)
        if len(self.begun) - len(self.fitting) > most:
            return False
        if not self.fitting:
            return True
        return job.bucket == self.bucket and len(self.fitting) < min(most, self.most.get(job.bucket, most))

    def _free_slot(self, job: Job) -> Slot[Restored]:
        """Return a slot that is free. For another bucket than the last one, all others release their memory."""
        if job.bucket != self.bucket:
            self.bucket = job.bucket
            for slot in self.slots[1:]:
                slot.program_cache.release()
        for slot in self.slots:
            if slot not in self.fitting:
                return slot
        self.slots.append(Slot(torch.device(self.place.device)))
        return self.slots[-1]

    def _course(self, loaded: Loaded, slot: Slot[Restored]) -> Course[Restored]:
        job = loaded.job
        hooks = Hooks(
            self._reporter(job),
            partial(self._is_cancelled, job.id),
            slot.program_cache,
            CheckpointFile(self.folder, job.id),
        )
        about = job.settings, loaded.observation, loaded.problem, self.place.device, job.id
        return (yield from restoring(*about, hooks, self.policy, lambda: len(self.fitting) == 1))

    def _reporter(self, job: Job) -> Callable[[int, float], None]:
        """Return what reports a fit's progress to the driver, not more often than every half second."""
        last, total = 0.0, job.shared.fit.steps

        def report(steps: int, loss: float) -> None:
            nonlocal last
            if time.monotonic() - last >= PROGRESS_SECONDS:
                last = time.monotonic()
                self._tell("progress", job, step=steps, steps=total, loss=loss)

        return report

    def _is_cancelled(self, id: str) -> bool:
        """Return whether to end a fit. Asked before each step, so that a job that comes in is loaded at once."""
        self._hear()
        return self.leaving is not None and id not in self.leaving.finish

    def _move(self, slot: Slot[Restored]) -> None:
        """Go on with the fit in ``slot``. No exception of an item gets past here; that of a dead device does."""
        loaded = self.fitting[slot]
        too_large = False
        try:
            restored = slot.move()
        except Cancelled:
            outcome = {"event": "cancelled"}
        except Exception as error:
            if is_dead(error):
                raise
            outcome, too_large = {"event": "failed", **reason_of(error)}, is_out_of_memory(error)
        else:
            if restored is not None:
                del self.fitting[slot]
                self._tell("fitted", loaded.job)
                self.to_save.put((loaded, restored, self.slots.index(slot)))
            return
        del self.fitting[slot]
        if too_large and self.fitting:
            self.most[self.bucket] = len(self.fitting)
            slot.program_cache.release()
            self.begun.discard(loaded.job.id)
            self.loaded.appendleft(loaded)  # again, with fewer neighbours
            self._tell("loaded", loaded.job)
        else:
            self._end(loaded.job, outcome, loaded.since)

    def _save(self) -> None:
        """Save what was fitted, in a thread of its own."""
        while (fitted := self.to_save.get()) is not None:
            loaded, restored, slot = fitted
            job = loaded.job
            try:
                self._tell("saving", job)
                record = save(loaded, restored, self.folder, slot)
                self._log("done", job)
                outcome = {"event": "done", "record": record.to_json()}
            except Exception as error:
                outcome = {"event": "failed", **reason_of(error)}
            self._tell_end(job, outcome, loaded.since)
            self.inbox.put(Saved(job.id))

    def _end(self, job: Job, outcome: Event, since: float) -> None:
        del self.given[job.id]
        self.begun.discard(job.id)
        self._tell_end(job, outcome, since)

    def _tell_end(self, job: Job, outcome: Event, since: float) -> None:
        """Say how an item ended, and write that into the ledger."""
        if outcome["event"] != "done":
            with suppress(OSError):  # the driver hears of it all the same
                self._log(job=job, **outcome)
        self._tell(job=job, wall=time.perf_counter() - since, processor=time.process_time(), **outcome)

    def _log(self, event: str, job: Job, **facts: Any) -> None:
        with self.writing:
            self.folder.log(self.place.name, event, id=job.id, path=job.path, **facts)

    def _tell(self, event: str, job: Job, **facts: Any) -> None:
        self.send({"event": event, "id": job.id, "path": job.path, "worker": self.place.name, **facts})
