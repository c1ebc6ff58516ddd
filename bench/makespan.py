"""How long would a thousand devices take for a million items? The driver itself, under a simulated clock.

    python bench/makespan.py [--items 1000000] [--devices 1000] [--buckets 1000] [--seed 0]

The queue and every decision are the product's own (`dipfast.workers.local.Driver`); workers and clock are simulated.
Items are of many sizes, a bucket for each. A worker loads the next item while it fits one; it takes CAPTURE seconds
when it comes to a bucket that it did not fit last, and its fits take what was predicted give or take a fifth. Workers
die at random and lose the fit in flight; some items kill every worker that fits them.

Printed: the makespan over its lower bound, max(sum of all fits / devices, longest fit), of the seconds that fits really
took with no capture, no failure and no loading; how many captures there were; lost and quarantined items; and the
driver's own microseconds an item. --steady leaves captures and failures out, which is the scheduling alone; it also
says where the rest is lost: shares of the bound that a device is idle before its first fit, between two, and behind
its last.
"""

from __future__ import annotations

import argparse
import heapq
import json
import random
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dipfast.plan import RATES, Job, Place
from dipfast.settings.document import Settings
from dipfast.settings.fit import Fit
from dipfast.settings.stop import FixedStop
from dipfast.store.folder import RunFolder
from dipfast.workers.local import Driver
from dipfast.workers.messages import GiveBack, Leave, Message
from dipfast.workers.options import RunOptions
from dipfast.workers.process import Worker

MEDIAN_SECONDS = 8.0  # a fit's; the largest takes some thirty times as long
CAPTURE = 20.0
LOAD, SAVE = 0.1, 0.1
START = 15.0  # until a worker is ready
LIFE = 4 * 3600.0  # mean, of a worker
POISON = 2e-5  # share of items that kill their worker
HEARTBEAT = 60.0
PATIENCE = 4.0  # the longest sleep of a look


@dataclass
class World:
    """The clock, what is to come, and what the fits really take."""

    rng: random.Random
    steady: bool
    seconds: dict[str, float]
    poison: set[str]
    now: float = 0.0
    number: int = 0

    def __post_init__(self) -> None:
        self.coming: list[tuple[float, int, SimulatedWorker, tuple[str, ...], str]] = []
        self.counts: Counter[str] = Counter()
        self.fits: dict[str, list[tuple[float, float]]] = {}  # of each device: when it began and ended one
        self.last_done = 0.0

    def clock(self) -> float:
        return self.now

    def plan(self, after: float, worker: SimulatedWorker, events: tuple[str, ...], id: str = "") -> None:
        self.number += 1
        heapq.heappush(self.coming, (self.now + after, self.number, worker, events, id))

    def hire(self, place: Place) -> SimulatedWorker:
        return SimulatedWorker(place, self)

    def listen(self, workers: Sequence[SimulatedWorker], seconds: float) -> list[SimulatedWorker]:
        """Time goes on to the next event, or a little further where nothing happens."""
        until = self.now + PATIENCE
        while self.coming and self.coming[0][0] <= until:
            self.now, _, worker, events, id = heapq.heappop(self.coming)
            if worker.alive and worker.comes(events, id):
                return [worker]
        self.now = until
        return []


class SimulatedWorker(Worker):
    """One device: an item being fitted, others that wait, loaded."""

    def __init__(self, place: Place, world: World) -> None:
        self.world, self.clock = world, world.clock
        super().__init__(place)
        self.said: deque[dict[str, Any] | None] = deque()
        self.waiting: deque[Job] = deque()
        self.fitting: str | None = None
        self.program: tuple | None = None
        self.alive = True
        world.plan(START, self, ("ready",))
        world.plan(HEARTBEAT, self, ("heartbeat",))
        if not world.steady:
            world.plan(world.rng.expovariate(1 / LIFE), self, ("dies",))

    def send(self, message: Message) -> None:
        match message:
            case Job():
                self.waiting.append(message)
                self.world.plan(LOAD, self, ("loading", "loaded"), message.id)
            case GiveBack():
                self.waiting = deque(job for job in self.waiting if job.id != message.id)
                self.world.plan(0.0, self, ("returned",), message.id)
            case Leave():
                self.world.plan(0.0, self, ("dies",))

    def comes(self, events: tuple[str, ...], id: str) -> bool:
        """What happens now. Whether the driver hears of it."""
        if events == ("dies",):
            self.alive = False
            self.said.append(None)
            return True
        if events == ("returned",) and (id == self.fitting or id not in self.jobs):
            return False  # its fit has begun, or it is done
        if events == ("heartbeat",):
            self.world.plan(HEARTBEAT, self, events)
        self.said.extend({"event": event, "id": id, "path": id, "memory": None} for event in events)
        if "loaded" in events and self.fitting is None:
            self._begin(id)
        elif "done" in events:
            self.world.last_done = self.world.now
            self.fitting = None
            if self.waiting:
                self._begin(self.waiting[0].id)
        return True

    def _begin(self, id: str) -> None:
        """Fit the item that has waited longest; a save overlaps with the next fit."""
        job, world = self.waiting.popleft(), self.world
        self.fitting = job.id
        seconds = world.seconds[job.id]
        if job.bucket != self.program:
            world.counts["captures"] += 1
            self.program, seconds = job.bucket, seconds + (0.0 if world.steady else CAPTURE)
        self.said.append({"event": "fitting", "id": job.id, "path": job.id})
        world.fits.setdefault(self.place.name, []).append((world.now, world.now + seconds))
        if job.id in world.poison:
            world.plan(seconds / 2, self, ("dies",))
        else:
            world.plan(seconds, self, ("fitted", "saving", "done"), job.id)

    def receive(self) -> dict[str, Any] | None:
        if not self.said:
            return None
        event = self.said.popleft()
        if event is None:
            raise EOFError
        return event

    def end(self, patience: float) -> str:
        self.alive = False
        return "simulated"

    def kill(self) -> None:
        self.alive = False


