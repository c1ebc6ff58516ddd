"""`dipfast bench stop`: every stop criterion and every average on one and the same trajectory of a fit.

The truth is looked at from outside, after each step, and no criterion sees it. A criterion that changes the fit
(pixels held out, a risk for its loss) runs on a trajectory of its own, and is held against the peak of the first.
"""

from __future__ import annotations

from command import Crop, Damages, Pictures, Threads, command_line, prepare, run, say  # isort: skip  (before torch)

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cases import Case, make_case, settings_of
from cases import pictures as chosen
from dipfast.bench.machine import describe
from dipfast.cli_bench import Sets
from dipfast.cli_options import AsJson, Preset, show
from dipfast.errors import UsageError
from dipfast.fit import Fit, FitPlan, finish
from dipfast.fit.auto import choose_stop
from dipfast.fit.average import newest_weight
from dipfast.fit.criteria import make_stop
from dipfast.fit.loop import smaller_fits
from dipfast.fit.stop import Fixed
from dipfast.manifest.schema import (
    BlocksStop,
    DiscrepancyStop,
    EmaVarianceStop,
    HeldOutStop,
    ImageInput,
    Section,
    SureStop,
    WindowedVarianceStop,
)
from dipfast.metrics import psnr

CRITERIA: tuple[Section, ...] = (
    DiscrepancyStop(type="discrepancy"),
    BlocksStop(type="blocks"),
    EmaVarianceStop(type="ema-variance"),
    WindowedVarianceStop(type="windowed-variance"),
)
ALONE = (HeldOutStop(type="held-out"), SureStop(type="sure"))  # each on a trajectory of its own
AVERAGES: tuple[float | str, ...] = (0.9, 0.97, 0.99, "auto")


class Alone(StrEnum):
    """Stop criteria that need a fit of their own."""

    HELD_OUT = "held-out"
    SURE = "sure"
    NONE = "none"


@dataclass
class Chosen:
    """What a criterion made of a trajectory. PSNR in dB; ``overhead`` is its part of the time of a step."""

    step: int
    psnr: float
    done: bool
    overhead: float | None = None


@dataclass
class Trajectory:
    """One fit, watched from outside: the peaks of each average's PSNR, and what each criterion returned."""

    picture: str
    damage: str
    before: float
    steps: int
    peak: tuple[float, int] = (0.0, 0)  # of the average that is returned, with its step
    last: float = 0.0  # of that average at the end
    peaks: dict[str, tuple[float, int]] = field(default_factory=dict)  # raw output and other averages
    chosen: dict[str, Chosen] = field(default_factory=dict)


