"""Lanes: several fits of one bucket side by side on one device, moved in turn by one host loop.

A fit is a course: a generator that enqueues steps, yields, and waits for them when it is moved again. So every lane
has work on the device while the host waits for one of them. A lane that is done takes the next fit at once, onto the
buffers and the program of its last one. No threads, and no bit of any result depends on the neighbours.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch

from dipfast.fit.workbench import Workbench

T = TypeVar("T")
Course = Generator[None, None, T]


def finish(course: Course[T]) -> T:
    """Move ``course`` to its end. Raises what it raises."""
    while True:
        try:
            next(course)
        except StopIteration as end:
            found: T = end.value
            return found


class Lane(Generic[T]):
    """A place on a device for one fit after another: a workbench and, on a GPU, a stream."""

    def __init__(self, device: torch.device) -> None:
        self.workbench = Workbench()
        self.stream = _stream(device)
        self.course: Course[T] | None = None

    def begin(self, course: Course[T]) -> None:
        """Take up ``course``, whose first move is the next `move`."""
        assert self.course is None
        self.course = course

    def move(self) -> T | None:
        """Move the course to where it next waits for the device. Its result at its end; None while it goes on.

        The lane is free behind a result, and behind what the course raises.
        """
        assert self.course is not None
        try:
            with self._on_stream():
                next(self.course)
        except StopIteration as end:
            self.course = None
            found: T = end.value
            return found
        except BaseException:
            self.course = None
            raise
        return None

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self.stream is None else torch.cuda.stream(self.stream)


def _stream(device: torch.device) -> torch.cuda.Stream | None:
    """One on a GPU; None where there is none, which the fit then says better."""
    there = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return torch.cuda.Stream(device) if there else None


def abreast(begin: Iterable[Callable[[Workbench], Course[T]]], lanes: Sequence[Lane[T]]) -> list[T]:
    """The result of every course, in order, over ``lanes``. Raises what the first that fails raises."""
    waiting = deque(enumerate(begin))
    found: dict[int, T] = {}
    places: dict[Lane[T], int] = {}
    while waiting or any(lane.course for lane in lanes):
        for lane in lanes:
            if lane.course is None and waiting:
                places[lane], start = waiting.popleft()
                lane.begin(start(lane.workbench))
            if lane.course is not None and (result := lane.move()) is not None:
                found[places[lane]] = result
    return [found[place] for place in sorted(found)]
