"""How long a run will take yet: what is left of it by the plan's prediction, at the pace that was measured so far.

The prediction knows how items compare; how fast the machine is and how soon fits stop is measured, on the steps that
this run takes. Steps that an earlier process took count for what is left of an item, and not for the pace.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Event = dict[str, Any]
RECENT, LATEST = 20, 5  # items that are done, which tell when fits stop; and those of them which tell the pace
GOING_ON = 0.25  # of the steps expected: what a fit is given that has taken them all and goes on


@dataclass
class Begun:
    """An item that is being fitted. ``expected``: seconds by the plan, in which it stops at ``share`` of its steps."""

    expected: float
    share: float
    since: float
    first: tuple[float, int] | None = None  # time and steps at its first report
    last: tuple[float, int] | None = None
    steps: int = 0  # at the most

    def report(self, now: float, step: int, steps: int) -> None:
        self.last, self.steps = (now, step), steps
        self.first = self.first or self.last

    @property
    def measured(self) -> tuple[float, float]:
        """Seconds between its first and its last report, and the plan's for these steps."""
        if self.first is None or self.last is None or not self.steps:
            return 0.0, 0.0
        share = (self.last[1] - self.first[1]) / self.steps
        return self.last[0] - self.first[0], self.expected / self.share * share


@dataclass(frozen=True)
class Done:
    """What an item that is done tells: seconds in all, and expected; and those two of the steps that were reported."""

    seconds: float
    expected: float
    measured: tuple[float, float]
    stopped: float | None  # steps taken over those expected


@dataclass
class Pace:
    """What is left of a run, from its events. ``clock`` gives seconds."""

    clock: Callable[[], float]
    start: float | None = None
    workers: int = 1
    first: float | None = None  # when the first item began
    busy: float = 0.0  # seconds of all items that have ended
    waiting: float = 0.0  # seconds expected of what is not begun; without a plan all items count the same
    begun: dict[object, Begun] = field(default_factory=dict)
    done: deque[Done] = field(default_factory=lambda: deque(maxlen=RECENT))

    def take(self, event: Event) -> None:
        """Hear of an event of the driver."""
        key, now = event.get("id") or event.get("path"), self.clock()
        match event.get("event"):
            case "started":
                self.start, self.waiting = now, float(event.get("jobs", 0))
            case "scheduled":
                self.waiting, self.workers = float(event["expected_seconds"]), int(event["workers"])
            case "claimed":
                self._begin(key, event, now)
            case "progress":
                begun = self.begun.get(key) or self._begin(key, event, now)
                begun.report(now, int(event.get("step", 0)), int(event.get("steps", 0)))
            case "lost" if key in self.begun:
                self.waiting += self._ended(key, event, now).expected
            case "done":
                self._learn(self._ended(key, event, now), event, now)
            case "failed" | "quarantined" | "cancelled" if self.start is not None:
                self._ended(key, event, now)

    def _begin(self, key: object, event: Event, now: float) -> Begun:
        self.begun[key] = begun = Begun(self._expected(event), float(event.get("expected_share", 1.0)), now)
        self.waiting = max(0.0, self.waiting - begun.expected)
        self.first = now if self.first is None else self.first
        return begun

    def _ended(self, key: object, event: Event, now: float) -> Begun:
        """The item, which may have ended without a word that it began."""
        if key not in self.begun:
            self._begin(key, event, now if self.start is None else self.start)
        begun = self.begun.pop(key)
        self.busy += now - begun.since
        return begun

    def _expected(self, event: Event) -> float:
        return float(event.get("expected_seconds", 1.0))

    def _learn(self, begun: Begun, event: Event, now: float) -> None:
        taken = (event.get("record") or {}).get("steps") or (begun.last or (0, 0))[1]
        stopped = taken / (begun.share * begun.steps) if begun.steps and taken else None
        self.done.append(Done(now - begun.since, begun.expected, begun.measured, stopped))

    def seconds_left(self) -> float | None:
        """None where nothing tells the pace."""
        pace = self._pace()
        if pace is None:
            return None
        running = [pace * self._expected_of(begun) for begun in list(self.begun.values())]
        together = (pace * self.waiting + sum(running)) / self._side_by_side()
        return max(together, *running, 0.0)

    def _side_by_side(self) -> float:
        """Items that are fitted at a time: one a worker, or as many more as were on average."""
        if self.first is None or self.clock() <= self.first:
            return max(1, self.workers)
        seconds = self.busy + sum(self.clock() - begun.since for begun in list(self.begun.values()))
        return max(1, self.workers, seconds / (self.clock() - self.first))

    def _pace(self) -> float | None:
        """Seconds that pass for one that the plan expects: by the steps, when they end, and what is around them."""
        latest = list(self.done)[-LATEST:]
        by_steps = _ratio([*(one.measured for one in latest), *(begun.measured for begun in list(self.begun.values()))])
        if by_steps is None:
            return _ratio([(one.seconds, one.expected) for one in latest])
        return by_steps * self._stop() * self._around(latest)

    def _stop(self) -> float:
        """How many steps fits take, over those expected; that they are as many counts as half a fit."""
        stops = [one.stopped for one in list(self.done) if one.stopped is not None]
        return (0.5 + sum(stops)) / (0.5 + len(stops))

    def _around(self, latest: list[Done]) -> float:
        """How long items take, over their steps. That it is no longer counts as one of them."""
        both = [(one.seconds, one.measured[0]) for one in latest if one.measured[0]]
        one = sum(steps for _, steps in both) / len(both) if both else 1.0
        return _ratio([(one, one), *both]) or 1.0

    def _expected_of(self, begun: Begun) -> float:
        """The plan's seconds for what is left of an item."""
        if begun.last is None or not begun.steps:
            return begun.expected
        taken = begun.last[1]
        until = min(begun.steps, begun.share * begun.steps * self._stop())
        left = min(begun.steps - taken, max(until - taken, GOING_ON * until))
        return begun.expected * left / until if until else 0.0


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    """Of the sums; None where one of them is nothing."""
    above, below = sum(one for one, _ in pairs), sum(two for _, two in pairs)
    return above / below if above and below else None
