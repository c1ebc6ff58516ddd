"""Slots: several fits of one bucket side by side on one device, moved in turn by one loop of the host.

A fit is a course: a generator that enqueues steps, yields, and waits for them when it is moved again. So every slot has
work on the device while the host waits for one of them. A slot that is done takes the next fit at once, on the buffers
and the program of its last one. There are no threads, and no bit of a result depends on the other slots.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Generic, TypeVar

import torch

from dipfast.fit.program_cache import ProgramCache

T = TypeVar("T")
Course = Generator[None, None, T]


def finish(course: Course[T]) -> T:
    """Move ``course`` to its end and return its result. Raises what it raises."""
    while True:
        try:
            next(course)
        except StopIteration as end:
            found: T = end.value
            return found


class Slot(Generic[T]):
    """A place on a device for one fit after another, with a program cache and, on a GPU, a stream."""

    def __init__(self, device: torch.device) -> None:
        self.program_cache = ProgramCache()
        self.stream = _stream(device)
        self.course: Course[T] | None = None

    def begin(self, course: Course[T]) -> None:
        """Take ``course``, which the next `move` moves for the first time."""
        assert self.course is None
        self.course = course

    def move(self) -> T | None:
        """Move the course to where it next waits for the device. Return its result at its end; None until then.

        The slot is free after a result, and after an exception of the course, which is raised.
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
    """Return a stream on a GPU; None on a CPU, and for a GPU that does not exist, for which the fit has the error."""
    there = device.type == "cuda" and (device.index or 0) < torch.cuda.device_count()
    return torch.cuda.Stream(device) if there else None


def finish_all(begin: Iterable[Callable[[ProgramCache], Course[T]]], slots: Sequence[Slot[T]]) -> list[T]:
    """Move every course to its end, side by side in ``slots``, and return the results in order.

    ``begin`` makes each course for the program cache of its slot. Raises what the first course that fails raises.
    """
    waiting = deque(enumerate(begin))
    found: dict[int, T] = {}
    places: dict[Slot[T], int] = {}
    while waiting or any(slot.course for slot in slots):
        for slot in slots:
            if slot.course is None and waiting:
                places[slot], start = waiting.popleft()
                slot.begin(start(slot.program_cache))
            if slot.course is not None and (result := slot.move()) is not None:
                found[places[slot]] = result
    return [found[place] for place in sorted(found)]
