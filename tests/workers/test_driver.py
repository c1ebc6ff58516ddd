"""Who gets which item, and who loses an attempt: the driver's decisions, with workers that do what a test says."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import settings_of

from dipfast.pace import Pace
from dipfast.plan import Job, Place
from dipfast.store.folder import RunFolder
from dipfast.workers import local
from dipfast.workers.local import Driver, Event
from dipfast.workers.messages import GiveBack, Leave, Message
from dipfast.workers.options import RunOptions
from dipfast.workers.process import Worker

STAGES = ("loading", "loaded", "fitting", "fitted", "saving", "done")


class Puppet(Worker):
    """A worker that says what it is told to say, and dies at the word."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.said: deque[Event | None] = deque([{"event": "ready", "memory": None}])
        self.heard_of: list[Message] = []

    def send(self, message: Message) -> None:
        self.heard_of.append(message)
        if message == Leave():
            self.die()

    def receive(self) -> Event | None:
        if not self.said:
            return None
        event = self.said.popleft()
        if event is None:
            raise EOFError
        return event

    def say(self, *events: tuple[str, str]) -> None:
        self.said.extend({"event": event, "id": id, "path": id} for event, id in events)

    def die(self) -> None:
        self.said.append(None)

    def end(self, patience: float) -> str:
        return "at the word"

    def kill(self) -> None:
        pass

    def does(self, id: str) -> None:
        """The whole of an item."""
        self.say(*((stage, id) for stage in STAGES))

    @property
    def asked(self) -> list[str]:
        return [message.id for message in self.heard_of if isinstance(message, GiveBack)]


class Stage:
    """A driver and its puppets. ``play`` has every puppet's words heard, then does what is left to be done."""

    def __init__(self, folder: Path, items: str, places: int, cohort: int | None = None) -> None:
        self.puppets: list[Puppet] = []
        self.events: list[Event] = []
        jobs = [
            Job(
                id,
                id,
                "",
                (id,),
                settings_of({"fit": {"steps": 9, "stop": {"type": "fixed"}}}),
                bucket=("one",),
                flops=ord("z") - ord(id),
            )
            for id in items
        ]
        at = [Place(f"cpu-{i}", "cpu", 1, cohort) for i in range(places)]
        self.driver: Driver[Puppet] = Driver(
            jobs, at, RunFolder(folder), self.events.append, RunOptions(), self.hire, self.listen
        )
        self.plot: Callable[[], None] = lambda: None

    def hire(self, place: Place) -> Puppet:
        self.puppets.append(Puppet(place))
        return self.puppets[-1]

    def listen(self, workers: Sequence[Puppet], seconds: float) -> list[Puppet]:
        if not any(worker.said for worker in workers):
            self.plot()
        return [worker for worker in workers if worker.said]

    def play(self, plot: Callable[[], None]) -> local.Outcome:
        self.plot = plot
        return self.driver.run()

    def held(self) -> list[str]:
        return ["".join(sorted(worker.jobs)) for worker in self.puppets if worker in self.driver.workers]

    def finish(self) -> None:
        """Every worker does one of its items."""
        for worker in self.driver.workers:
            for id in list(worker.jobs)[:1]:
                worker.does(id)

    def lost(self) -> list[str]:
        return [event["id"] for event in self.events if event["event"] == "lost"]

    def done(self) -> list[str]:
        return sorted(event["id"] for event in self.events if event["event"] == "done")


def once(first: Callable[[], None], then: Callable[[], None]) -> Callable[[], None]:
    """A plot whose first scene is another."""
    scenes = iter([first])
    return lambda: next(scenes, then)()


def test_a_worker_has_as_many_items_as_keep_its_stages_busy_and_no_more_than_its_share(tmp_path: Path) -> None:
    held: list[list[str]] = []
    stage = Stage(tmp_path, "abcdefghij", 2)
    stage.play(lambda: (held.append(stage.held()), stage.finish())[1])
    assert held[0] == ["abc", "def"]
    assert all(max(map(len, now)) - min(map(len, now)) <= 1 for now in held)
    assert stage.done() == list("abcdefghij")


def test_a_cohort_is_given_more(tmp_path: Path) -> None:
    held: list[list[str]] = []
    stage = Stage(tmp_path, "abcdefghij", 1, cohort=2)
    stage.play(lambda: (held.append(stage.held()), stage.finish())[1])
    assert held[0] == ["abcdef"]


def test_what_was_at_work_when_a_worker_died_loses_an_attempt_and_the_others_none(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "abcd", 1)

    def die() -> None:
        [worker] = stage.driver.workers
        worker.say(*((s, "a") for s in STAGES[:-1]), ("loading", "b"), ("loaded", "b"), ("fitting", "b"))
        worker.say(("loading", "c"), ("loaded", "c"))
        worker.die()

    held: list[list[str]] = []
    stage.play(once(die, lambda: (held.append(stage.held()), stage.finish())[1]))
    assert stage.lost() == ["a", "b"]
    assert held[:3] == [["a"], ["b"], ["cd"]]  # the two alone, one after the other
    assert stage.done() == list("abcd")
    assert stage.driver.attempts == {"a": 1, "b": 1}


