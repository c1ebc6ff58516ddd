"""`dipfast bench image`: seconds of one picture from file to file, by phase, in a worker as `dipfast run` has it.

The first fit is cold: it pays for the worker's start, the compiler and the first allocations. The others have other
seeds and find the worker warm.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from dipfast.batch.run import run
from dipfast.bench.machine import describe
from dipfast.errors import ItemError
from dipfast.manifest import parse
from dipfast.samples import locate
from dipfast.store.folder import RunFolder


def bench_image(
    picture: str, preset: str, sets: Sequence[str] = (), *, devices: str = "auto", repeats: int = 3
) -> dict[str, Any]:
    """Fit ``picture`` (a path or `sample:NAME`) 1 + ``repeats`` times, one after another, in one worker.

    Raises UsageError and ManifestError for what cannot be asked, ItemError where a fit fails.
    """
    path = Path(locate(picture)).absolute()
    with tempfile.TemporaryDirectory(prefix="dipfast-bench-") as scratch:
        items = "".join(
            f"  - {{path: {_quoted(path)}, fit: {{seed: {seed}}}, output: {{template: '{seed}.png'}}}}\n"
            for seed in range(1 + repeats)
        )
        text = f"version: 1\ndefaults: {{preset: {preset}}}\nitems:\n{items}"
        manifest = parse(text, "bench image", scratch, sets=sets)
        done = run(manifest, RunFolder(Path(scratch) / "run"), devices=devices, workers=1)
    for row in done.rows:
        if row.status != "done":
            raise ItemError(row.kind or "unknown", f"bench image: {row.reason or 'was interrupted'}")
    records = [row.record for row in done.rows if row.record is not None]
    records.sort(key=lambda record: record["finished"])
    return {
        "benchmark": "image",
        "picture": picture,
        "preset": preset,
        "sets": list(sets),
        "size": [records[0]["input"]["width"], records[0]["input"]["height"]],
        "machine": describe(torch.device("cpu")) | {"ran": records[0]["ran"]},
        "wall_seconds": done.seconds,
        "steps": [record["steps"] for record in records],
        "cold": records[0]["seconds"],
        "warm": [record["seconds"] for record in records[1:]],
    }


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Seconds by phase, cold and warm."""
    size = "×".join(map(str, result["size"]))
    title = f"{result['picture']}, {size}, {result['preset']}, {statistics.median(result['steps']):.0f} steps"
    table = Table("phase", "cold (s)", "warm (s, median)", title=title)
    for phase, cold in result["cold"].items():
        table.add_row(phase, f"{cold:.3f}", _median([fit[phase] for fit in result["warm"]]))
    console.print(table)
    console.print(f"{result['wall_seconds']:.1f} s in all, with the worker's start")


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.3f}" if values else ""
