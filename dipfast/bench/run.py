"""`dipfast bench run`: a folder of small generated pictures through the whole of `dipfast run`.

Seconds an image are those between the first picture that is done and the last, over the pictures behind the first
wave, which is one for each lane: a worker's start is not in them, and there should be many more pictures than lanes.
The same folder with fits of no steps gives what everything around the steps costs, two renders among it. With a tiny
generator these cost little; what is then left behind decoding and encoding, timed alone, is the overhead. Processor
seconds are those of the workers, by the same count; on a busy machine they say more. Variants run in turn.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dipfast.batch.run import run
from dipfast.bench.machine import describe
from dipfast.errors import DipfastError
from dipfast.image import Source, encode, read, write
from dipfast.manifest import Manifest, parse
from dipfast.store.folder import RunFolder

SIGMA = 25.0  # of the noise, in 8-bit units
TEXT = """\
version: 1
defaults: {{preset: {preset}, task: {{type: denoise, noise: {{type: gaussian, sigma: {sigma}}}}}}}
items: ["*.png"]
"""
PHASES = ("load", "pose", "setup", "fit", "distil", "save")
KINDS = {
    "whole": [],
    "no steps": ["fit.steps=0"],
    "bare": ["fit.steps=0", "generator.channels=[8, 8]"],
}
RATES = ("seconds_per_image", "processor_seconds_per_image")
Row = dict[str, Any]


def bench_run(
    count: int = 20,
    size: int = 64,
    preset: str = "fast",
    sets: Sequence[str] = (),
    *,
    devices: str = "auto",
    workers: int = 1,
    cohorts: Sequence[int | None] = (None,),
    rounds: int = 1,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Restore ``count`` pictures of ``size`` pixels a side, with each of ``cohorts`` (None: auto), ``rounds`` times.

    Raises UsageError and ManifestError for what cannot be asked, DipfastError where a fit fails.
    """
    with tempfile.TemporaryDirectory(prefix="dipfast-bench-") as scratch:
        folder = Path(scratch)
        _write_pictures(folder / "in", count, size)
        decoding, encoding = _around(sorted((folder / "in").iterdir()))
        asked = {kind: [*sets, *more] for kind, more in KINDS.items()}
        rows: list[Row] = []
        for number in range(rounds):
            for kind, cohort in product(KINDS, cohorts):
                into = folder / f"{kind}-{cohort}-{number}"
                text = TEXT.format(preset=preset, sigma=SIGMA)
                manifest = parse(text, "bench run", str(folder / "in"), sets=asked[kind])
                row = _run(manifest, into, devices=devices, workers=workers, cohort=cohort)
                rows.append({"kind": kind, "cohort": cohort or "auto"} | row)
                spent = f"{row['wall_seconds']:.1f} s, {row['processor_seconds']:.1f} s of the workers' processors"
                say(f"{kind}, cohort {cohort or 'auto'}: {spent}")
    return {
        "benchmark": "run",
        "images": count,
        "size": size,
        "preset": preset,
        "sets": list(sets),
        "workers": workers,
        "machine": describe(torch.device("cpu")) | {"ran": rows[0]["ran"]},
        "decode": decoding,
        "encode": encoding,
        "rows": rows,
        "variants": [_variant(rows, cohort or "auto", decoding + encoding) for cohort in cohorts],
    }


def _write_pictures(folder: Path, count: int, size: int) -> None:
    """Smooth coloured pictures, each another, with noise of `SIGMA`."""
    y, x = np.mgrid[0:size, 0:size] / size
    for number in range(count):
        rng = np.random.default_rng(number)
        phase = rng.uniform(0, 6, size=(3, 1, 1))
        clean = 0.5 + 0.3 * np.sin(4 * x + phase) * np.cos(3 * y - phase)
        noisy = (clean + rng.normal(scale=SIGMA / 255, size=clean.shape)).clip(0, 1)
        write(folder / f"{number:04}.png", noisy.astype(np.float32), Source("png", "rgb", 8))


