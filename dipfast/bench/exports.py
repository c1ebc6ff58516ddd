"""`dipfast bench render RUN`: how near a run's generators come to the pictures it kept, and what their models cost.

A kept picture is an average of outputs, its generator one that was distilled onto it. Each is rendered
in PyTorch, with known pixels put back as the run put them back, and held against the kept picture and the truth. Then
it is timed, in PyTorch and as a model, interleaved, as `dipfast.bench.render` does with a fresh one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dipfast.bench.machine import describe
from dipfast.bench.render import timed, variant_of
from dipfast.errors import UsageError
from dipfast.export.onnx import to_onnx
from dipfast.export.targets import Target
from dipfast.metrics import psnr
from dipfast.record import Record
from dipfast.render.generator import FittedGenerator
from dipfast.render.origin import origin
from dipfast.render.variants import Subject, subject
from dipfast.text import number


def bench_exports(
    found: Sequence[Target],
    backends: Sequence[str],
    precisions: Sequence[str],
    *,
    provider: str = "cpu",
    rounds: int = 10,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """A row for each generator of a run, and what they come to by task and number of seeds.

    Raises UsageError for generators without a record, and as `dipfast.bench.render.bench_render` does.
    """
    rows = []
    for target in found:
        one = subject(target)
        if target.record is None:
            raise UsageError(f"{target.generator}: should be of a run, whose record says how it was fitted")
        row = about(target, target.record, one)
        row |= {"variants": _timed(one.generator, backends, precisions, provider, rounds)}
        rows.append(row)
        say(f"{row['picture']} {row['task']}: {number(row['kept_db'], 2)} dB to the kept picture")
    return {
        "benchmark": "exports",
        "machine": describe(torch.device("cpu")),
        "generators": rows,
        "summary": summarize(rows),
    }


def about(target: Target, record: Record, one: Subject) -> dict[str, Any]:
    """The generator's picture beside the one that was kept and the truth, in dB, and its distillation's share."""
    came = origin(target, one.generator)
    picture = came.finish(one.generator.output("fp32"), came.strength)
    seeds, seconds = record["settings"]["fit"]["seeds"], record["seconds"]
    steps, trunks = record["generator"]["distil_steps"], record["generator"].get("trunks", 1)
    kept = None if one.reference is None else psnr(one.fit, one.reference)
    return {
        "picture": record["output"]["paths"][0],
        "task": record["settings"]["task"]["type"],
        "size": list(one.generator.card.size),
        "seeds": seeds,
        "steps": record["steps"],
        "trunks": trunks,
        "distil_steps": steps,
        "step_share": steps * trunks / max(1, record["steps"] * seeds),
        "time_share": seconds["distil"] / seconds["fit"] if seconds["fit"] else None,
        "kept_db": _finite(psnr(picture, one.fit)),
        "kept_truth_db": kept,
        "from_truth_db": None if one.reference is None or kept is None else psnr(picture, one.reference) - kept,
        "bytes": _bytes(one.generator),
    }


def _bytes(generator: FittedGenerator) -> int:
    """Of its model in float32."""
    return len(to_onnx(generator.module.state_dict(), generator.latent, generator.card).SerializeToString())


def _timed(
    generator: FittedGenerator, backends: Sequence[str], precisions: Sequence[str], provider: str, rounds: int
) -> list[dict[str, Any]]:
    asked = dict.fromkeys([("torch", "fp32"), *((b, p) for b in backends for p in precisions)])
    reference = generator.output("fp32")
    return timed([variant_of(generator, reference, *pair, provider) for pair in asked], rounds)


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """By task and number of seeds: mean and least dB, and median shares: a clock is disturbed by whatever else runs."""
    found = []
    for task, seeds in dict.fromkeys((row["task"], row["seeds"]) for row in rows):
        mine = [row for row in rows if (row["task"], row["seeds"]) == (task, seeds)]
        summary: dict[str, Any] = {"task": task, "seeds": seeds, "of": len(mine)}
        for key in ("kept_db", "from_truth_db"):
            values = [row[key] for row in mine if row[key] is not None]
            summary |= {key: statistics.mean(values), f"{key}_least": min(values)} if values else {key: None}
        for key in ("step_share", "time_share"):
            summary[key] = statistics.median(row[key] or 0.0 for row in mine)
        found.append(summary)
    return found


def print_bench(result: dict[str, Any], console: Console) -> None:
    """What generators render, what rendering costs (medians of processor time), and what the first comes to in all."""
    quality = Table("picture", "task", "seeds", "to the kept dB", "beside its PSNR", "of the fit's time")
    cost = Table("picture", "backend", "parity", "MB", "torch ms", "ms", "×")
    quality.columns[0].no_wrap = cost.columns[1].no_wrap = True
    for row in result["generators"]:
        quality.add_row(*_quality(row))
        first, *others = row["variants"]
        for variant in others or [first]:
            cost.add_row(row["picture"], *_cost(variant, first, row["bytes"]))
    table = Table("task", "seeds", "of", "kept: mean", "least", "PSNR: mean", "worst", "steps", "time")
    for s in result["summary"]:
        keys = ("kept_db", "kept_db_least", "from_truth_db", "from_truth_db_least")
        shares = (f"{s['step_share']:.1%}", f"{s['time_share']:.1%}")
        table.add_row(s["task"], str(s["seeds"]), str(s["of"]), *(number(s.get(key), 2) for key in keys), *shares)
    for each in (quality, cost, table):
        console.print(each)


def _quality(row: dict[str, Any]) -> tuple[str, ...]:
    share = "" if row["time_share"] is None else f"{row['time_share']:.1%}"
    return (
        row["picture"],
        row["task"],
        str(row["seeds"]),
        number(row["kept_db"], 1),
        number(row["from_truth_db"], 2),
        share,
    )


def _cost(variant: dict[str, Any], torch_fp32: dict[str, Any], size: int) -> tuple[str, ...]:
    parity = variant["parity"]["psnr_db"]
    ms = (statistics.median(one["cpu_ms"]) for one in (torch_fp32, variant))
    return (
        variant["name"],
        "equal" if parity is None else f"{parity:.0f}",
        f"{size / 1e6:.1f}",
        *(f"{one:.1f}" for one in ms),
        number(variant["times_torch_fp32_cpu"], 2),
    )
