"""Pictures of whose noise nobody told: what `sigma: auto` makes of camera pictures, and of pictures without noise.

    python bench/unknown.py PICTURE[=TRUTH]... [--crop N] [--preset NAME] [--threads N] [--json]

A picture without a truth counts as clean: it is its own truth, and what the answer has against it tells what was lost.
BM3D in colour, with the best of seven sigmas by the truth, stands beside it where `bm3d` is installed.
"""

from __future__ import annotations

from command import Crop, benchmark, run, say  # isort: skip  (before torch)

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table

import dipfast
from dipfast.bench.machine import describe
from dipfast.errors import UsageError
from dipfast.image import Limits, read
from dipfast.metrics import psnr
from dipfast.samples import locate
from tables import fill

Row = dict[str, Any]
CLEAN = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "ihc", "rocket", "text")
SIGMAS = (1, 2, 3, 5, 7, 10, 15)  # of BM3D, in 8-bit units

Named = Annotated[
    list[str] | None, typer.Argument(metavar="PICTURE[=TRUTH]", help="scikit-image's own, as clean ones, unless given")
]


def bench_unknown(pictures: Named = None, crop: Crop = 256, preset: str = "fast", bm3d: bool = True) -> Row:
    """Denoise pictures of whose noise nothing is told, and hold the answers against the truth.

    Raises UsageError for a truth of another size.
    """
    names = pictures or [f"sample:{name}" for name in CLEAN]
    rows = [_row(name, crop, preset, bm3d and find_spec("bm3d") is not None) for name in names]
    return {"preset": preset, "crop": crop, "rows": rows, "machine": describe(torch.device("cpu"))}


def _row(name: str, crop: int, preset: str, bm3d: bool) -> Row:
    path, _, other = name.partition("=")
    noisy = _middle(path, crop)
    truth = _middle(other, crop) if other else noisy
    if noisy.shape != truth.shape:
        raise UsageError(f"{name}: the truth should be of the picture's size, is of {truth.shape[1:]}")
    pictures = [np.moveaxis(one, 0, -1) for one in (noisy, truth)]
    start = time.process_time()
    record = dipfast.restore(pictures[0], preset=preset, reference=pictures[1]).record
    seconds = time.process_time() - start
    facts, metrics = record["facts"], record["metrics"]
    say(f"{path}: {metrics['psnr_before']} -> {metrics['psnr']} dB")
    return {
        "picture": path.rpartition("/")[2],
        "noisy": metrics["psnr_before"],
        "answer": metrics["psnr"],  # None where the two are equal
        "sigma": facts.get("sigma"),
        "true_sigma": 255 * float(np.sqrt(np.square(noisy - truth).mean())) if other else None,
        "applied": facts.get("change_applied"),
        "steps": record["steps"],
        "seconds": seconds,
        "coverage_90": metrics.get("coverage_90") if other else None,
        "bm3d": max(_bm3d(noisy, truth)) if bm3d and other else None,
    }


def _middle(path: str, crop: int) -> np.ndarray:
    pixels = read(locate(path), Limits()).pixels
    top, left = (max(0, (side - crop) // 2) for side in pixels.shape[1:])
    return pixels[:, top : top + crop, left : left + crop]


def _bm3d(noisy: np.ndarray, truth: np.ndarray) -> Iterator[float]:
    import bm3d

    picture = np.moveaxis(noisy, 0, -1).astype(float)
    for sigma in SIGMAS:
        filtered = (bm3d.bm3d_rgb if len(noisy) == 3 else bm3d.bm3d)(picture, sigma / 255)
        yield psnr(np.moveaxis(np.atleast_3d(filtered).clip(0, 1), -1, 0).astype(np.float32), truth)


def print_bench(result: Row, console: Console) -> None:
    """Print a row for each picture, and the means."""
    columns = ("picture", "noisy", "answer", "BM3D, best of 7", "sigma", "true", "applied", "90 %", "steps", "seconds")
    keys = ("noisy", "answer", "bm3d", "sigma", "true_sigma", "applied", "coverage_90", "steps", "seconds")
    table = Table(*columns, title=f"sigma: auto at {result['crop']}×{result['crop']}, preset {result['preset']}")
    rows = result["rows"]
    means = {key: [row[key] for row in rows if row[key] is not None] for key in keys}
    total = {"picture": "mean"} | {key: float(np.mean(values)) if values else None for key, values in means.items()}
    shown = [{key: _text(row[key]) for key in ("picture", *keys)} for row in (*rows, total)]
    console.print(fill(table, shown, [f"{{{key}}}" for key in ("picture", *keys)]))


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)


app = benchmark(bench_unknown, print_bench)

if __name__ == "__main__":
    run(app)
