"""A worker's items under way: what overlaps, what does not, and what an item costs its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch
from conftest import MANIFEST

from dipfast.batch.prepare import prepare
from dipfast.image import Source, write
from dipfast.manifest import parse
from dipfast.plan import Job, Place
from dipfast.record import Record
from dipfast.restoration import line
from dipfast.store.folder import RunFolder
from dipfast.workers import items, pipeline
from dipfast.workers.messages import GiveBack, Leave
from dipfast.workers.pipeline import Pipeline

ENDS = ("done", "failed", "cancelled", "returned")
PATIENCE = 60.0
Event = dict[str, Any]


@pytest.fixture
def jobs(inputs: Path, picture: np.ndarray) -> list[Job]:
    """Of four pictures of one size and, second, one of another."""
    for name, light in (("d", 0.5), ("e", 0.3)):
        write(inputs / f"{name}.png", (picture * light).astype(np.float32), Source("png", "rgb", 8))
    manifest = parse(MANIFEST.format(steps=12), "m.yaml", str(inputs))
    return prepare(manifest.items).jobs


def work(
    jobs: list[Job], folder: Path, cohort: int = 1, hear: Callable[[Pipeline, Event], None] = lambda line, event: None
) -> list[Event]:
    """Give all of ``jobs`` at once, and the order to leave after the last of them. Every event."""
    events: list[Event] = []

    def take(event: Event) -> None:
        events.append(event)
        hear(line, event)
        if sum(event["event"] in ENDS for event in events) == len(jobs):
            line.inbox.put(Leave())

    line = Pipeline(RunFolder(folder), Place("cpu-0", "cpu", 1, cohort), None, take)
    for job in jobs:
        line.inbox.put(job)
    line.run()
    return events


def told(events: list[Event]) -> list[tuple[str, str]]:
    """Events but for progress, each with the picture's letter."""
    return [(event["event"], Path(event["path"]).stem) for event in events if event["event"] != "progress"]


def records(folder: Path) -> dict[str, Record]:
    return {Path(record["input"]["path"]).stem: record for record in RunFolder(folder).all_records()}


def hashes(folder: Path) -> dict[str, tuple[str, str]]:
    return {
        name: (record["output"]["sha256"], record["generator"]["sha256"]) for name, record in records(folder).items()
    }


def test_an_item_goes_through_its_stages_and_its_record_is_there_when_it_is_done(
    jobs: list[Job], tmp_path: Path
) -> None:
    there: list[bool] = []

    def hear(line: Pipeline, event: Event) -> None:
        there.extend([line.folder.record(event["id"]) is not None] if event["event"] in ("saving", "done") else [])

    events = work(jobs[:1], tmp_path / "run", hear=hear)
    stages = ["loading", "loaded", "fitting", "fitted", "saving", "done"]
    assert told(events) == [(stage, "a") for stage in stages]
    assert there == [False, True]
    assert [event["event"] for event in RunFolder(tmp_path / "run").events()] == ["claimed", "done"]


