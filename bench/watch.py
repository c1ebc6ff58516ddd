"""How a trajectory is looked at from outside: with a known truth, while the clocks stand still."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

CURVE_EVERY = 50  # steps


class Clock:
    """Seconds on the wall and of this process, over all the stretches of `with`."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> Clock:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()

    @property
    def seconds(self) -> dict[str, float]:
        return {"seconds": self.wall, "processor_seconds": self.processor}


def quality(picture: Tensor, truth: Tensor) -> float:
    """PSNR in dB of pictures in [0, 1], computed where they are."""
    return float(-10 * (picture - truth).square().mean().log10())


def peak_of(curve: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """The highest of ``curve`` (steps and dB), its step, and some of the points."""
    peak_step, peak = max(curve, key=lambda point: point[1])
    return {"peak": peak, "peak_step": peak_step, "curve": [p for p in curve if p[0] and p[0] % CURVE_EVERY == 0]}