def _around(paths: Sequence[Path]) -> tuple[float, float]:
    """Median seconds of decoding and of encoding one of the files, in this process with nothing beside it."""
    decoding, encoding = [], []
    for path in paths:
        start = time.perf_counter()
        image = read(path)
        decoded = time.perf_counter()
        encode(image.pixels, image.source, "png", bit_depth="source")
        decoding.append(decoded - start)
        encoding.append(time.perf_counter() - decoded)
    return statistics.median(decoding), statistics.median(encoding)


def _run(manifest: Manifest, into: Path, **options: Any) -> Row:
    """One run of all pictures, and when each was done."""
    done: list[float] = []
    processor: dict[str, list[float]] = defaultdict(list)  # by worker

    def hear(event: dict[str, Any]) -> None:
        if event["event"] == "done":
            done.append(time.perf_counter())
            processor[event["worker"]].append(event["processor"])

    result = run(manifest, RunFolder(into), on_event=hear, **options)
    records = [row.record for row in result.rows if row.record is not None]
    if len(records) < len(result.rows):
        raise DipfastError(f"bench run: {next(row.reason for row in result.rows if row.record is None)}")
    places = {(record["ran"]["pid"], record["ran"]["lane"]) for record in records}
    counted = max(1, len(done) - len(places))  # behind the first wave
    return {
        "wall_seconds": result.seconds,
        "processor_seconds": sum(spent[-1] for spent in processor.values()),
        "seconds_per_image": (done[-1] - done[0]) / counted,
        "processor_seconds_per_image": sum(spent[-1] - spent[0] for spent in processor.values()) / counted,
        "phases": {phase: statistics.median(record["seconds"][phase] for record in records) for phase in PHASES},
        "steps": statistics.median(record["steps"] for record in records),
        "programs": len({(r["ran"]["pid"], r["ran"]["lane"], r["ran"]["programs"]) for r in records}),
        "ran": {name: value for name, value in records[0]["ran"].items() if name not in ("host", "pid")},
    }


def _variant(rows: Sequence[Row], cohort: int | str, coding: float) -> Row:
    """Medians over the rounds of one cohort, by kind of run; phases as the last round has them."""
    by_kind = {kind: [row for row in rows if (row["kind"], row["cohort"]) == (kind, cohort)] for kind in KINDS}
    rates = {
        kind: {name: statistics.median(row[name] for row in found) for name in RATES} for kind, found in by_kind.items()
    }
    return {
        "cohort": cohort,
        **rates,
        "overhead": {name: rates["bare"][name] - coding for name in RATES},
        "phases": {kind: found[-1]["phases"] for kind, found in by_kind.items()},
        "programs": by_kind["whole"][-1]["programs"],
    }


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Milliseconds an image, by variant; then where they go."""
    title = f"{result['images']} pictures of {result['size']}×{result['size']}, {result['preset']}, ms an image"
    table = Table("cohort", "clock", "whole", "no steps", "bare", "overhead", "programs", title=title)
    for variant in result["variants"]:
        for clock, name in zip(("wall", "processor"), RATES, strict=True):
            numbers = (_ms(variant[kind][name]) for kind in (*KINDS, "overhead"))
            table.add_row(str(variant["cohort"]), clock, *numbers, str(variant["programs"]))
    console.print(table)
    table = Table("cohort", "run", *PHASES, title="median ms by phase, some of them at the same time")
    for variant in result["variants"]:
        for kind, phases in variant["phases"].items():
            table.add_row(str(variant["cohort"]), kind, *(_ms(phases[phase]) for phase in PHASES))
    console.print(table)
    console.print(
        f"no steps: the same with fits of none; bare: with a tiny generator; overhead: bare without decoding "
        f"({_ms(result['decode'])} ms alone) and encoding ({_ms(result['encode'])} ms)"
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.1f}"
