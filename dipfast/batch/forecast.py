"""What a run would do, for `dipfast plan` and `--dry-run`: jobs by bucket, seconds, memory, output names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dipfast.batch.index import Index
from dipfast.batch.ledger import RunFolder
from dipfast.batch.plan import Job, Place, Queue, predicted_bytes, predicted_seconds
from dipfast.batch.prepare import prepare
from dipfast.batch.restore import fit_plan
from dipfast.batch.rows import seen_inputs
from dipfast.batch.run import ready
from dipfast.fit import choose_machine
from dipfast.manifest import Manifest

SHOWN = 40  # output names in the table; --json has all


def forecast(manifest: Manifest, folder: Path, devices: str, workers: int | None) -> dict[str, Any]:
    """The plan as plain data. Reads the inputs and, where there is one, the run's folder; writes nothing."""
    places = ready(manifest, devices, workers)
    prepared = prepare(manifest.items, seen_inputs(RunFolder(folder)))
    index = Index(RunFolder(folder))
    rows = [_row(job, index, places[0]) for job in Queue(prepared.jobs)]
    left = [row["seconds"] for row in rows if not row["done"]]
    return {
        "output": str(folder),
        "workers": [{"device": place.device, "threads": place.threads} for place in places],
        "items": rows,
        "failed": [{"path": event["path"], "reason": event["reason"]} for event in prepared.failed],
        "buckets": _buckets(rows),
        "seconds": round(max([sum(left) / len(places), *left], default=0.0), 1),
    }


def _row(job: Job, index: Index, place: Place) -> dict[str, Any]:
    held = index.held(job.id)
    machine = choose_machine(fit_plan(job.settings, place.device))
    channels, height, width = job.padded
    return {
        "id": job.id,
        "path": job.path,
        "outputs": list(job.outputs),
        "task": job.settings["task"]["type"],
        "preset": job.settings["preset"],
        "steps": job.settings["fit"]["steps"],
        "fitted_at": f"{width}×{height}×{channels}",
        "engine": machine.engine,
        "precision": machine.precision,
        "seconds": round(predicted_seconds(job, machine.device.type, place.threads, machine.precision), 1),
        "bytes": predicted_bytes(job),
        "done": held is not None and set(job.outputs) <= held[1],
    }


def _buckets(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of one task, preset and fitted size together."""
    found: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = row["task"], row["preset"], row["fitted_at"]
        empty = {
            "task": key[0],
            "preset": key[1],
            "fitted_at": key[2],
            "items": 0,
            "done": 0,
            "seconds": 0.0,
            "bytes": 0,
        }
        bucket = found.setdefault(key, empty)
        bucket["items"] += len(row["outputs"])
        bucket["done"] += len(row["outputs"]) * row["done"]
        bucket["seconds"] = round(bucket["seconds"] + row["seconds"], 1)
        bucket["bytes"] = max(bucket["bytes"], row["bytes"])
    return list(found.values())


def print_forecast(prediction: dict[str, Any], console: Console) -> None:
    """The plan as tables for a person."""
    table = Table("task", "preset", "fitted at", "items", "done", "seconds", "MiB a fit", title="Buckets")
    for bucket in prediction["buckets"]:
        names = (bucket[key] for key in ("task", "preset", "fitted_at", "items", "done", "seconds"))
        table.add_row(*map(str, names), str(bucket["bytes"] >> 20))
    console.print(table)
    outputs = [(output, row) for row in prediction["items"] for output in row["outputs"]]
    for output, row in outputs[:SHOWN]:
        console.print(f"{row['path']} → {prediction['output']}/images/{output}", markup=False)
    if len(outputs) > SHOWN:
        console.print(f"… and {len(outputs) - SHOWN} more (--json lists all)")
    for failure in prediction["failed"]:
        console.print(f"will fail: {failure['path']}: {failure['reason']}", markup=False)
    workers = prediction["workers"]
    kinds = {f"{row['engine']} {row['precision']}" for row in prediction["items"]}
    console.print(
        f"about {prediction['seconds']:.0f} s on {len(workers)} × {workers[0]['device']} "
        f"({', '.join([str(workers[0]['threads']) + ' threads', *sorted(kinds)])})"
    )
