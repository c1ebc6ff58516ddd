"""The loss of one fit as a small drawing: a line over its steps on a logarithmic scale. Geometry only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dipfast.report.facts import finite

WIDTH, HEIGHT = 480, 150
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 20, 20  # margins, for labels


@dataclass(frozen=True)
class Mark:
    """A labelled place on an axis or on the line, in the drawing's units."""

    x: float
    y: float
    label: str


@dataclass(frozen=True)
class Curve:
    """``line``: points of an SVG polyline. ``losses``: ticks of the upright axis. ``chosen``: the answer's step."""

    line: str
    losses: list[Mark]
    steps: list[Mark]
    chosen: Mark | None


def curve(losses: object, steps_taken: float | None, chosen_step: float | None) -> Curve | None:
    """The drawing for pairs (step, loss), thinned as they may be, of a fit that took ``steps_taken`` steps.

    None where fewer than two losses are positive and finite.
    """
    points = _points(losses)
    if len(points) < 2:
        return None
    steps, values = np.array(points).T
    logs = np.log10(values)
    last = max(float(steps[-1]), steps_taken or 0)
    x = _Axis(0, last, LEFT, WIDTH - RIGHT)
    y = _Axis(float(logs.min()), float(logs.max()), HEIGHT - BOTTOM, TOP)
    line = " ".join(f"{x.at(step):.1f},{y.at(log):.1f}" for step, log in zip(steps, logs, strict=True))
    ticks = [Mark(LEFT, y.at(math.log10(tick)), f"{tick:g}") for tick in _ticks(values.min(), values.max())]
    ends = [Mark(x.at(step), HEIGHT - BOTTOM, f"{step:.0f}") for step in (0, last)]
    chosen = None
    if chosen_step is not None and 0 <= chosen_step <= last:
        log = float(np.interp(chosen_step, steps, logs))
        chosen = Mark(x.at(chosen_step), y.at(log), f"{chosen_step:.0f}")
    return Curve(line, ticks, ends, chosen)


@dataclass(frozen=True)
class _Axis:
    """A linear map of [low, high] onto [start, end] of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        span = self.high - self.low
        share = (value - self.low) / span if span else 0.5
        return round(self.start + share * (self.end - self.start), 1)


def _points(losses: object) -> list[tuple[float, float]]:
    """The pairs that a logarithmic scale can show, by step."""
    pairs = [_pair(point) for point in losses] if isinstance(losses, list) else []
    return sorted({step: loss for step, loss in filter(None, pairs) if loss > 0}.items())


def _pair(point: Any) -> tuple[float, float] | None:
    if not isinstance(point, Sequence) or len(point) != 2 or None in map(finite, point):
        return None
    return point[0], point[1]


def _ticks(low: float, high: float) -> list[float]:
    """Two to five round numbers within [low, high]: decades, or thirds of one, or the ends themselves."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for parts in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9)):
        ticks = [part * 10.0**decade for decade in decades for part in parts]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 2:
            return inside[:: math.ceil(len(inside) / 5)]
    return [low, high] if low < high else [low]
