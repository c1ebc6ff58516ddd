"""What a run says while it works, on standard error: bars for a terminal, lines for a log, JSON for a program.

Here arrive the driver's events, one dict each, in the driver's process; nothing here knows how they came about.
The trade-off: a display may be wrong, late or gone, but it never costs a run; an event that cannot be shown is
passed over.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from rich.cells import cell_len, set_cell_size
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dipfast.pace import Pace
from dipfast.text import change, count, decibels, duration, printable, rate, reason_of

Event = dict[str, Any]
Clock = Callable[[], float]

PLAIN_SECONDS = 10.0  # between two lines about one item
RATE_REPORTS = 20  # progress events over which steps per second are taken
BESIDE = 54  # columns that the numbers beside a bar or a name take
ESSENTIALS = ("id", "output", "steps", "chosen_step", "why", "seconds", "metrics", "ran")


def make_progress(kind: str, stream: TextIO | None = None, clock: Clock = time.monotonic) -> Display:
    """A context manager that takes the driver's events and shows them on ``stream``, by default standard error.

    ``kind``: rich (bars), plain (lines), json (an object a line), none; auto is rich on a terminal, else plain.
    Raises ValueError for another.
    """
    stream = sys.stderr if stream is None else stream
    if kind == "auto":
        kind = "rich" if _is_terminal(stream) else "plain"
    displays = {"rich": Bars, "plain": Lines, "json": Json, "none": Display}
    if kind not in displays:
        raise ValueError(f"progress should be auto, {', '.join(displays)}, is {kind!r}")
    return (Display if stream is None else displays[kind])(stream, clock)  # stderr may be closed, and then is None


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"


class Display:
    """Shows nothing. The others say how an event is shown."""

    def __init__(self, stream: TextIO | None, clock: Clock) -> None:
        self.stream, self.clock = stream, clock

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __call__(self, event: Event) -> None:
        """Show ``event``. Never raises."""
        with suppress(Exception):
            self.show(event)

    def show(self, event: Event) -> None:
        pass

    def say(self, line: str) -> None:
        assert self.stream is not None
        self.stream.write(line + "\n")
        self.stream.flush()


class Json(Display):
    """Every event as strict JSON on a line of its own, in ASCII."""

    def show(self, event: Event) -> None:
        record = event.get("record")
        if isinstance(record, dict):
            event = event | {"record": {key: record[key] for key in ESSENTIALS if key in record}}
        self.say(json.dumps(_strict(event), allow_nan=False, default=str))


def _strict(value: Any) -> Any:
    """``value`` with null for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _strict(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass
class InFlight:
    """An item that is being fitted."""

    name: str
    told: float  # when a line last spoke of it
    step: int = 0
    steps: int = 0
    loss: float | None = None
    seen: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RATE_REPORTS))

    @property
    def share(self) -> float:
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def speed(self) -> float | None:
        """Steps per second over the last reports."""
        if len(self.seen) < 2 or self.seen[-1][0] <= self.seen[0][0]:
            return None
        (start, first), (now, last) = self.seen[0], self.seen[-1]
        return (last - first) / (now - start)


@dataclass
class RunState:
    """What is known of a run from its events so far."""

    now: Clock
    jobs: int = 0
    before: int = 0  # done before this run
    early: int = 0  # failed before they could become a job
    done: int = 0
    failed: int = 0
    running: dict[object, InFlight] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pace = Pace(self.now)

    @property
    def total(self) -> int:
        """Jobs, and items that failed before they could become one."""
        return max(self.jobs + self.early, self.done + self.failed)

    def take(self, event: Event) -> None:
        kind, key = event.get("event"), event.get("id") or event.get("path")
        if kind == "started":
            self.before = int(event.get("done", 0))
            self.jobs, self.early = int(event.get("jobs", 0)), self.failed
        elif kind == "claimed":
            self.running[key] = InFlight(name_of(event), self.now())
        elif kind == "progress":
            self._advance(self.running.setdefault(key, InFlight(name_of(event), self.now())), event)
        else:
            self.running.pop(key, None)
            self.done += kind == "done"
            self.failed += kind in ("failed", "quarantined")
        self.pace.take(event)

    def _advance(self, item: InFlight, event: Event) -> None:
        item.step, item.steps = int(event.get("step", 0)), int(event.get("steps", 0))
        item.loss = None if event.get("loss") is None else float(event["loss"])
        item.seen.append((self.now(), item.step))

    @property
    def finished(self) -> float:
        """Return how many items have ended, and the parts that are done of those that are fitted."""
        return self.done + self.failed + sum(item.share for item in list(self.running.values()))

    def seconds_left(self) -> float | None:
        """As `Pace` has it. None where nothing tells the pace."""
        return self.pace.seconds_left()


class Lines(Display):
    """A line when an item starts and ends, and now and then one in between: for logs."""

    def __init__(self, stream: TextIO | None, clock: Clock) -> None:
        super().__init__(stream, clock)
        self.state = RunState(clock)

    def show(self, event: Event) -> None:
        self.state.take(event)
        line = self._progress(event) if event.get("event") == "progress" else sentence(event)
        if line is not None:
            self.say(line)

    def _progress(self, event: Event) -> str | None:
        item = self.state.running[event.get("id") or event.get("path")]
        if self.clock() - item.told < PLAIN_SECONDS:
            return None
        item.told = self.clock()
        return f"{item.name} {', '.join(facts_of(item))}"


