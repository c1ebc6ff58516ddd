"""`dipfast bench step`: milliseconds of one fit step, by engine and precision, interleaved in one process.

Every variant runs the same problem on the standard denoising generator (128 channels, 5 scales, 2.2 M parameters).
The floor is the step's operations at the rate that a large matrix product reaches here in the same precision; bytes
are not in it, so no step can reach it; they are printed beside it by the model of `arithmetic`. Samples are kept,
and the median is what is quoted.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dipfast.bench.arithmetic import expect, print_expectations, step_bytes, step_flops
from dipfast.bench.machine import describe, synchronize
from dipfast.bench.peer import peer_loops
from dipfast.errors import DipfastError
from dipfast.fit import ProgramCache, choose_machine
from dipfast.fit.engine import DTYPES
from dipfast.settings.choices import FitPrecision
from dipfast.settings.fit import Adam, Fit, Muon, Optimizer
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.stop import FixedStop
from dipfast.settings.task import Denoise, GaussianNoise
from dipfast.tasks import pose

if TYPE_CHECKING:
    from rich.console import Console

STANDARD = SkipGenerator()
SIGMA = 25.0
WARM_UP = 2
LOSS_TOLERANCE = 0.05
ROOM_FOR_LOSSES = 1_000_000


@dataclass(frozen=True)
class Variant:
    """Something that takes steps: ``run(k)`` takes ``k`` of them."""

    name: str
    precision: FitPrecision
    run: Callable[[int], None]
    first_loss: Callable[[], float] | None = None  # from the same seed for all of ours


def settings_for(engine: str, precision: str, device: str, optimizer: Optimizer, steps: int) -> Fit:
    """Return settings for a bench that holds no manifest: the first paper's jitter and average, and no stop."""
    where = {"engine": str(engine), "precision": str(precision), "device": device}
    how = {"steps": steps, "optimizer": optimizer, "stop": FixedStop(), "rollback_db": None}
    return Fit.model_validate(where | how)


def device_of(name: str) -> torch.device:
    """What ``name`` (auto, cpu or cuda:N) is here. Raises MachineError for a device that this machine has not."""
    return choose_machine(settings_for("eager", "auto", name, Adam(), 1)).device


def noisy_picture(size: int) -> Tensor:  # [3, size, size] in [0, 1]
    """A smooth picture with noise of sigma 25: what a step costs does not depend on what it sees."""
    rng = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0, 1, size)
    clean = torch.stack((ramp.expand(size, size), ramp.expand(size, size).T, 0.5 * torch.ones(size, size)))
    return (clean + torch.randn(clean.shape, generator=rng) * SIGMA / 255).clamp(0, 1)


def bench_step(
    size: int,
    engines: Sequence[str],
    precisions: Sequence[str],
    *,
    device: str = "auto",
    optimizer: str = "adam",
    rounds: int = 5,
    steps: int = 3,
    peer: Path | None = None,
) -> dict[str, Any]:
    """Time every engine in every precision at ``size``×``size``, and with ``peer`` the original code's two loops.

    Raises MachineError for an engine or precision that this machine has not, UsageError for a ``peer`` that is not
    the original code, DipfastError where a variant computes something else.
    """
    picture = noisy_picture(size)
    variants = [_ours(picture, engine, precision, device, optimizer) for engine in engines for precision in precisions]
    where = device_of(device)
    if peer is not None:
        variants += [Variant(name, "fp32", run) for name, run in peer_loops(peer, picture, where)]
    samples = _interleaved(variants, where, rounds, steps)
    flops = step_flops(STANDARD, size)
    roofs = {precision: matrix_rate(precision, where) for precision in {v.precision for v in variants}}
    return {
        "benchmark": "step",
        "size": size,
        "optimizer": optimizer,
        "flops": flops,
        "machine": describe(where),
        "bytes": {p: step_bytes(STANDARD, size, itemsize_of(p)) for p in roofs},
        "matrix_product_flops_per_second": roofs,
        "copy_bytes_per_second": copy_rate(where),
        "variants": [_row(v, samples[v.name], flops, roofs[v.precision]) for v in variants],
    }


