"""`dipfast bench frontier`: PSNR of the picture returned against operations, steps and seconds, for many settings.

A fit stops by itself, and the truth is looked at from outside: the PSNR of what is returned, and the highest on the
trajectory, which may go on behind the stop. Settings are interleaved, case by case, and judged on the same
damaged pictures. NLM and BM3D stand beside them for Gaussian noise.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from dipfast.batch.plan import fit_flops
from dipfast.bench.cases import Case, make_case, settings_of
from dipfast.bench.machine import describe
from dipfast.errors import UsageError
from dipfast.fit import FitPlan, FitResult, Workbench, choose_machine, fit
from dipfast.metrics import psnr, ssim

PRESETS = ("fast", "balanced", "best", "paper")
METHODS = ("nlm", "bm3d")


@dataclass(frozen=True)
class Contender:
    """A preset with changes to it, or one of `METHODS`."""

    name: str
    preset: str
    sets: tuple[str, ...]


def parse_contender(text: str) -> Contender:
    """``[NAME:] PRESET [KEY=VALUE ...]`` or ``nlm`` or ``bm3d``. Raises UsageError."""
    name, colon, rest = text.partition(": ")
    preset, *sets = (rest if colon else text).split() or [""]
    if preset not in PRESETS + METHODS or (preset in METHODS and sets):
        raise UsageError(f"--contender should be [NAME: ]{'|'.join(PRESETS)} [KEY=VALUE ...], nlm or bm3d, is {text!r}")
    return Contender(name if colon else text, preset, tuple(sets))


def bench_frontier(
    contenders: Sequence[Contender],
    pictures: Sequence[str],
    damages: Sequence[str],
    *,
    crop: int,
    noise_seeds: int = 1,
    weight_seeds: int = 1,
    past_stop: float = 0.5,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Every contender on every damaged picture. Raises UsageError for settings or a damage that are none.

    For its peak a trajectory is followed for a share of ``past_stop`` of its steps behind the stop.
    """
    rows = []
    for damage in damages:
        for picture in pictures:
            for noise_seed in range(noise_seeds):
                case = make_case(picture, damage, crop, noise_seed)
                for contender in contenders:
                    for weight_seed in range(1 if contender.preset in METHODS else weight_seeds):
                        row = run_one(contender, case, weight_seed, past_stop)
                        if row is None:
                            continue
                        rows.append(row | {"noise_seed": noise_seed, "weight_seed": weight_seed})
                        say(f"{picture} {damage} {contender.name}: {row['psnr']:.2f} dB, {row['seconds']:.1f} s")
    return {
        "benchmark": "frontier",
        "crop": crop,
        "contenders": [vars(contender) for contender in contenders],
        "machine": describe(torch.device("cpu")),
        "rows": rows,
        "summary": summarize(rows),
    }


def run_one(contender: Contender, case: Case, seed: int, past_stop: float) -> dict[str, Any] | None:
    """One result with its cost; None for a method that does not apply to the damage."""
    about = {"contender": contender.name, "picture": case.picture, "damage": case.damage}
    before = psnr(case.problem.guide[0].numpy(), case.clean)
    if contender.preset in METHODS:
        kind, _, value = case.damage.partition(":")
        if kind != "gaussian":
            return None
        start = time.perf_counter()
        picture = METHOD[contender.preset](case.problem.target[0].numpy(), float(value) / 255)
        cost: dict[str, Any] = {"seconds": time.perf_counter() - start}
    else:
        config, plan = settings_of(case.task, contender.preset, contender.sets, seed, case.clean.shape[1])
        case = replace(case, problem=case.under(contender.preset, contender.sets))
        result, peak = watched(case, config, plan, past_stop)
        picture = result.image[0].numpy()
        taken = {"generator": config, "fit": {"steps": result.steps, "seeds": plan.seeds}}
        cost = peak | {
            "steps": result.steps,
            "chosen_step": result.chosen_step,
            "flops": fit_flops(taken, case.problem.shape),
            "why": result.why,
        }
    return about | {"before": before, "psnr": psnr(picture, case.clean), "ssim": ssim(picture, case.clean)} | cost