class Bars(Display):
    """A bar for the run and one for each item in flight; failures scroll by above them."""

    def __init__(self, stream: TextIO | None, clock: Clock) -> None:
        super().__init__(stream, clock)
        self.state = RunState(clock)
        self.console = Console(file=stream, highlight=False)
        self.live = Live(
            get_renderable=self.render,
            console=self.console,
            transient=True,
            redirect_stdout=False,  # that is for results, and may be piped
        )

    def __enter__(self) -> Bars:
        with suppress(Exception):
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(Exception):
            self.live.stop()

    def show(self, event: Event) -> None:
        self.state.take(event)
        if event.get("event") in ("failed", "quarantined", "lost", "warning", "note") or warnings_of(event):
            style = "" if event["event"] == "note" else "red"
            self.console.print(Text(sentence(event) or "", style=style), soft_wrap=True)

    def render(self) -> RenderableType:
        """Called by rich's own thread, so it reads the state and changes nothing."""
        return Group(self._overall(), self._items(list(self.state.running.values())))

    def _overall(self) -> RenderableType:
        state = self.state
        row = Table.grid(padding=(0, 1))
        cells: list[RenderableType] = [
            _bar(state.finished, state.total, self.width),
            Text(f"{state.done}/{state.total} done", style="bold"),
        ]
        if state.failed:
            cells.append(Text(f"{state.failed} failed", style="red"))
        if state.before:
            cells.append(Text(f"{state.before} done before", style="dim"))
        left = state.seconds_left()
        if left is not None:
            cells.append(Text(f"{duration(left)} left", style="dim"))
        row.add_row(*cells)
        return row

    def _items(self, running: Iterable[InFlight]) -> RenderableType:
        table = Table.grid(padding=(0, 1))
        for item in running:
            table.add_row(_shortened(item.name, self.width), _bar(item.step, item.steps, 10), *facts_of(item))
        return table

    @property
    def width(self) -> int:
        """Columns for a name, or for the run's bar."""
        return min(max(self.console.width - BESIDE, 12), 40)


def _bar(done: float, total: float, width: int) -> ProgressBar:
    return ProgressBar(max(total, 1), done, width, complete_style="cyan", finished_style="green")


def _shortened(name: str, width: int) -> Text:
    """The end of a long name, which tells more than its beginning."""
    if cell_len(name) > width:
        name = "…" + set_cell_size(name[::-1], width - 1)[::-1]
    return Text(name, no_wrap=True)


def facts_of(item: InFlight) -> list[str]:
    """``step 150/300``, ``12.4 steps/s``, ``loss 0.0012``: as far as they are known."""
    facts = [f"step {item.step}/{item.steps}"] if item.steps else ["starting"]
    if item.speed is not None:
        facts.append(f"{rate(item.speed)} steps/s")
    if item.loss is not None:
        facts.append(f"loss {item.loss:.3g}")
    return facts


def sentence(event: Event) -> str | None:
    """An event in words, on one line; None for one that says nothing to a person."""
    name = name_of(event)
    match event.get("event"):
        case "started":
            before = f", {event['done']} done before" if event.get("done") else ""
            return f"{count(event.get('jobs', 0), 'image')} to do{before}"
        case "claimed":
            return f"start {name}"
        case "done":
            return "; ".join((f"done {name} {outcome(event)}", *(f"warning: {text}" for text in warnings_of(event))))
        case "failed" | "quarantined":
            kind = printable(event.get("kind") or "unknown")
            return f"failed {name} {kind}: {reason_of(event.get('reason'), event.get('path'))}"
        case "lost":
            return f"lost {name}: {reason_of(event.get('reason'), event.get('path'))}"
        case "warning":
            return f"warning: {printable(event.get('reason') or '')}"
        case "note":
            return printable(event.get("reason") or "")
        case "cancelled":
            return f"cancelled {name}"
    return None


def name_of(event: Event) -> str:
    """The item's path, from the current folder where it lies there."""
    path = Path(str(event.get("path") or event.get("id") or "?"))
    with suppress(ValueError, OSError):
        path = path.relative_to(Path.cwd())
    return printable(path)


def warnings_of(event: Event) -> list[str]:
    """What the record of a done event warns of."""
    return [printable(text) for text in (event.get("record") or {}).get("warnings") or []]


def outcome(event: Event) -> str:
    """``23.4 s, 300 steps, PSNR 20.2 → 28.1 dB``: of a done event, what its record has."""
    record = event.get("record") or {}
    metrics = record.get("metrics") or {}
    parts = [duration((record.get("seconds") or {}).get("total", event.get("wall")))]
    if record.get("steps") is not None:
        parts.append(count(record["steps"], "step"))
    psnr = decibels(metrics, "psnr")
    if psnr is not None:
        parts.append(f"PSNR {change(decibels(metrics, 'psnr_before'), psnr, 1, ' dB')}")
    return ", ".join(parts)
