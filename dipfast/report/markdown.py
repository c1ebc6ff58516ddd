"""`report.md`: the same facts as tables, for a terminal, a pull request or a wiki. Links are relative."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dipfast.report.comparison import Comparison, Pair
from dipfast.report.facts import MAX_LISTED, facts
from dipfast.report.summary import Summary, headlines
from dipfast.text import change, count, duration, image_link, markdown, number, reason_of

if TYPE_CHECKING:
    from dipfast.store.rows import Row


@dataclass(frozen=True)
class Link:
    """A cell that leads to an image of the run."""

    output: str


def as_markdown(title: str, rows: Sequence[Row], summary: Summary, comparison: Comparison | None) -> str:
    """The whole report. Sections that would be empty are left out."""
    states = {state: [row for row in rows if row.status == state] for state in ("failed", "done", "pending")}
    parts = [f"# {markdown(title)}", table(("run", ""), headlines(summary))]
    if comparison is not None:
        parts += ["## Beside another run", _comparison(comparison)]
    if states["failed"]:
        parts += [f"## {count(len(states['failed']), 'failure')}", _failures(states["failed"])]
    if states["done"]:
        parts += ["## Images", _images(states["done"])]
    if states["pending"]:
        parts += ["## Not done yet", _pending(states["pending"])]
    return "\n\n".join(parts) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], more: int = 0) -> str:
    """A table of GitHub's Markdown, and how many rows it leaves out. Every cell is escaped."""
    lines = [head, *rows]
    text = ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
    text.insert(1, "|" + " --- |" * len(head))
    return "\n".join(text) + (f"\n\n… and {more} more, in results.csv" if more > 0 else "")


def _cell(value: object) -> str:
    if isinstance(value, Link):
        return f"[{markdown(value.output)}]({image_link(value.output)})"
    return "" if value is None else markdown(value)


def _failures(failed: Sequence[Row]) -> str:
    rows = [(row.path, row.kind or "unknown", reason_of(row.reason, row.path)) for row in failed[:MAX_LISTED]]
    return table(("image", "kind", "reason"), rows, len(failed) - MAX_LISTED)


def _pending(pending: Sequence[Row]) -> str:
    return table(("image",), [(row.path,) for row in pending[:MAX_LISTED]], len(pending) - MAX_LISTED)


def _images(done: Sequence[Row]) -> str:
    head = ("image", "task", "preset", "size", "steps", "answer", "why", "seconds", "PSNR dB", "SSIM", "ran on")
    return table(head, map(_image, done[:MAX_LISTED]), len(done) - MAX_LISTED)


def _image(row: Row) -> tuple[object, ...]:
    known = facts(row)
    return (
        Link(row.output),
        known["task"] if known["strength"] in (None, 1) else f"{known['task']}, strength {known['strength']:g}",
        known["preset"],
        known["width"] and f"{known['width']} × {known['height']}",
        known["steps"],
        known["chosen_step"],
        known["why"],
        number(known["seconds"], 1),
        change(known["psnr_before"], known["psnr"], 2),
        change(known["ssim_before"], known["ssim"], 3),
        ", ".join(known[name] for name in ("device", "engine", "precision") if known[name]),
    )


def _comparison(comparison: Comparison) -> str:
    names = (comparison.name, comparison.other)
    head = ("image", *(f"PSNR dB, {name}" for name in names), "gain", *(f"time, {name}" for name in names), "faster")
    return table(head, map(_pair, [*comparison.pairs, comparison.mean]))


def _pair(pair: Pair) -> tuple[object, ...]:
    psnr = (number(pair.psnr, 2), number(pair.other_psnr, 2), number(pair.gain, 2, sign=True))
    times = (duration(pair.seconds), duration(pair.other_seconds), number(pair.speedup, 2, "×"))
    return (pair.output, *psnr, *times)