def test_a_worker_that_dies_while_nothing_is_known_to_be_at_work_has_each_item_tried_alone(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "abc", 1)
    held: list[list[str]] = []

    def plot() -> None:
        held.append(stage.held())
        if len(stage.puppets) == 1:
            stage.driver.workers[0].die()
        else:
            stage.finish()

    stage.play(plot)
    assert stage.lost() == []
    assert held == [["abc"], ["a"], ["b"], ["c"]]


def test_an_item_that_takes_every_worker_with_it_ends_in_quarantine_and_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "ATTEMPTS", 3)
    stage = Stage(tmp_path, "abcd", 2)

    def plot() -> None:
        for worker in stage.driver.workers:
            for id in list(worker.jobs)[:1]:
                if id == "b":
                    worker.say(("loading", "b"))
                    worker.die()
                else:
                    worker.does(id)

    outcome = stage.play(plot)
    assert stage.lost() == ["b", "b"]
    assert [event["id"] for event in outcome.failed] == ["b"]
    assert outcome.failed[0]["reason"] == "its worker died (at the word), attempt 3 of 3"
    assert stage.done() == ["a", "c", "d"]


def test_the_last_words_of_a_worker_are_the_reason(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "a", 1)

    def die() -> None:
        [worker] = stage.driver.workers
        worker.said.extend([{"event": "dying", "reason": "CUDA error: an illegal memory access"}, None])

    stage.play(once(die, stage.finish))
    lost = next(event for event in stage.events if event["event"] == "lost")
    assert lost["reason"] == "its worker died (CUDA error: an illegal memory access), attempt 1 of 3"
    assert stage.done() == ["a"]


def test_a_dead_device_costs_only_what_was_fitted_on_it(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "abc", 1)

    def die() -> None:
        [worker] = stage.driver.workers
        assert stage.held() == ["abc"]
        worker.say(("loading", "a"), ("loaded", "a"), ("fitting", "a"), ("fitted", "a"), ("saving", "a"))
        worker.say(("loading", "b"), ("loaded", "b"), ("fitting", "b"), ("loading", "c"))
        worker.said.extend([{"event": "dying", "reason": "CUDA error: an illegal memory access"}, None])

    stage.play(once(die, stage.finish))
    assert (stage.lost(), stage.done()) == (["b"], list("abc"))


def test_one_that_has_nothing_to_do_gets_what_waits_at_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "abcd", 2)

    def uneven() -> None:
        first, second = stage.driver.workers
        assert stage.held() == ["ab", "cd"]
        first.say(("loading", "a"), ("loaded", "a"), ("fitting", "a"), ("loading", "b"), ("loaded", "b"))
        second.does("c")
        second.does("d")

    def give_back() -> None:
        first = stage.driver.workers[0]
        assert first.asked == ["b"]
        first.say(("returned", "b"))

    def moved() -> None:
        assert stage.held() == ["a", "b"]
        stage.finish()

    scenes = iter([uneven, give_back, moved])
    stage.play(lambda: next(scenes, stage.finish)())
    assert stage.done() == list("abcd")


def test_an_item_that_two_idle_workers_could_have_is_asked_for_once(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "ab", 3)

    def plot() -> None:
        busy = [worker for worker in stage.driver.workers if worker.jobs]
        assert [len(worker.jobs) for worker in busy] == [1, 1]
        assert not any(worker.asked for worker in stage.driver.workers)  # the only one of a worker is left there
        stage.finish()

    stage.play(plot)


def test_a_job_for_a_worker_that_is_dead_already_goes_to_another(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "ab", 1)
    hire = stage.hire

    def deaf(place: Place) -> Puppet:
        worker = hire(place)
        if len(stage.puppets) == 1:
            worker.send = lambda message: exec("raise BrokenPipeError")  # type: ignore[method-assign]
            worker.die()
        return worker

    stage.driver.hire = deaf
    stage.play(stage.finish)
    assert (stage.lost(), stage.done()) == ([], ["a", "b"])


def test_the_plans_seconds_are_told_of_all_items_and_of_each_that_begins_or_fails(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "ab", 1)

    def fails_to_load() -> None:
        stage.puppets[0].say(("loading", "b"), ("failed", "b"))

    stage.play(once(lambda: stage.puppets[0].does("a"), fails_to_load))
    told = [event for event in stage.events if "expected_seconds" in event]
    assert [(event["event"], event.get("id")) for event in told] == [
        ("scheduled", None),
        ("claimed", "a"),
        ("failed", "b"),
    ]
    whole, one, other = (event["expected_seconds"] for event in told)
    assert whole == pytest.approx(one + other, abs=0.1)
    assert (told[0]["workers"], told[1]["expected_share"]) == (1, 1.0)
    pace = Pace(lambda: 0.0)
    for event in [{"event": "started", "jobs": 2}, *stage.events]:
        pace.take(event)
    assert pace.waiting == pytest.approx(0.0, abs=0.1)
