"""The time that is left: right from the first steps on, on any machine, and after a resume. No clock but a fake one."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest

from dipfast.pace import Pace


@dataclass(frozen=True)
class Item:
    """A fit: seconds by the plan for all its steps, the steps that it takes, and those that are behind it."""

    planned: float = 100.0
    share: float = 1.0  # of its steps, that the plan expects it to take
    steps: int = 1000
    taken: int = 1000
    behind: int = 0

    @property
    def expectation(self) -> dict[str, float]:
        return {"expected_seconds": self.planned * self.share, "expected_share": self.share}

    def seconds(self, machine: float) -> float:
        return machine * self.planned * (self.taken - self.behind) / self.steps


class Run:
    """A run of ``items`` on a ``machine`` that takes so many seconds for one of the plan. ``around``: each fit."""

    def __init__(
        self, items: Sequence[Item], machine: float = 1.0, workers: int = 1, around: float = 1.0, start: float = 9.0
    ) -> None:
        self.now, self.pace, self.finished = 0.0, Pace(lambda: self.now), 0
        self.items, self.machine, self.workers, self.around = items, machine, workers, around
        self.events = sorted(self._events(start), key=lambda event: event[0])
        self.end = self.events[-1][0]

    def _events(self, start: float) -> Iterator[tuple[float, dict[str, Any]]]:
        expected = sum(item.expectation["expected_seconds"] for item in self.items)
        yield 0.0, {"event": "started", "jobs": len(self.items), "done": 0}
        yield 0.0, {"event": "scheduled", "expected_seconds": expected, "workers": self.workers}
        free = [start] * self.workers
        for id, item in enumerate(self.items):
            begin = heapq.heappop(free)
            yield begin, {"event": "claimed", "id": id + 1, **item.expectation}
            fit, first = item.seconds(self.machine), begin + self.around / 2
            for report in range(41):
                step = item.behind + round((item.taken - item.behind) * report / 40)
                at = first + fit * report / 40
                yield at, {"event": "progress", "id": id + 1, "step": max(1, step), "steps": item.steps}
            end = first + fit + self.around / 2
            yield end, {"event": "done", "id": id + 1, "record": {"steps": item.taken}}
            heapq.heappush(free, end)

    def __iter__(self) -> Iterator[tuple[float | None, float]]:
        """After each event what is said to be left, and what is."""
        for at, event in self.events:
            self.now = at
            self.pace.take(event)
            self.finished += event["event"] == "done"
            yield self.pace.seconds_left(), self.end - self.now


def within(run: Run, factor: float, done: int = 0, reports: int = 2, last: int | None = None) -> int:
    """Check what is said from so many reports and items on, while no more than ``last`` of them are done.

    By default that is until each worker has its last item.
    """
    last = len(run.items) - run.workers - 1 if last is None else last
    checked = reported = 0
    for (said, left), (_, event) in zip(run, run.events, strict=True):
        reported += event["event"] == "progress"
        if run.finished >= done and reported > reports and run.finished <= last:
            assert said is not None and left / factor <= said <= left * factor, (run.now, said, left)
            checked += 1
    return checked


@pytest.mark.parametrize("machine", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("start", [0.0, 60.0])
def test_fits_that_take_all_their_steps_are_known_from_the_first_of_them(
    machine: float, workers: int, start: float
) -> None:
    run = Run([Item()] * 12, machine, workers, start=start)
    assert within(run, 1.25, reports=5 * workers) > 100


@pytest.mark.parametrize("machine", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("mean", [0.1, 0.4, 0.9])
def test_fits_that_stop_by_themselves_are_known_from_the_first_few_items_on(
    machine: float, workers: int, mean: float
) -> None:
    chance = random.Random(0)
    taken = [round(1000 * min(1.0, mean * chance.uniform(0.7, 1.3))) for _ in range(40)]
    run = Run([Item(share=0.35, taken=steps) for steps in taken], machine, workers)
    assert within(run, 1.5, done=3) > 1000


def test_small_pictures_after_large_ones_are_known_by_the_plan() -> None:
    items = [Item(planned) for planned in (1600.0, 1600.0, *[100.0] * 16)]
    assert within(Run(items, 5.0, around=20.0), 1.3) > 500


def test_a_machine_that_slows_down_is_noticed() -> None:
    run = Run([*[Item()] * 10, *[Item(300.0)] * 10])  # the plan's seconds of the last ten stand for a slower machine
    for number, (at, event) in enumerate(run.events):
        if "expected_seconds" in event and event["event"] == "claimed":
            run.events[number] = at, event | {"expected_seconds": 100.0}
        elif event["event"] == "scheduled":
            run.events[number] = at, event | {"expected_seconds": 2000.0}
    for said, left in run:
        if run.finished == 13:
            assert said == pytest.approx(left, rel=0.4)


@pytest.mark.parametrize("behind", [200, 900])
def test_steps_of_an_earlier_process_are_not_taken_for_the_pace(behind: int) -> None:
    items = [Item(behind=behind), *[Item()] * 5]
    assert within(Run(items, 4.0), 1.2, reports=3) > 100


def test_an_item_that_was_resumed_is_as_far_as_it_was() -> None:
    run = Run([Item(behind=800)], 4.0, around=0.0)
    assert within(run, 1.1, last=0) > 20


def test_nothing_is_said_before_anything_is_measured() -> None:
    run = Run([Item()] * 2)
    said = [left for left, _ in zip((left for left, _ in run), range(4), strict=False)]
    assert said == [None] * 4


def test_at_the_end_nothing_is_left() -> None:
    *_, (said, left) = Run([Item(taken=300, share=0.35)] * 3, workers=2)
    assert (said, left) == (0.0, 0.0)


def told(*events: dict[str, Any]) -> Pace:
    """After events a second apart."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    for event in events:
        pace.take(event)
        now[0] += 1.0
    return pace


SCHEDULED = ({"event": "started", "jobs": 3}, {"event": "scheduled", "expected_seconds": 30.0, "workers": 1})


def test_a_lost_item_waits_again_and_one_that_failed_does_not() -> None:
    expected = {"expected_seconds": 10.0, "expected_share": 1.0}
    assert told(*SCHEDULED, {"event": "claimed", "id": 1, **expected}).waiting == 20.0
    assert told(*SCHEDULED, {"event": "claimed", "id": 1, **expected}, {"event": "lost", "id": 1}).waiting == 30.0
    assert told(*SCHEDULED, {"event": "lost", "id": 1, **expected}).waiting == 30.0
    for kind in ("failed", "quarantined", "cancelled"):
        assert told(*SCHEDULED, {"event": kind, "id": 1, **expected}).waiting == 20.0
        assert told(*SCHEDULED, {"event": "claimed", "id": 1, **expected}, {"event": kind, "id": 1}).waiting == 20.0
    assert told({"event": "failed", "path": "a"}, *SCHEDULED).waiting == 30.0


def test_without_a_plan_all_items_count_the_same() -> None:
    reports = [{"event": "progress", "id": 1, "step": step, "steps": 100} for step in (10, 20, 30)]
    pace = told({"event": "started", "jobs": 3}, {"event": "claimed", "id": 1}, *reports)
    assert pace.seconds_left() == pytest.approx(7.0 + 2 * 10.0)


def test_items_too_quick_for_a_report_are_known_by_their_seconds() -> None:
    pace = told(*SCHEDULED, {"event": "claimed", "id": 1, "expected_seconds": 10.0}, {"event": "done", "id": 1})
    assert pace.seconds_left() == pytest.approx(2.0)
