"""What a run would do, for `dipfast plan` and `--dry-run`: jobs by bucket, seconds, memory, output names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dipfast.batch.cohort import cohort_size
from dipfast.batch.environment import device_memory
from dipfast.batch.index import Index
from dipfast.batch.ledger import RunFolder
from dipfast.batch.plan import Job, Place, Queue, predicted_bytes, predicted_seconds
from dipfast.batch.prepare import preview
from dipfast.batch.restore import fit_plan
from dipfast.batch.rows import by_path, entries_before
from dipfast.batch.run import ready
from dipfast.fit import choose_machine
from dipfast.manifest import Manifest
from dipfast.manifest.yaml import collector_paused
from dipfast.text import printable

SHOWN = 40  # output names in the table; --json has all


def forecast(
    manifest: Manifest,
    folder: Path,
    devices: str,
    workers: int | None,
    cohort: int | None = None,
    listed: int | None = None,
) -> dict[str, Any]:
    """The plan as plain data. Reads headers and, where there is one, the run's folder; hashes and writes nothing.

    An input that no run in ``folder`` has seen has no id yet, and counts as to be fitted. ``listed``: of how many jobs
    the plan says more than their sums; all by default.
    """
    places = ready(manifest, devices, workers)
    with collector_paused():
        prepared = preview(manifest.items, by_path(entries_before(RunFolder(folder))))
        index, row = Index(RunFolder(folder)), _Rows(replace(places[0], cohort=cohort))
        rows: list[dict[str, Any]] = []
        sums = _Sums()
        for job in Queue(prepared.jobs):
            one = row(job, index)
            sums.add(one)
            if listed is None or len(rows) < listed:
                rows.append(one)
    return {
        "output": str(folder),
        "workers": [{"device": place.device, "threads": place.threads} for place in places],
        "outputs": sums.outputs,
        "items": rows,
        "failed": prepared.failed,
        "left_out": manifest.left_out,
        "buckets": sums.as_buckets(),
        "seconds": round(max(sums.seconds / len(places), sums.longest), 1),
    }


class _Rows:
    """Makes rows of jobs. Jobs of one bucket cost the same."""

    def __init__(self, place: Place) -> None:
        self.place, self.memory = place, device_memory(place.device)
        self.costs: dict[tuple, dict[str, Any]] = {}

    def __call__(self, job: Job, index: Index) -> dict[str, Any]:
        if job.bucket not in self.costs:
            self.costs[job.bucket] = self._cost(job)
        return {
            "id": job.id or None,
            "path": job.path,
            "outputs": list(job.outputs),
            "preset": job.settings["preset"],
            **self.costs[job.bucket],
            "done": job.id != "" and set(job.outputs) <= index.pictures(job.id, job.outputs),
        }

    def _cost(self, job: Job) -> dict[str, Any]:
        machine = choose_machine(fit_plan(job.settings, self.place.device))
        channels, height, width = job.padded
        seconds = predicted_seconds(job, machine.device.type, self.place.threads, machine.precision)
        return {
            "task": job.settings["task"]["type"],
            "steps": job.settings["fit"]["steps"],
            "fitted_at": f"{width}×{height}×{channels}",
            "engine": machine.engine,
            "precision": machine.precision,
            "seconds": round(seconds, 1),
            "bytes": predicted_bytes(job, machine.precision),
            "cohort": cohort_size(job, machine.device.type, self.memory, self.place.cohort),
        }


class _Sums:
    """What all rows come to: of one task, preset and fitted size together, and the seconds of what is to be fitted."""

    def __init__(self) -> None:
        self.buckets: dict[tuple, dict[str, Any]] = {}
        self.outputs, self.seconds, self.longest = 0, 0.0, 0.0

    def add(self, row: dict[str, Any]) -> None:
        key = row["task"], row["preset"], row["fitted_at"]
        bucket = self.buckets.get(key)
        if bucket is None:
            named = dict(zip(("task", "preset", "fitted_at"), key, strict=True))
            sums = {"items": 0, "done": 0, "seconds": 0.0, "bytes": 0}
            bucket = self.buckets[key] = named | sums | {"cohort": row["cohort"], "engines": set()}
        count = len(row["outputs"])
        self.outputs += count
        bucket["items"] += count
        bucket["done"] += count * row["done"]
        bucket["seconds"] += row["seconds"]
        bucket["bytes"] = max(bucket["bytes"], row["bytes"])
        bucket["engines"].add(f"{row['engine']} {row['precision']}")
        if not row["done"]:
            self.seconds += row["seconds"]
            self.longest = max(self.longest, row["seconds"])

    def as_buckets(self) -> list[dict[str, Any]]:
        return [
            bucket | {"seconds": round(bucket["seconds"], 1), "engines": sorted(bucket["engines"])}
            for bucket in self.buckets.values()
        ]


def print_forecast(prediction: dict[str, Any], console: Console) -> None:
    """The plan as tables for a person."""
    table = Table("task", "preset", "fitted at", "items", "done", "seconds", "MiB a fit", "cohort", title="Buckets")
    for bucket in prediction["buckets"]:
        names = (bucket[key] for key in ("task", "preset", "fitted_at", "items", "done", "seconds"))
        table.add_row(*map(str, names), str(bucket["bytes"] >> 20), str(bucket["cohort"]))
    console.print(table)
    outputs = [(output, row) for row in prediction["items"] for output in row["outputs"]]
    for output, row in outputs[:SHOWN]:
        console.print(printable(f"{row['path']} → {prediction['output']}/images/{output}"), markup=False)
    if prediction["outputs"] > SHOWN:
        console.print(f"… and {prediction['outputs'] - SHOWN} more (--json lists all)")
    for failure in prediction["failed"]:
        console.print(printable(f"will fail: {failure['path']}: {failure['reason']}"), markup=False)
    if prediction["left_out"]:
        console.print(f"left out: {prediction['left_out']}")
    workers = prediction["workers"]
    kinds = {engine for bucket in prediction["buckets"] for engine in bucket["engines"]}
    console.print(
        f"about {prediction['seconds']:.0f} s on {len(workers)} × {workers[0]['device']} "
        f"({', '.join([str(workers[0]['threads']) + ' threads', *sorted(kinds)])})"
    )