def watched(case: Case, config: dict[str, Any], plan: FitPlan, past_stop: float) -> tuple[FitResult, dict[str, Any]]:
    """A fit, with the peak of its trajectory and where it was, and the fit's seconds without those of the looks."""
    bench, machine = Workbench(), choose_machine(plan)
    state, step = bench.lay_out(case.problem, config, plan, machine)
    clean = torch.from_numpy(case.clean)[None].to(machine.device)
    peak, looked = (-math.inf, 0), 0.0

    def look(number: int, loss: float = 0.0) -> None:
        nonlocal peak, looked
        start = time.perf_counter()
        picture = state.problem.finish(state.output if plan.average is None else state.average)
        peak = max(peak, (float(-10 * torch.log10((picture - clean).square().mean())), number))
        looked += time.perf_counter() - start

    result = fit(case.problem, config, plan, look, workbench=bench)
    seconds = result.seconds["fit"] - looked
    for number in range(result.steps, min(plan.steps, round((1 + past_stop) * result.steps))):
        step()
        look(number + 1)
    return result, {"seconds": seconds, "peak": peak[0], "peak_step": peak[1]}


def nlm(observed: np.ndarray, sigma: float) -> np.ndarray:
    """Non-local means (Buades et al., 2005) by scikit-image, with the settings of its own documentation."""
    from skimage.restoration import denoise_nl_means

    settings = {"h": 0.6 * sigma, "sigma": sigma, "patch_size": 5, "patch_distance": 6, "fast_mode": False}
    if len(observed) == 1:  # as a channel axis of length one it comes out wrong
        found = denoise_nl_means(observed[0], **settings)[None]
    else:
        found = denoise_nl_means(observed, **settings, channel_axis=0)
    return np.clip(found, 0, 1)


def bm3d(observed: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D (Dabov et al., 2007) by the package `bm3d`, which is not among dipfast's. Raises UsageError without it."""
    try:
        from bm3d import bm3d as run
        from bm3d import bm3d_rgb as run_rgb
    except ImportError:
        raise UsageError("--contender bm3d needs the package bm3d: pip install bm3d") from None
    pixels = observed.transpose(1, 2, 0)
    found = run_rgb(pixels, sigma) if pixels.shape[2] == 3 else run(pixels[..., 0], sigma)[..., None]
    return np.clip(found, 0, 1).transpose(2, 0, 1).astype(np.float32)


METHOD: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {"nlm": nlm, "bm3d": bm3d}


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means for each damage and contender, and the spread of PSNR over the seeds of one picture."""
    found = []
    for damage in dict.fromkeys(row["damage"] for row in rows):
        for name in dict.fromkeys(row["contender"] for row in rows):
            mine = [row for row in rows if (row["damage"], row["contender"]) == (damage, name)]
            if mine:
                found.append({"damage": damage, "contender": name, **_means(mine)})
    return found


def _means(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    keys = [
        key for key in ("before", "psnr", "peak", "ssim", "steps", "flops", "seconds") if rows[0].get(key) is not None
    ]
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(row["picture"], []).append(row["psnr"])
    spreads = [statistics.stdev(values) for values in groups.values() if len(values) > 1]
    means = {key: statistics.mean(row[key] for row in rows) for key in keys}
    return means | {"spread": statistics.mean(spreads) if spreads else None, "fits": len(rows)}


def print_bench(result: dict[str, Any], console: Console) -> None:
    """The summary as a table."""
    columns = ("damage", "contender", "before", "PSNR", "± seeds", "peak", "SSIM", "steps", "TFLOP", "seconds")
    table = Table(*columns, title=f"returned pictures at {result['crop']}×{result['crop']}, fits that stop themselves")
    for r in result["summary"]:
        spread = "" if r["spread"] is None else f"{r['spread']:.2f}"
        steps, flops = (f"{r['steps']:.0f}", f"{r['flops'] / 1e12:.2f}") if "steps" in r else ("", "")
        similar = f"{r['ssim']:.3f}" if "ssim" in r else ""
        peak = f"{r['peak']:.2f}" if "peak" in r else ""
        quality = f"{r['before']:.2f}", f"{r['psnr']:.2f}", spread, peak, similar
        table.add_row(r["damage"], r["contender"], *quality, steps, flops, f"{r['seconds']:.1f}")
    console.print(table)
