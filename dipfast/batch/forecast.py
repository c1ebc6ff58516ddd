"""What a run would do, for `dipfast plan` and `--dry-run`: jobs by bucket, seconds, memory, output names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dipfast.batch.foresee import check_files, fitting_on
from dipfast.batch.prepare import preview
from dipfast.batch.run import ready
from dipfast.environment import device_memory
from dipfast.errors import ItemError
from dipfast.fit import choose_machine
from dipfast.manifest import Manifest
from dipfast.manifest.yaml import collector_paused
from dipfast.plan import Job, Place, Queue, expected_share, predicted_bytes, predicted_seconds
from dipfast.store.folder import RunFolder
from dipfast.store.index import Index
from dipfast.store.rows import by_path
from dipfast.store.sources import check_free, read_before, source_of
from dipfast.text import count, duration, printable, reason_of
from dipfast.threads import cores
from dipfast.workers.messages import cohort_size
from dipfast.workers.options import RunOptions

SHOWN = 40  # output names in the table; --json has all


def forecast(
    manifest: Manifest,
    folder: Path,
    options: RunOptions,
    listed: int | None = None,
) -> dict[str, Any]:
    """The plan as plain data. Reads headers and, where there is one, the run's folder; hashes and writes nothing.

    An input that no run in ``folder`` has seen has no id yet, and counts as to be fitted. ``listed``: of how many jobs
    the plan says more than their sums; all by default. ``failed`` are the items that the run will fail. Raises
    UsageError where results of another source are in the way.
    """
    places = ready(manifest, options)
    with collector_paused():
        run, index = RunFolder(folder), Index(RunFolder(folder))
        before = read_before(run, source_of(manifest, run))
        found, failed = preview(manifest.items, by_path(before.seen))
        check_free(before.foreign, (_entry(job) for job, _ in found), index)
        row = _Rows(replace(places[0], cohort=options.cohort), len(places), index)
        jobs: list[Job] = []
        for job, shape in found:
            try:
                row.check(job, shape)
                jobs.append(job)
            except ItemError as error:
                failed.append({"path": job.path, "kind": error.kind, "reason": str(error)})
        rows: list[dict[str, Any]] = []
        sums = _Sums()
        for job in Queue(jobs):
            one = row(job)
            sums.add(one)
            if listed is None or len(rows) < listed:
                rows.append(one)
    return {
        "output": str(folder),
        "workers": [{"device": place.device, "threads": place.threads} for place in places],
        "outputs": sums.outputs,
        "items": rows,
        "failed": failed,
        "left_out": manifest.left_out,
        "buckets": sums.as_buckets(),
        "seconds": round(max(sums.seconds / len(places), sums.longest), 1),
        "seconds_at_most": round(max(sums.most / len(places), sums.longest_most), 1),
    }


def _entry(job: Job) -> dict[str, Any]:
    return {"path": job.path, "output": job.outputs[0], "id": job.id, "sha256": job.input_sha256}


class _Rows:
    """Makes rows of jobs. Jobs of one bucket cost the same."""

    def __init__(self, place: Place, places: int, index: Index) -> None:
        self.place, self.memory, self.index = place, device_memory(place.device), index
        self.threads = min(place.threads, cores() / places)  # that have a core each
        self.fitting = fitting_on(place, places, self.memory)
        self.costs: dict[tuple, dict[str, Any]] = {}
        self.refused: dict[tuple, ItemError] = {}  # buckets whose fits there is no memory for
        self.done: set[str] = set()  # outputs

    def check(self, job: Job, shape: tuple[int, ...]) -> None:
        """Raises ItemError where ``job``, whose input has ``shape``, will fail."""
        if job.id and set(job.outputs) <= self.index.pictures(job.id, job.outputs):
            self.done.update(job.outputs)
            return
        check_files(job, shape)
        if job.bucket not in self.costs:
            self.costs[job.bucket] = self._cost(job)
        if job.bucket in self.refused:
            refused = self.refused[job.bucket]
            raise ItemError(refused.kind, str(refused))

    def __call__(self, job: Job) -> dict[str, Any]:
        if job.bucket not in self.costs:
            self.costs[job.bucket] = self._cost(job)
        return {
            "id": job.id or None,
            "path": job.path,
            "outputs": list(job.outputs),
            "preset": job.shared.preset,
            **self.costs[job.bucket],
            "done": self.done.issuperset(job.outputs),
        }

    def _cost(self, job: Job) -> dict[str, Any]:
        machine = choose_machine(job.shared.fit, self.place.device)
        precision, size = machine.precision, predicted_bytes(job, machine.precision)
        try:
            fitting = self.fitting(job)
            precision, size = fitting.machine.precision, fitting.predicted
        except ItemError as error:
            self.refused[job.bucket] = error
        channels, height, width = job.padded
        most = predicted_seconds(job, machine.device.type, self.threads, precision)
        return {
            "task": job.shared.task.type,
            "steps": job.shared.fit.steps,
            "fitted_at": f"{width}×{height}×{channels}",
            "engine": machine.engine,
            "precision": precision,
            "seconds": round(most * expected_share(job.shared), 1),
            "seconds_at_most": round(most, 1),
            "bytes": size,
            "cohort": cohort_size(job, machine.device.type, self.memory, self.place.cohort),
        }


class _Sums:
    """What all rows come to: of one task, preset and fitted size together, and the seconds of what is to be fitted."""

    def __init__(self) -> None:
        self.buckets: dict[tuple, dict[str, Any]] = {}
        self.outputs, self.seconds, self.longest, self.most, self.longest_most = 0, 0.0, 0.0, 0.0, 0.0

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
            self.most += row["seconds_at_most"]
            self.longest_most = max(self.longest_most, row["seconds_at_most"])

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
        reason = reason_of(failure["reason"], failure["path"])
        console.print(printable(f"will fail: {failure['path']}: {reason}"), markup=False)
    if prediction["left_out"]:
        console.print(f"left out: {prediction['left_out']}")
    workers = prediction["workers"]
    kinds = {engine for bucket in prediction["buckets"] for engine in bucket["engines"]}
    most = prediction["seconds_at_most"]
    at_most = f", {duration(most)} at the most," if most > prediction["seconds"] else ""
    console.print(
        f"about {duration(prediction['seconds'])}{at_most} on {len(workers)} × {workers[0]['device']} "
        f"({', '.join([count(workers[0]['threads'], 'thread'), *sorted(kinds)])})"
    )