def _ours(picture: Tensor, engine: str, precision: str, device: str, optimizer: str) -> Variant:
    settings = settings_for(engine, precision, device, Muon() if optimizer == "muon" else Adam(), ROOM_FOR_LOSSES)
    machine = choose_machine(settings)
    problem = pose(Denoise(noise=GaussianNoise(sigma=SIGMA)), picture.numpy())
    state, step = ProgramCache().prepare(problem, STANDARD, settings, machine)

    def run(count: int) -> None:
        for _ in range(count):
            step()

    return Variant(
        f"dipfast {machine.engine} {machine.precision}", machine.precision, run, lambda: float(state.losses[0])
    )


def _interleaved(variants: Sequence[Variant], device: torch.device, rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds of a step, a sample for each variant in each round."""
    for variant in variants:
        variant.run(WARM_UP)
    _check(variants)
    samples: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for variant in variants:
            synchronize(device)
            start = time.perf_counter()
            variant.run(steps)
            synchronize(device)
            samples[variant.name].append((time.perf_counter() - start) / steps)
    return samples


def _check(variants: Sequence[Variant]) -> None:
    """All of ours must begin at the same loss, to what low precision allows."""
    losses = {variant.name: variant.first_loss() for variant in variants if variant.first_loss is not None}
    first = next(iter(losses.values()))
    for name, loss in losses.items():
        if not abs(loss - first) < LOSS_TOLERANCE * first:
            raise DipfastError(f"bench step: the first loss of {name} is {loss:.6f}, where it should be {first:.6f}")


def matrix_rate(precision: FitPrecision, device: torch.device) -> float:
    """Operations per second of a large matrix product: the median of five."""
    side = 8192 if device.type == "cuda" else 1536
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        a @ b
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / statistics.median(seconds[1:])


def copy_rate(device: torch.device) -> float:
    """Bytes per second, read and written, of a large copy: the median of five."""
    source = torch.ones(2**28 if device.type == "cuda" else 2**25, device=device)
    target, seconds = torch.empty_like(source), []
    for _ in range(6):
        synchronize(device)
        start = time.perf_counter()
        target.copy_(source)
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * source.nbytes / statistics.median(seconds[1:])


def itemsize_of(precision: FitPrecision) -> int:
    """Bytes of an activation."""
    return DTYPES[precision].itemsize


def _row(variant: Variant, samples: list[float], flops: float, roof: float) -> dict[str, Any]:
    median = statistics.median(samples)
    return {
        "name": variant.name,
        "precision": variant.precision,
        "ms": [round(1e3 * sample, 4) for sample in samples],
        "median_ms": round(1e3 * median, 4),
        "flops_per_second": flops / median,
        "share_of_floor": flops / roof / median,
    }


def print_bench(result: dict[str, Any], console: Console) -> None:
    """The result as a table for a person; the ratio is against the last row."""
    from rich.table import Table

    machine = result["machine"]
    title = f"one step at {result['size']}×{result['size']} on {machine['name']}, {machine['threads']} threads"
    table = Table("variant", "ms (median)", "min … max", "GFLOP/s", "of the floor", "times faster", title=title)
    slowest = result["variants"][-1]["median_ms"]
    for row in result["variants"]:
        spread = f"{min(row['ms']):.2f} … {max(row['ms']):.2f}"
        rate, share = f"{row['flops_per_second'] / 1e9:.0f}", f"{row['share_of_floor']:.1%}"
        table.add_row(row["name"], f"{row['median_ms']:.2f}", spread, rate, share, f"{slowest / row['median_ms']:.2f}")
    console.print(table)
    for precision, rate in result["matrix_product_flops_per_second"].items():
        rows = expect(STANDARD, [result["size"]], rate, result["copy_bytes_per_second"], itemsize_of(precision))
        rates = (
            f"{rate / 1e9:.0f} GFLOP/s of a matrix product, {result['copy_bytes_per_second'] / 1e9:.0f} GB/s of a copy"
        )
        print_expectations(rows, f"by arithmetic, {precision}, at {rates}", console)