def items(count: int, buckets: int, rng: random.Random) -> list[Job]:
    """Jobs whose sides, and so whose seconds, are spread as those of scans are: many alike, some large, few huge."""
    sizes = [MEDIAN_SECONDS * rng.lognormvariate(0, 1) for _ in range(buckets)]
    weights = [rng.paretovariate(1.0) for _ in range(buckets)]
    rate = RATES["cpu", "fp32"]
    settings = Settings(fit=Fit(steps=1, stop=FixedStop()))
    drawn = rng.choices(range(buckets), weights, k=count)
    return [
        Job(f"{i:07d}", "", "", (), settings, bucket=(f"bucket {b}",), flops=sizes[b] * rate)
        for i, b in enumerate(drawn)
    ]


def simulate(count: int, devices: int, buckets: int, seed: int, steady: bool) -> dict[str, Any]:
    """The whole run. Everything random is drawn from ``seed``."""
    rng = random.Random(seed)
    jobs = items(count, buckets, rng)
    rate = RATES["cpu", "fp32"]
    seconds = {job.id: job.flops / rate * rng.lognormvariate(0, 0.2) for job in jobs}
    poison = set() if steady else {job.id for job in jobs if rng.random() < POISON}
    world = World(rng, steady, seconds, poison)
    done: Counter[str] = Counter()
    ends: Counter[str] = Counter()

    def hear(event: dict[str, Any]) -> None:
        ends[event["event"]] += 1
        if event["event"] in ("done", "quarantined"):
            done[event["id"]] += 1

    places = [Place(f"device-{i}", "cpu", 1) for i in range(devices)]
    with TemporaryDirectory() as folder:
        start = time.process_time()
        driver = Driver(
            jobs, places, RunFolder(Path(folder)), hear, RunOptions(), world.hire, world.listen, world.clock
        )
        driver.run()
        spent = time.process_time() - start
    idle = _idle(world) if steady else {}
    bound = max(sum(seconds.values()) / devices, max(seconds.values()))
    assert len(done) == count and set(done.values()) == {1}, "an item was lost or done twice"
    return {
        "items": count,
        "devices": devices,
        "buckets": len({job.bucket for job in jobs}),
        "seed": seed,
        "steady": steady,
        "makespan": round(world.last_done, 1),
        "bound": round(bound, 1),
        "ratio": round(world.last_done / bound, 4),
        "captures": world.counts["captures"],
        "lost": ends["lost"],
        "quarantined": ends["quarantined"],
        "microseconds_an_item": round(spent / count * 1e6, 1),
        **{name: round(seconds / bound, 4) for name, seconds in idle.items()},
    }


def _idle(world: World) -> dict[str, float]:
    """Mean seconds that a device, none of which died, had nothing to fit."""
    before = after = between = 0.0
    for fits in world.fits.values():
        before += fits[0][0]
        after += world.last_done - fits[-1][1]
        between += sum(later[0] - earlier[1] for earlier, later in pairwise(fits))
    return {
        name: value / len(world.fits)
        for name, value in (("idle_before", before), ("idle_between", between), ("idle_after", after))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("items", 1_000_000), ("devices", 1000), ("buckets", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--steady", action="store_true", help="no captures, no failures")
    asked = parser.parse_args()
    print(json.dumps(simulate(asked.items, asked.devices, asked.buckets, asked.seed, asked.steady)))


if __name__ == "__main__":
    main()