def test_the_next_item_is_loaded_while_one_is_fitted_and_the_last_is_saved_meanwhile(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fit ends only once the second item is loaded; the first save only once the second fit has begun."""
    seen = {key: threading.Event() for key in (("loaded", "c"), ("fitting", "c"))}
    first, second = jobs[0], jobs[2]
    fit, write_all = pipeline.restoring, items._write

    def fitting(settings: Any, observation: Any, problem: Any, device: str, id: str, *rest: Any) -> Iterator[None]:
        if id == first.id:
            assert seen["loaded", "c"].wait(PATIENCE)
        return (yield from fit(settings, observation, problem, device, id, *rest))

    def saving(loaded: Any, *rest: Any) -> Any:
        if loaded.job.id == first.id:
            assert seen["fitting", "c"].wait(PATIENCE)
        return write_all(loaded, *rest)

    def hear(line: Pipeline, event: Event) -> None:
        key = event["event"], Path(event["path"]).stem
        if key in seen:
            seen[key].set()

    monkeypatch.setattr(pipeline, "restoring", fitting)
    monkeypatch.setattr(items, "_write", saving)
    events = told(work([first, second], tmp_path / "run", hear=hear))
    assert events.index(("loading", "c")) < events.index(("fitted", "a"))
    assert events.index(("fitting", "c")) < events.index(("done", "a"))


def test_what_comes_out_does_not_depend_on_the_cohort(jobs: list[Job], tmp_path: Path) -> None:
    for cohort in (1, 2, 4):
        work(jobs, tmp_path / str(cohort), cohort)
    alone = hashes(tmp_path / "1")
    assert len(alone) == 5
    assert hashes(tmp_path / "2") == hashes(tmp_path / "4") == alone


def test_only_items_of_one_bucket_are_fitted_side_by_side_each_lane_with_one_program(
    jobs: list[Job], tmp_path: Path
) -> None:
    abreast: list[set[str]] = []

    def hear(line: Pipeline, event: Event) -> None:
        if event["event"] == "fitting":
            abreast.append({Path(loaded.job.path).stem for loaded in line.fitting.values()})

    work([jobs[0], jobs[2], jobs[3], jobs[4], jobs[1]], tmp_path / "run", 2, hear)
    assert {len(names) for names in abreast} == {1, 2}
    assert all(names == {"b"} or "b" not in names for names in abreast)
    ran = {name: record["ran"] for name, record in records(tmp_path / "run").items()}
    programs = {(ran[name]["lane"], ran[name]["programs"]) for name in "acde"}
    assert programs == {(0, 1), (1, 1)}
    assert ran["b"]["programs"] == 2


def test_a_save_that_fails_fails_its_item_alone(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = RunFolder.put

    def refuse(self: RunFolder, path: str, data: bytes) -> None:
        if path == "images/c.png":
            raise PermissionError(13, "Permission denied", path)
        put(self, path, data)

    monkeypatch.setattr(RunFolder, "put", refuse)
    events = work(jobs, tmp_path / "run", 2)
    assert sorted(told([event for event in events if event["event"] in ENDS])) == [
        *(("done", name) for name in "abde"),
        ("failed", "c"),
    ]
    assert next(event["kind"] for event in events if event["event"] == "failed") == "unwritable"
    assert sorted(records(tmp_path / "run")) == ["a", "b", "d", "e"]


def test_a_disk_that_is_slower_than_the_fits_holds_them_back(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on, write, begun, lines = threading.Event(), pipeline.save, list[int](), list[Pipeline]()

    class Inbox(SimpleQueue):  # type: ignore[type-arg]
        """Has the disk go on where the worker waits for it with a picture that is ready to be fitted."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            if block and lines and lines[0].loaded:
                goes_on.set()
            return super().get(block, timeout)

    def slow(*given: Any) -> Record:
        assert goes_on.wait(PATIENCE)
        return write(*given)

    def hear(line: Pipeline, event: Event) -> None:
        lines[:] = [line]
        if event["event"] == "fitting":
            begun.append(len(line.begun))
            if len(begun) == len(jobs):
                goes_on.set()  # nothing held them back

    monkeypatch.setattr(pipeline, "save", slow)
    monkeypatch.setattr(pipeline, "SimpleQueue", Inbox)
    work(jobs, tmp_path / "run", hear=hear)
    assert max(begun) == 2


def test_an_item_that_cannot_be_loaded_costs_the_one_in_the_slot_nothing(jobs: list[Job], tmp_path: Path) -> None:
    Path(jobs[2].path).write_bytes(b"no picture")
    ends = told([event for event in work(jobs[:3], tmp_path / "run") if event["event"] in ENDS])
    assert sorted(ends) == [("done", "a"), ("done", "b"), ("failed", "c")]


def test_an_item_that_finds_no_memory_beside_others_is_tried_again_with_fewer(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, under_way = pipeline.restoring, set[str]()

    def crowded(settings: Any, observed: Any, problem: Any, device: str, id: str, *rest: Any) -> Any:
        if len(under_way) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        under_way.add(id)
        restored = yield from fit(settings, observed, problem, device, id, *rest)
        under_way.remove(id)
        return restored

    monkeypatch.setattr(pipeline, "restoring", crowded)
    same_size = [jobs[0], *jobs[2:]]
    events = work(same_size, tmp_path / "run", 3)
    assert [event["event"] for event in events if event["event"] in ENDS] == ["done"] * 4
    assert told(events).count(("fitting", "d")) == 2  # the third of three
    assert told(events).count(("fitting", "e")) == 1  # the bucket has two slots from then on


def test_one_that_finds_no_memory_alone_fails(jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        yield

    monkeypatch.setattr(pipeline, "restoring", full)
    events = work(jobs[:2], tmp_path / "run", 2)
    assert [event["kind"] for event in events if event["event"] == "failed"] == ["out-of-memory"] * 2


def test_a_device_that_dies_fails_no_item_and_ends_the_worker(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> Iterator[None]:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        yield

    monkeypatch.setattr(pipeline, "restoring", dies)
    with pytest.raises(torch.AcceleratorError):
        work(jobs[:2], tmp_path / "run", 2)
    assert "failed" not in [event["event"] for event in RunFolder(tmp_path / "run").events()]


def test_an_item_is_given_back_while_it_waits_and_not_while_it_is_fitted(jobs: list[Job], tmp_path: Path) -> None:
    first, second = jobs[0], jobs[2]

    def hear(line: Pipeline, event: Event) -> None:
        if (event["event"], event["id"]) == ("fitting", first.id):
            line.inbox.put(GiveBack(first.id))
            line.inbox.put(GiveBack(second.id))

    ends = told([event for event in work([first, second], tmp_path / "run", 1, hear) if event["event"] in ENDS])
    assert sorted(ends) == [("done", "a"), ("returned", "c")]


def test_an_order_to_leave_finishes_what_it_names_cancels_the_rest_and_returns_what_waits(
    jobs: list[Job], tmp_path: Path
) -> None:
    same_size, fitting = [jobs[0], *jobs[2:]], list[str]()

    def hear(line: Pipeline, event: Event) -> None:
        fitting.extend([event["id"]] if event["event"] == "fitting" else [])
        if len(fitting) == 2 and line.leaving is None:
            line.inbox.put(Leave(frozenset(fitting[:1])))

    ends = told([event for event in work(same_size, tmp_path / "run", 2, hear) if event["event"] in ENDS])
    assert sorted(ends) == [("cancelled", "c"), ("done", "a"), ("returned", "d"), ("returned", "e")]


def test_an_item_that_finds_no_memory_alone_is_tried_again_a_tier_lower(
    jobs: list[Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit, failed = line.fitting, list[bool]()

    def short(problem: Any, config: Any, settings: Any, machine: Any, *rest: Any) -> Iterator[None]:
        if not failed:
            failed.append(machine.recompute)
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return (yield from fit(problem, config, settings, machine, *rest))

    monkeypatch.setattr(line, "fitting", short)
    events = work(jobs[:1], tmp_path / "run", 1)
    ends = [event for event in events if event["event"] in ENDS]
    assert [event["event"] for event in ends] == ["done"]
    assert ends[0]["record"]["ran"]["memory"]["recompute"] is True
