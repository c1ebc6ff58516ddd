"""The clocks of a worker: when it hangs, what it hangs on, and which of its fits are nearly done."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import settings_of

from dipfast.plan import Job, Place
from dipfast.workers.process import Held, Worker


class Silent(Worker):
    """A worker's clocks without a process."""

    def __init__(self, *held: Held) -> None:
        super().__init__(Place("cpu-0", "cpu", 1))
        self.ready, self.heard, self.jobs = True, 0.0, {one.job.id: one for one in held}

    send = receive = end = kill = None  # type: ignore[assignment]


def item(id: str = "a", **changes: Any) -> Job:
    return Job(id, id, "", (id,), settings_of({"fit": {"steps": 100}}), **changes)


def test_a_worker_hangs_when_it_is_silent_and_what_it_works_on_is_suspected() -> None:
    stages = {"a": "saving", "b": "fitted", "c": "fitting", "d": "loading", "e": "loaded", "f": "given"}
    worker = Silent(*(Held(item(id), stage, 0.0) for id, stage in stages.items()))
    assert worker.hung(299) is None
    reason, suspects = worker.hung(301) or ("", [])
    assert reason == "timeout: its worker said nothing for 301 s"
    assert [job.id for job in suspects] == ["a", "c", "d"]
    worker.excuse(100)
    assert worker.hung(301) is None
    assert Silent(Held(item(), "loaded")).suspects == [item()]  # there is no other


def test_an_item_that_does_not_move_hangs_and_one_that_waits_does_not() -> None:
    slow = Held(item(flops=8e10 * 9), "fitting", 1e6 - 950)  # ten seconds by the prediction
    waits = Held(item("b"), "loaded", 0.0)
    worker = Silent(slow, waits, Held(item("c", flops=8e10 * 9), "fitting", 1e6))
    worker.heard = 1e6
    assert worker.hung(1e6) is None
    assert worker.hung(1e6 + 200) is None  # two fits beside each other may take twice as long
    reason, stuck = worker.hung(1e6 + 375) or ("", [])
    assert (reason, stuck) == ("timeout: its worker said nothing for 375 s", [slow.job, worker.jobs["c"].job])
    worker.heard = 1e6 + 375
    assert worker.hung(1e6 + 375) == ("timeout: it did not move for 1325 s", [slow.job])


@pytest.mark.parametrize(
    ("first", "last", "now", "expected"),
    [
        ((0, 0), (10, 50), 10, True),  # fifty steps left, ten seconds
        ((0, 0), (10, 20), 10, False),  # forty seconds
        ((0, 0), (10, 20), 35, True),  # of which twenty-five are over
        ((10, 20), (10, 20), 10, False),
        (None, None, 10, False),
    ],
)
def test_a_fit_is_finished_if_its_pace_says_that_it_soon_is(first: Any, last: Any, now: float, expected: bool) -> None:
    held = Held(item(), "fitting", first=first, last=last)
    assert held.ends_within(20, now) is expected
    held.stage = "fitted"
    assert not held.ends_within(20, now)  # it has nothing left to finish