def bench_stop(
    pictures: Sequence[str],
    damages: Sequence[str],
    *,
    crop: int,
    preset: str,
    steps: int | None,
    sets: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    alone: Sequence[str] = ("held-out", "sure"),
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Follow a fit of each picture under each damage, with ``preset``'s settings changed by ``sets`` (`KEY=VALUE`).

    ``alone``: of the criteria that need a trajectory of their own, those to run. Raises UsageError for a damage or a
    setting that is not one.
    """
    trajectories = []
    for damage in damages:
        for picture in pictures:
            for seed in seeds:
                case = make_case(picture, damage, crop, seed)
                config, plan = settings_of(case.task, preset, sets, seed, crop)
                case = replace(case, problem=case.under(preset, sets))
                smaller = smaller_fits(case.problem, config, plan)  # as many of its steps as without ``steps``
                plan = replace(plan, steps=steps or plan.steps, coarse=smaller[0][0] if smaller else 0)
                plan = replace(plan, stop={"type": "fixed"}, rollback_db=None)
                trajectory = follow(case, config, plan, alone)
                trajectories.append(trajectory)
                say(f"{picture} {damage} seed {seed}: peak {trajectory.peak[0]:.2f} dB at step {trajectory.peak[1]}")
    return {
        "benchmark": "stop",
        "crop": crop,
        "preset": preset,
        "sets": list(sets),
        "machine": describe(torch.device("cpu")),
        "trajectories": [_as_json(t) for t in trajectories],
        "criteria": summarize(trajectories),
        "averages": summarize_averages(trajectories),
    }


def follow(case: Case, config: dict[str, Any], plan: FitPlan, alone: Sequence[str] = ()) -> Trajectory:
    """Take all steps of ``plan``, and look at the truth behind each of them."""
    if plan.average is None:
        raise UsageError("bench stop needs fit.average: the criteria return the average")
    running = Fit(case.problem, config, plan)
    finish(running.begin())
    state, step = running.state, running.step
    problem, clean = state.problem, torch.from_numpy(case.clean)[None].to(running.machine.device)
    found = Trajectory(case.picture, case.damage, psnr(case.problem.guide[0].numpy(), case.clean), plan.steps)
    watched = {c.type: _criterion(c, state.output, problem, plan, config["input"]) for c in CRITERIA}  # type: ignore[attr-defined]
    criteria = {name: criterion for name, criterion in watched.items() if criterion is not None}
    if running.coarse:
        for criterion in criteria.values():
            criterion.go_on(state.average)
    spent = dict.fromkeys(criteria, 0.0)
    averages = {str(kind): torch.zeros_like(state.output) for kind in AVERAGES}
    in_steps = 0.0

    def quality(picture: Tensor) -> float:
        return float(-10 * torch.log10((problem.finish(picture) - clean).square().mean()))

    for number in range(plan.steps):
        index = torch.tensor(number, device=running.machine.device)
        start = time.perf_counter()
        step()
        in_steps += time.perf_counter() - start
        for name, criterion in criteria.items():
            start = time.perf_counter()
            criterion.update(index, state.output, state.average, state.losses[number])
            spent[name] += time.perf_counter() - start
        for kind in AVERAGES:
            averages[str(kind)].lerp_(state.output, newest_weight(kind, index))
        found.last = quality(state.average)
        found.peak = max(found.peak, (found.last, number + 1))
        for name, picture in {"none": state.output, **averages}.items():
            found.peaks[name] = max(found.peaks.get(name, (0.0, 0)), (quality(picture), number + 1))
    for name, criterion in criteria.items():
        found.chosen[name] = _chosen(criterion, quality, spent[name] / in_steps)
    for own in ALONE:
        if own.type in alone:
            _add_alone(found, own, case, config, plan, quality)
    choice = choose_stop(replace(plan, stop={"type": "auto"}), case.problem, config["input"])
    automatic = choice.stop["type"]
    found.chosen["all steps"] = Chosen(plan.steps, found.last, done=True, overhead=0.0)
    found.chosen["auto"] = found.chosen["all steps" if automatic == "fixed" else automatic]
    return found


def _criterion(config: Section, picture: Tensor, problem: Any, plan: FitPlan, latent: dict[str, Any]) -> Fixed | None:
    """None where the task cannot have it."""
    try:
        criterion = make_stop(config.model_dump(), picture, problem, plan.steps, latent | {"type": "noise"})
    except UsageError:
        return None
    criterion.reset(0)
    return criterion


def _add_alone(
    found: Trajectory,
    criterion: HeldOutStop | SureStop,
    case: Case,
    config: dict[str, Any],
    plan: FitPlan,
    quality: Callable[[Tensor], float],
) -> None:
    """What ``criterion`` makes of a fit of its own, where the task can have it.

    Sure takes the image for latent, held-out leaves the noise alone where both are shown.
    """
    plan = replace(plan, stop=criterion.model_dump())
    if criterion.type == "sure":
        config = config | {"input": ImageInput(type="image").model_dump()}
    elif config["input"].get("noise"):
        config = config | {"input": config["input"]["noise"]}
    try:
        running = Fit(case.problem, config, plan)
    except UsageError:
        return
    finish(running.begin())
    state, step = running.state, running.step
    for _ in range(plan.steps):
        step()
        if bool(state.stop.done):
            break
    found.chosen[criterion.type] = _chosen(state.stop, quality, None)


def _chosen(criterion: Fixed, quality: Callable[[Tensor], float], overhead: float | None) -> Chosen:
    return Chosen(int(criterion.best_step) + 1, quality(criterion.best), bool(criterion.done), overhead)


def summarize(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """A row for each damage and criterion: mean step and PSNR, mean and worst distance from the peak in dB."""
    rows = []
    for damage in dict.fromkeys(t.damage for t in trajectories):
        mine = [t for t in trajectories if t.damage == damage]
        for name in dict.fromkeys(name for t in mine for name in t.chosen):
            pairs = [(t, t.chosen[name]) for t in mine if name in t.chosen]
            distances = [t.peak[0] - c.psnr for t, c in pairs]
            costs = [c.overhead for _, c in pairs if c.overhead is not None]
            rows.append(
                {
                    "damage": damage,
                    "criterion": name,
                    "step": statistics.mean(c.step for _, c in pairs),
                    "psnr": statistics.mean(c.psnr for _, c in pairs),
                    "distance_mean": statistics.mean(distances),
                    "distance_worst": max(distances),
                    "stopped": sum(c.done for _, c in pairs),
                    "of": len(pairs),
                    "overhead": statistics.median(costs) if costs else None,
                }
            )
    return rows


def summarize_averages(trajectories: Sequence[Trajectory]) -> list[dict[str, Any]]:
    """A row for each damage and average: the mean over pictures of the peak's PSNR and step."""
    rows = []
    for damage in dict.fromkeys(t.damage for t in trajectories):
        mine = [t.peaks for t in trajectories if t.damage == damage]
        for name in mine[0]:
            peaks = [p[name] for p in mine]
            row = {"psnr": statistics.mean(p[0] for p in peaks), "step": statistics.mean(p[1] for p in peaks)}
            rows.append({"damage": damage, "average": name, **row})
    return rows


def _as_json(trajectory: Trajectory) -> dict[str, Any]:
    chosen = {name: vars(choice) for name, choice in trajectory.chosen.items()}
    return vars(trajectory) | {"chosen": chosen}


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Both summaries as tables."""
    title = f"stop criteria at {result['crop']}×{result['crop']}, preset {result['preset']}"
    columns = ("damage", "criterion", "step", "PSNR", "from the peak: mean", "worst", "stopped", "of a step")
    table = Table(*columns, title=title)
    for r in result["criteria"]:
        cost = "its own fit" if r["overhead"] is None else f"{r['overhead']:.1%}"
        far = f"{r['distance_mean']:.2f}", f"{r['distance_worst']:.2f}"
        stopped = f"{r['stopped']}/{r['of']}"
        table.add_row(r["damage"], r["criterion"], f"{r['step']:.0f}", f"{r['psnr']:.2f}", *far, stopped, cost)
    console.print(table)
    table = Table("damage", "average", "peak: PSNR", "step", title="averages of the outputs")
    for r in result["averages"]:
        table.add_row(r["damage"], r["average"], f"{r['psnr']:.2f}", f"{r['step']:.0f}")
    console.print(table)


def stop(
    pictures: Pictures = None,
    damage: Damages = None,
    crop: Crop = 128,
    preset: Annotated[Preset, typer.Option(help="settings of the fit")] = Preset.BALANCED,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="steps of each trajectory")] = None,
    sets: Sets = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of damage and weights")] = 1,
    alone: Annotated[
        list[Alone] | None, typer.Option("--alone", help="criteria with a fit of their own; both unless given")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Follow fits with a known truth: every stop criterion and average on one trajectory."""
    prepare(threads)
    result = bench_stop(
        chosen(pictures or []),
        damage or ["gaussian:25"],
        crop=crop,
        preset=preset,
        steps=steps,
        sets=sets or [],
        seeds=range(seeds),
        alone=alone or [Alone.HELD_OUT, Alone.SURE],
        say=say,
    )
    show(result, as_json, print_bench)


app = command_line(stop)

if __name__ == "__main__":
    run(app)
