"""What a run came to, in numbers: `summary.json` for programs, `results.csv` for spreadsheets, a table for all.

Times are those of the records, so they hold for all items that are done, however many runs it took; the wall
clock and the images per hour are those of the last run. Items that share one fit count once in all times.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from heapq import nlargest
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.text import Text

from dipfast.batch.ledger import RunFolder, now
from dipfast.files import write_atomic
from dipfast.report.facts import COLUMNS, Facts, facts, finite, fits_of, output_size, section, word
from dipfast.text import change, count, duration, number, printable, rate, reason_of

if TYPE_CHECKING:
    from dipfast.batch.run import Row

Summary = dict[str, Any]

PHASES = ("load", "pose", "setup", "fit", "distil", "save")
SLOWEST = 5
SHOWN_FAILURES = 20
NAME_WIDTH = 19


def summarize(rows: Sequence[Row], seconds: float | None = None, *, already_done: int = 0) -> Summary:
    """The content of `summary.json`. Plain data, every number finite or None.

    ``seconds``: wall time of the run, None where it is not known; ``already_done``: fits that it found done.
    """
    fits = fits_of(rows)
    states = Counter(row.status for row in rows)
    failed = [row for row in rows if row.status == "failed"]
    return {
        "version": 1,
        "time": now(),
        "items": len(rows),
        "done": states["done"],
        "already_done": already_done,
        "failed": states["failed"],
        "pending": states["pending"],
        "failures_by_kind": dict(Counter(row.kind or "unknown" for row in failed).most_common()),
        "failures": [_failure(row) for row in failed],
        "wall_seconds": _rounded(seconds),
        "seconds_left": _seconds_left(fits, states["pending"]),
        "images_per_hour": _per_hour(len(fits) - already_done, seconds),
        "seconds_per_image": _spread(map(_total, fits)),
        "seconds_by_phase": _phases(fits),
        "seconds_cold_and_warm": _cold_and_warm(fits),
        "seconds_per_megapixel": _median(map(_per_megapixel, fits)),
        "metrics": _metrics([row for row in rows if row.status == "done"]),
        "slowest": _slowest(fits),
        "programs": _programs(fits),
        "ran_on": _ran_on(fits),
    }


def _total(row: Row) -> float | None:
    """Seconds of a fit in all, from decoding to the last file."""
    seconds: float | None = finite(section(row.record or {}, "seconds").get("total"))
    return seconds


def _failure(row: Row) -> Facts:
    return {"path": row.path, "output": row.output, "id": row.id, "kind": row.kind, "reason": row.reason}


def _per_hour(fitted: int, seconds: float | None) -> float | None:
    return _rounded(max(0, fitted) * 3600 / seconds) if seconds else None


def _seconds_left(fits: Sequence[Row], pending: int) -> float | None:
    """For what is pending, at the pace of what is done. None where nothing tells the pace."""
    timed, busy = _work(fits)
    return _rounded(pending * busy / timed) if timed and pending else None


def _span(row: Row) -> tuple[float, float] | None:
    """When a fit was in flight, from and to, in seconds since 1970."""
    seconds = _total(row)
    try:
        finish = datetime.fromisoformat((row.record or {})["finished"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return None
    return (finish - seconds, finish) if seconds else None


def _per_megapixel(row: Row) -> float | None:
    """Seconds per million pixels of the picture that came out."""
    seconds, (width, height) = _total(row), output_size(row.record or {})
    return seconds * 1e6 / (width * height) if seconds and width and height else None


def _phases(fits: Sequence[Row]) -> dict[str, float | None]:
    parts = [section(row.record or {}, "seconds") for row in fits]
    return {phase: _median(part.get(phase) for part in parts) for phase in PHASES}


def _cold_and_warm(fits: Sequence[Row]) -> dict[str, float | None]:
    """Median seconds of the fits that were the first of their program, and of those that found it ready."""
    programs: dict[object, list[tuple[str, object]]] = defaultdict(list)
    for row in fits:
        record = row.record or {}
        ran = section(record, "ran")
        if ran.get("programs") is not None:
            key = ran.get("host"), ran.get("pid"), ran.get("lane"), ran["programs"]
            programs[repr(key)].append((str(record.get("finished")), _total(row)))
    ordered = [[seconds for _, seconds in sorted(members, key=itemgetter(0))] for members in programs.values()]
    return {"cold": _median(one[0] for one in ordered), "warm": _median(s for one in ordered for s in one[1:])}


def _spread(values: Iterable[object]) -> dict[str, float | None]:
    """Median and the 90th and 99th percentile, interpolated linearly between samples."""
    kept = _finite(values)
    quantiles = np.percentile(kept, [50, 90, 99]).tolist() if kept else [None] * 3
    return dict(zip(("median", "p90", "p99"), map(_rounded, quantiles), strict=True))


def _median(values: Iterable[object]) -> float | None:
    kept = _finite(values)
    return _rounded(float(np.median(kept))) if kept else None


def _finite(values: Iterable[object]) -> list[float]:
    return [value for value in map(finite, values) if value is not None]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def _metrics(done: Sequence[Row]) -> dict[str, Any]:
    """Means over the items where the picture was measured before and after, and how many those are."""
    means: dict[str, Any] = {}
    measured = [metrics for row in done if (metrics := section(row.record or {}, "metrics"))]
    for name in ("psnr", "ssim"):
        pairs = [(finite(metrics.get(f"{name}_before")), finite(metrics.get(name))) for metrics in measured]
        pairs = [pair for pair in pairs if None not in pair]
        before, after = np.mean(pairs, axis=0).tolist() if pairs else (None, None)
        means |= {f"{name}_items": len(pairs), f"{name}_before": _rounded(before), name: _rounded(after)}
    return means


def _slowest(fits: Sequence[Row]) -> list[Facts]:
    timed = [(row, seconds) for row in fits if (seconds := _total(row)) is not None]
    worst = [facts(row) for row, _ in nlargest(SLOWEST, timed, key=itemgetter(1))]
    return [
        {name: known[name] for name in ("path", "output", "seconds", "steps", "width", "height")} for known in worst
    ]


def _ran_on(fits: Sequence[Row]) -> list[Facts]:
    """Every device, engine and precision that ran: its images, and how many an hour while it had work."""
    names = ("device", "device_name", "engine", "precision", "host")
    ran: dict[tuple, list[Row]] = defaultdict(list)
    for row in fits:
        ran[tuple(word(section(row.record or {}, "ran").get(name)) for name in names)].append(row)
    return [
        dict(zip(names, key, strict=True)) | {"images": len(rows), "images_per_hour": _per_hour(*_work(rows))}
        for key, rows in sorted(ran.items(), key=lambda entry: -len(entry[1]))
    ]


def _programs(fits: Sequence[Row]) -> dict[str, int]:
    """Fitted sizes; programs built for them, captures included; and graphs that the compiler made, over all workers."""
    ran = [section(row.record or {}, "ran") for row in fits]
    ran = [one for one in ran if finite(one.get("programs")) is not None]
    compiled: dict[str, int] = {}
    for one in ran:
        process = repr((one.get("host"), one.get("pid")))
        compiled[process] = max(compiled.get(process, 0), int(finite(one.get("compilations")) or 0))
    lanes = {repr([one.get(name) for name in ("host", "pid", "lane", "programs")]) for one in ran}
    sizes = {repr(one.get("fitted_at")) for one in ran}
    return {"sizes": len(sizes), "built": len(lanes), "compiled": sum(compiled.values())}


def _work(fits: Sequence[Row]) -> tuple[int, float]:
    """Fits whose times are known, and the seconds in which at least one of them was in flight."""
    spans = sorted(span for span in map(_span, fits) if span is not None)
    busy, until = 0.0, float("-inf")
    for start, finish in spans:
        busy += max(0.0, finish - max(start, until))
        until = max(until, finish)
    return len(spans), busy


def write_summary(
    folder: RunFolder, rows: Sequence[Row], seconds: float | None = None, *, already_done: int = 0
) -> Summary:
    """Write `summary.json` and `results.csv`, and return the summary. Raises OSError.

    Without ``seconds``, the wall time and what follows from it stay as the last run wrote them.
    """
    summary = summarize(rows, seconds, already_done=already_done)
    if seconds is None:
        summary |= _last_run(folder)
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # A file name's lone surrogate is no UTF-8, but its escape is JSON.
    write_atomic(folder.root / "summary.json", text.encode("utf-8", "backslashreplace"))
    write_results(folder, rows)
    return summary


def _last_run(folder: RunFolder) -> Facts:
    """What only the run itself could know, from the summary that it left."""
    try:
        old = json.loads((folder.root / "summary.json").read_bytes())
    except (OSError, ValueError):
        return {}
    kept = ("already_done", "wall_seconds", "images_per_hour") if isinstance(old, dict) else ()
    return {name: old[name] for name in kept if finite(old.get(name)) is not None}


def write_results(folder: RunFolder, rows: Sequence[Row]) -> None:
    """Write `results.csv`, a line for each item. Raises OSError."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(_cell, facts(row).values()) for row in rows)
    write_atomic(folder.root / "results.csv", buffer.getvalue().encode())


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
    if metrics["psnr_items"]:
        lines += [("PSNR", _mean(metrics, "psnr", 2, " dB"))]
    if metrics["ssim_items"]:
        lines += [("SSIM", _mean(metrics, "ssim", 3))]
    if spread["median"] is not None:
        words = [f"{name} {duration(value)}" for name, value in spread.items()]
        lines += [("seconds per image", ", ".join(words)), ("medians by phase", _by_phase(summary))]
    if summary["seconds_cold_and_warm"]["warm"] is not None:
        words = [f"{name} {duration(value)}" for name, value in summary["seconds_cold_and_warm"].items()]
        lines += [("cold and warm", ", ".join(words))]
    if summary["seconds_per_megapixel"] is not None:
        lines += [("per megapixel", duration(summary["seconds_per_megapixel"]))]
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


def _mean(metrics: Facts, name: str, digits: int, unit: str = "") -> str:
    before, after = metrics[f"{name}_before"], metrics[name]
    gain = number(after - before, digits, sign=True)
    return f"{change(before, after, digits, unit)} ({gain}), mean of {count(metrics[f'{name}_items'], 'image')}"


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
