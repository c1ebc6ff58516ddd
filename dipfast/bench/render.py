"""`dipfast bench render`: milliseconds and images per second of one render, by backend, precision and size.

Cold is from weights in memory to the first picture: for onnxruntime it includes folding, exporting and loading. Warm
renders are interleaved, a sample of each variant in each round, on the same number of threads. Every variant's
picture is held against PyTorch's in float32 before it is timed. Beside the clock stands the process's own processor
time, over all threads, which a busy machine disturbs less.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dipfast import generators
from dipfast.bench.machine import describe
from dipfast.bench.step import STANDARD
from dipfast.errors import DipfastError
from dipfast.export.parity import agreement
from dipfast.generators import Card
from dipfast.render.generator import FittedGenerator, renderer
from dipfast.settings.generator import SkipGenerator
from dipfast.text import number

Sample = tuple[float, float]  # milliseconds by the clock, and of processor time
LEAST_AGREEMENT = 35.0  # dB: bf16 on fresh weights; another picture has 10 to 20


@dataclass(frozen=True)
class Variant:
    """One way to render at one size."""

    backend: str
    precision: str
    size: int
    run: Callable[[], np.ndarray]
    cold_ms: float
    ran: dict[str, Any]
    parity: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.backend} {self.precision}"


def bench_render(
    sizes: Sequence[int],
    backends: Sequence[str],
    precisions: Sequence[str],
    *,
    channels: Sequence[int] | None = None,
    upsample: str = "bilinear",
    provider: str = "cpu",
    rounds: int = 10,
) -> dict[str, Any]:
    """Time every backend in every precision at every size, with PyTorch's fp32 beside them.

    ``channels``: of each scale; the standard generator's 128 × 5 unless given. Raises MachineError for a backend or
    precision that is not here, DipfastError for one that renders another picture.
    """
    changes = {"channels": tuple(channels or STANDARD.channels), "upsample": upsample}
    config = STANDARD.model_copy(update=changes)
    asked = dict.fromkeys([("torch", "fp32"), *((b, p) for b in backends for p in precisions)])
    rows = []
    for size in sizes:
        generator = fresh(config, size)
        reference = generator.output("fp32")
        variants = [variant_of(generator, reference, *pair, provider) for pair in asked]
        rows += timed(variants, rounds)
    return {
        "benchmark": "render",
        "channels": list(config.channels),
        "upsample": upsample,
        "machine": describe(torch.device("cpu")),
        "variants": rows,
    }


def fresh(config: SkipGenerator, size: int) -> FittedGenerator:
    """A generator that no fit has seen: what a render costs does not depend on its weights."""
    module = generators.build(config, 3, seed=0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    latent = generators.make_latent(config.input, size, size, 0, torch.empty(0))
    card = Card("fresh", config, {}, 0, 0, 3, (size, size), (size, size), "fp32")
    return FittedGenerator(module, latent.contiguous(memory_format=torch.channels_last), card)


def variant_of(
    generator: FittedGenerator,
    reference: np.ndarray,  # [C, H, W], PyTorch's in float32
    backend: str,
    precision: str,
    provider: str,
) -> Variant:
    """``generator`` made ready and rendered once. Raises DipfastError where that is another picture."""
    start = time.perf_counter()
    chosen = renderer(backend, precision, provider, torch.get_num_threads())
    run = chosen.prepare(generator)
    picture = run()
    cold = 1e3 * (time.perf_counter() - start)
    found = agreement(picture, reference)
    if found["psnr_db"] is not None and found["psnr_db"] < LEAST_AGREEMENT:
        raise DipfastError(f"bench render: {backend} {precision} agrees with PyTorch at {found['psnr_db']:.1f} dB only")
    return Variant(backend, precision, reference.shape[-1], run, cold, chosen.ran, found)


def timed(variants: Sequence[Variant], rounds: int) -> list[dict[str, Any]]:
    """A row for each, rendered in turns; the first is what the others are held against."""
    samples: dict[str, list[Sample]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            start, used = time.perf_counter(), time.process_time()
            variant.run()
            samples[variant.name].append((1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - used)))
    first = _medians(samples[variants[0].name])
    return [_row(variant, samples[variant.name], first) for variant in variants]


def _medians(samples: Sequence[Sample]) -> Sample:
    wall, cpu = zip(*samples, strict=True)
    return statistics.median(wall), statistics.median(cpu)


def _row(variant: Variant, samples: Sequence[Sample], torch_ms: Sample) -> dict[str, Any]:
    (median, cpu), ms = _medians(samples), [wall for wall, _ in samples]
    percentiles = {f"p{p}_ms": round(float(np.percentile(ms, p)), 3) for p in (5, 50, 95)}
    return {
        "name": variant.name,
        "size": variant.size,
        "ran": variant.ran,
        "parity": variant.parity,
        "cold_ms": round(variant.cold_ms, 3),
        "ms": [round(sample, 3) for sample in ms],
        "cpu_ms": [round(used, 3) for _, used in samples],
        **percentiles,
        "images_per_second": round(1e3 / median, 3),
        "times_torch_fp32": round(torch_ms[0] / median, 3),
        "times_torch_fp32_cpu": round(torch_ms[1] / cpu, 3) if cpu else None,
    }


def print_bench(result: dict[str, Any], console: Console) -> None:
    """The result as a table for a person; the ratio is against PyTorch in fp32 at the same size."""
    machine = result["machine"]
    net = f"channels {result['channels']}, {result['upsample']}"
    title = f"one render, {net}, on {machine['name']}, {machine['threads']} threads"
    table = Table("size", "p50 ms", "p95 ms", "images/s", "cold ms", "dB", "× torch", "× by CPU time", title=title)
    table.add_column("variant", no_wrap=True)
    for row in result["variants"]:
        parity = row["parity"]["psnr_db"]
        table.add_row(
            str(row["size"]),
            f"{row['p50_ms']:.1f}",
            f"{row['p95_ms']:.1f}",
            f"{row['images_per_second']:.1f}",
            f"{row['cold_ms']:.0f}",
            "equal" if parity is None else f"{parity:.0f}",
            f"{row['times_torch_fp32']:.2f}",
            number(row["times_torch_fp32_cpu"], 2),
            row["name"],
        )
    console.print(table)
