"""The sums over the rows of a run, in one pass: there may be a million, and each is read once and let go.

Items that share one fit count once in all times. What is kept of a fit is a few numbers; records are not. A record may
be old or damaged: what is missing, or is no finite number, is left out, and nothing here raises.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from heapq import heappush, heappushpop
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from dipfast.report.facts import PHASES, Facts, facts, finite, output_size, qualities, section, word

if TYPE_CHECKING:
    from dipfast.store.rows import Row

PLACE = ("device", "device_name", "engine", "precision", "host")
SLOWEST = 5
PIXELS_A_STEP = 4096  # pixels on which a fit spends as long as on what each step takes beside them
Record = Mapping[str, Any]


class Aggregate:
    """Counts, times and qualities of the rows that were added, of which only these sums are kept."""

    def __init__(self) -> None:
        self.states: Counter[str] = Counter()
        self.failures: list[Facts] = []
        self.seen: set[object] = set()
        self.total, self.per_megapixel = array("d"), array("d")
        self.phases = {phase: array("d") for phase in PHASES}
        self.places: dict[tuple[str | None, ...], _Place] = {}
        self.programs = _Programs()
        self.metrics = {name: _Pairs() for name in ("psnr", "ssim")}
        self.software: set[str] = set()
        self.slow: list[tuple[float, int, Row]] = []
        self.pending: list[int | None] = []  # pixels of the inputs
        self.number = count()

    def add(self, row: Row, record: Record | None) -> None:
        """Count ``row``, whose brief record is ``record``."""
        self.states[row.status] += 1
        if row.status == "failed":
            about = {"path": row.path, "output": row.output, "id": row.id}
            self.failures.append(about | {"kind": row.kind, "reason": row.reason})
        if row.status == "pending":
            self.pending.append(row.pixels)
        if row.status != "done":
            return
        record = {} if record is None else record
        measured = qualities(section(record, "metrics"))
        for name, pairs in self.metrics.items():
            pairs.add(measured[f"{name}_before"], measured[name])
        fit = row.id or row.output
        if row.known is not None and fit not in self.seen:
            self.seen.add(fit)
            self._add_fit(row, record)

    def _add_fit(self, row: Row, record: Record) -> None:
        seconds, ran = section(record, "seconds"), section(record, "ran")
        total = finite(seconds.get("total"))
        for phase, column in self.phases.items():
            if (spent := finite(seconds.get(phase))) is not None:
                column.append(spent)
        if total is not None:
            self.total.append(total)
            entry = total, -next(self.number), row
            heappush(self.slow, entry) if len(self.slow) < SLOWEST else heappushpop(self.slow, entry)
            width, height = output_size(record)
            if total and width and height:
                self.per_megapixel.append(total * 1e6 / (width * height))
        key = tuple(word(ran.get(name)) for name in PLACE)
        place = self.places.get(key)
        if place is None:
            place = self.places[key] = _Place()
        given = section(record, "input")
        width, height = finite(given.get("width")), finite(given.get("height"))
        place.add(record.get("finished"), total, width * height if width and height else None)
        if ran:
            self.programs.add(ran, str(record.get("finished")), total)
            self.software.update(f"{name} {ran[name]}" for name in ("dipfast", "torch") if ran.get(name))

    @property
    def fits(self) -> int:
        """Fits that are done."""
        return len(self.seen)

    def spread(self) -> dict[str, float | None]:
        """Median and the 90th and 99th percentile of seconds, interpolated linearly between samples."""
        quantiles = np.percentile(self.total, [50, 90, 99]).tolist() if self.total else [None] * 3
        return dict(zip(("median", "p90", "p99"), map(rounded, quantiles), strict=True))

    def slowest(self) -> list[Facts]:
        worst = [facts(row) for _, _, row in sorted(self.slow, key=itemgetter(0, 1), reverse=True)]
        names = ("path", "output", "seconds", "steps", "width", "height")
        return [{name: known[name] for name in names} for known in worst]

    def qualities(self) -> dict[str, Any]:
        """Means over the items where the picture was measured before and after, and how many those are.

        PSNRs of pictures that equal their reference are infinite; these are counted apart, and so is what has none.
        """
        means: dict[str, Any] = {}
        for name, pairs in self.metrics.items():
            before, after = pairs.means()
            means |= {f"{name}_items": pairs.count, f"{name}_before": rounded(before), name: rounded(after)}
            means |= {f"{name}_unmeasured": pairs.unmeasured}
        psnr = self.metrics["psnr"]
        return means | {"psnr_identical": psnr.identical, "psnr_identical_before": psnr.identical_before}

    def ran_on(self) -> list[Facts]:
        """Every device, engine and precision that ran: its images, and how many an hour while it had work."""
        return [
            dict(zip(PLACE, key, strict=True)) | {"images": place.images, "images_per_hour": per_hour(*place.work())}
            for key, place in sorted(self.places.items(), key=lambda entry: -entry[1].images)
        ]

    def seconds_left(self) -> float | None:
        """For what is pending, at the pace of what is done, by their sizes. None where nothing tells the pace."""
        places = list(self.places.values())
        timed, busy = _work(places)
        if not (timed and self.pending):
            return None
        sizes = np.concatenate([np.asarray(place.pixels) for place in places])
        known = sizes[~np.isnan(sizes)]
        usual = float(known.mean()) if known.size else 0.0  # of a picture whose size is not known
        left = sum((usual if size is None else size) + PIXELS_A_STEP for size in self.pending)
        return rounded(busy * left / (timed * (usual + PIXELS_A_STEP)))


class _Pairs:
    """Sums of a quality before and after, and how many items have none that can be summed."""

    def __init__(self) -> None:
        self.count, self.before, self.after = 0, 0.0, 0.0
        self.identical, self.identical_before, self.unmeasured = 0, 0, 0

    def add(self, before: float | None, after: float | None) -> None:
        if before is None or after is None:
            self.unmeasured += 1
        elif math.isinf(after):
            self.identical += 1
        elif math.isinf(before):
            self.identical_before += 1
        else:
            self.count += 1
            self.before += before
            self.after += after

    def means(self) -> tuple[float | None, float | None]:
        return (self.before / self.count, self.after / self.count) if self.count else (None, None)


class _Place:
    """The fits of one device, engine and precision: how many, and when those were in flight whose times are known."""

    def __init__(self) -> None:
        self.images, self.start, self.finish = 0, array("d"), array("d")
        self.pixels = array("d")  # of the inputs of those; NaN where they are not known

    def add(self, finished: object, seconds: float | None, pixels: float | None) -> None:
        self.images += 1
        try:
            finish = datetime.fromisoformat(finished).timestamp()  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError, OSError):
            return
        if seconds:
            self.start.append(finish - seconds)
            self.finish.append(finish)
            self.pixels.append(math.nan if pixels is None else pixels)

    def work(self) -> tuple[int, float]:
        return _work([self])


def _work(places: Iterable[_Place]) -> tuple[int, float]:
    """Fits whose times are known, and the seconds in which at least one of them was in flight."""
    start = np.concatenate([np.zeros(0), *(np.asarray(place.start) for place in places)])
    finish = np.concatenate([np.zeros(0), *(np.asarray(place.finish) for place in places)])
    if not len(start):
        return 0, 0.0
    order = np.argsort(start, kind="stable")
    start, finish = start[order], finish[order]
    until = np.concatenate([[-np.inf], np.maximum.accumulate(finish)[:-1]])
    return len(start), float(np.maximum(0.0, finish - np.maximum(start, until)).sum())


class _Programs:
    """Programs that were built: for which sizes, in how many processes, and what their first fits took."""

    def __init__(self) -> None:
        self.sizes: set[str] = set()
        self.compiled: dict[tuple[str, str], int] = {}
        self.first: dict[tuple[str, ...], tuple[str, float | None]] = {}  # finish and seconds of the cold fit
        self.warm = array("d")

    def add(self, ran: Record, finished: str, seconds: float | None) -> None:
        if ran.get("programs") is None:
            return
        host, pid, lane, number = (repr(ran.get(name)) for name in ("host", "pid", "lane", "programs"))
        key = (host, pid, lane, number)
        first = self.first.get(key)
        if first is None or finished < first[0]:
            self.first[key] = finished, seconds
            seconds = None if first is None else first[1]
        if seconds is not None:
            self.warm.append(seconds)
        if finite(ran["programs"]) is not None:
            self.sizes.add(repr(ran.get("fitted_at")))
            graphs = int(finite(ran.get("compilations")) or 0)
            self.compiled[host, pid] = max(self.compiled.get((host, pid), 0), graphs)

    def counts(self) -> dict[str, int]:
        """Fitted sizes; programs built for them, captures included; and graphs that the compiler made, in all."""
        return {"sizes": len(self.sizes), "built": len(self.first), "compiled": sum(self.compiled.values())}

    def cold_and_warm(self) -> dict[str, float | None]:
        """Median seconds of the fits that were the first of their program, and of those that found it ready."""
        cold = [seconds for _, seconds in self.first.values() if seconds is not None]
        return {"cold": median(cold), "warm": median(self.warm)}


def median(values: Iterable[float]) -> float | None:
    kept = np.asarray(values)
    return rounded(float(np.median(kept))) if kept.size else None


def per_hour(fitted: int, seconds: float | None) -> float | None:
    return rounded(max(0, fitted) * 3600 / seconds) if seconds else None


def rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
