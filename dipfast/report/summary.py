"""What a run came to, in numbers: `summary.json` for programs, `results.csv` for spreadsheets, a table for all.

Times are those of the records, so they hold for all items that are done, however many runs it took; the wall
clock and the images per hour are those of the last run. Items that share one fit count once in all times.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from dipfast.files import replacing, write_atomic
from dipfast.report.aggregate import Aggregate, median, per_hour, rounded
from dipfast.report.facts import COLUMNS, Facts, facts, finite
from dipfast.store.folder import RunFolder, now
from dipfast.text import change, count, duration, number, printable, rate, reason_of

if TYPE_CHECKING:
    from dipfast.store.rows import Row

Summary = dict[str, Any]
Record = dict[str, Any]

SHOWN_FAILURES = 20
SHOWN_SLOWEST = 3
NAME_WIDTH = 19


def summarize(
    rows: Iterable[Row],
    seconds: float | None = None,
    *,
    already_done: int = 0,
    hear: Callable[[Row, Record | None], object] = lambda row, record: None,
) -> Summary:
    """The content of `summary.json`. Plain data, every number finite or None.

    ``seconds``: wall time of the run, None where it is not known; ``already_done``: fits that it found done. ``hear``
    is told of every row and its record, which are read once.
    """
    aggregate = Aggregate()
    for row in rows:
        record = row.record
        aggregate.add(row, record)
        hear(row, record)
    states = aggregate.states
    return {
        "version": 1,
        "time": now(),
        "items": states.total(),
        "done": states["done"],
        "already_done": already_done,
        "failed": states["failed"],
        "pending": states["pending"],
        "failures_by_kind": dict(Counter(failure["kind"] or "unknown" for failure in aggregate.failures).most_common()),
        "failures": aggregate.failures,
        "wall_seconds": rounded(seconds),
        "seconds_left": aggregate.seconds_left(),
        "images_per_hour": per_hour(aggregate.fits - already_done, seconds),
        "seconds_per_image": aggregate.spread(),
        "seconds_by_phase": {phase: median(column) for phase, column in aggregate.phases.items()},
        "seconds_cold_and_warm": aggregate.programs.cold_and_warm(),
        "seconds_per_megapixel": median(aggregate.per_megapixel),
        "metrics": aggregate.qualities(),
        "slowest": aggregate.slowest(),
        "programs": aggregate.programs.counts(),
        "ran_on": aggregate.ran_on(),
        "software": sorted(aggregate.software),
    }


def write_summary(
    folder: RunFolder, rows: Iterable[Row], seconds: float | None = None, *, already_done: int = 0
) -> Summary:
    """Write `summary.json` and `results.csv`, and return the summary. Raises OSError.

    Without ``seconds``, the wall time and what follows from it stay as the last run wrote them.
    """
    with _results(folder) as write:
        summary = summarize(rows, seconds, already_done=already_done, hear=write)
    if seconds is None:
        summary |= _last_run(folder)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name's lone surrogate is no UTF-8, but its escape is JSON.
    write_atomic(folder.root / "summary.json", text.encode("utf-8", "backslashreplace"))
    return summary


def _last_run(folder: RunFolder) -> Facts:
    """What only the run itself could know, from the summary that it left."""
    try:
        old = json.loads((folder.root / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    kept = ("already_done", "wall_seconds", "images_per_hour") if isinstance(old, dict) else ()
    return {name: old[name] for name in kept if finite(old.get(name)) is not None}


def write_results(folder: RunFolder, rows: Iterable[Row]) -> None:
    """Write `results.csv`, a line for each item. Raises OSError."""
    with _results(folder) as write:
        for row in rows:
            write(row, row.record)


@contextmanager
def _results(folder: RunFolder) -> Iterator[Callable[[Row, Record | None], object]]:
    """What writes a line of `results.csv`, which is there once all are."""
    with replacing(folder.root / "results.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        yield lambda row, record: writer.writerow([_cell(value) for value in facts(row, record).values()])
        text.flush()
        text.detach()


def _cell(value: object) -> object:
    """Text that no spreadsheet takes for a formula: such a cell gets an apostrophe in front."""
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@", "＝", "＋", "－", "＠")) else text


def print_summary(summary: Summary, console: Console) -> None:
    """The closing table: what was done, how long it took, how good it is, and what failed with its reason."""
    for name, value in headlines(summary):
        console.print(Text(f"{name:<{NAME_WIDTH}}", style="dim").append(value, style="not dim"), soft_wrap=True)
    failures = summary["failures"]
    for failure in failures[:SHOWN_FAILURES]:
        console.print(_failure_line(failure), soft_wrap=True)
    if len(failures) > SHOWN_FAILURES:
        console.print(Text(f"… and {len(failures) - SHOWN_FAILURES} more, in results.csv"), soft_wrap=True)


def _failure_line(failure: Facts) -> Text:
    reason = reason_of(failure["reason"], failure["path"])
    line = Text("failed ", style="red")
    line.append(printable(failure["path"]), style="bold default")
    return line.append(f" {printable(failure['kind'] or 'unknown')}: {reason}", style="default")


def headlines(summary: Summary) -> list[tuple[str, str]]:
    """The summary as pairs of words: what, and how much. What is not known is left out."""
    spread, metrics = summary["seconds_per_image"], summary["metrics"]
    lines = [("items", _counts(summary))]
    if psnr := quality(metrics, "psnr", 2, " dB"):
        lines += [("PSNR", psnr)]
    if ssim := quality(metrics, "ssim", 3):
        lines += [("SSIM", ssim)]
    if spread["median"] is not None:
        words = [f"{name} {duration(value)}" for name, value in spread.items()]
        lines += [("seconds per image", ", ".join(words)), ("medians by phase", _by_phase(summary))]
    if summary["seconds_cold_and_warm"]["warm"] is not None:
        words = [f"{name} {duration(value)}" for name, value in summary["seconds_cold_and_warm"].items()]
        lines += [("cold and warm", ", ".join(words))]
    if summary["seconds_per_megapixel"] is not None:
        lines += [("per megapixel", duration(summary["seconds_per_megapixel"]))]
    if len(summary["slowest"]) > 1:
        words = [f"{printable(one['output'])} {duration(one['seconds'])}" for one in summary["slowest"][:SHOWN_SLOWEST]]
        lines += [("slowest", ", ".join(words))]
    if summary["wall_seconds"] is not None:
        lines += [("wall time", duration(summary["wall_seconds"]))]
    if summary["seconds_left"] is not None:
        lines += [("time left, about", duration(summary["seconds_left"]))]
    if summary["images_per_hour"]:
        lines += [("images per hour", rate(summary["images_per_hour"]))]
    programs = summary["programs"]
    if programs["built"]:
        graphs = f", {count(programs['compiled'], 'graph')} compiled" if programs["compiled"] else ""
        built = f"{count(programs['built'], 'program')} for {count(programs['sizes'], 'fitted size')}{graphs}"
        lines += [("programs", built)]
    return lines + [("ran on", place(ran)) for ran in summary["ran_on"]]


def _counts(summary: Summary) -> str:
    parts = [f"{summary['done']} of {summary['items']} done"]
    if summary["already_done"]:
        parts += [f"{summary['already_done']} before this run"]
    parts += [f"{summary[name]} {name}" for name in ("failed", "pending") if summary[name]]
    return ", ".join(parts)


def quality(metrics: Facts, name: str, digits: int, unit: str = "") -> str | None:
    """``20.17 → 28.10 dB (+7.93), mean of 10 images, and 1 identical``; None where nothing was measured."""
    before, after, items = metrics[f"{name}_before"], metrics[name], metrics[f"{name}_items"]
    apart = beside_the_mean(metrics, name)
    if not items:
        return apart if name == "psnr" and _identical(metrics) else None
    mean = f"{change(before, after, digits, unit)} ({number(after - before, digits, sign=True)})"
    return f"{mean}, mean of {count(items, 'image')}{apart and f', and {apart}'}"


def beside_the_mean(metrics: Facts, name: str) -> str:
    """``1 identical, 2 not measured``: the images that are not in the mean of a quality."""
    parts = []
    if name == "psnr":
        parts = [(metrics["psnr_identical"], "identical"), (metrics["psnr_identical_before"], "identical before")]
    return ", ".join(
        f"{many} {what}" for many, what in [*parts, (metrics[f"{name}_unmeasured"], "not measured")] if many
    )


def _identical(metrics: Facts) -> int:
    """Images that equal their reference, before or after."""
    return metrics["psnr_identical"] + metrics["psnr_identical_before"]


def _by_phase(summary: Summary) -> str:
    phases = summary["seconds_by_phase"].items()
    return ", ".join(f"{phase} {duration(value)}" for phase, value in phases if value is not None)


def place(ran: Facts) -> str:
    """``cuda:0 (NVIDIA H200), cudagraph, bf16: 12 images``."""
    name = f" ({printable(ran['device_name'])})" if ran["device_name"] else ""
    parts = [f"{printable(ran['device'] or 'unknown')}{name}"]
    parts += [printable(ran[key]) for key in ("engine", "precision") if ran[key]]
    pace = f", {rate(ran['images_per_hour'])} an hour" if ran["images_per_hour"] else ""
    return f"{', '.join(parts)}: {count(ran['images'], 'image')}{pace}"
