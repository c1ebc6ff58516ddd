"""Every stop criterion and every average on one and the same trajectory of a fit.

    python bench/stop.py PICTURE... [--damage KIND:VALUE]... [--crop N] [--preset NAME] [--set KEY=VALUE]... [--help]

The truth is looked at from outside, after each step, and no criterion sees it. A criterion that changes the fit
(pixels held out, a risk for its loss) runs on a trajectory of its own, and is held against the peak of the first.
"""

from __future__ import annotations

from command import Crop, Damages, Pictures, benchmark, run, say  # isort: skip  (before torch)

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from itertools import product
from statistics import mean, median
from typing import Annotated, Any

import torch
import typer
from pydantic import TypeAdapter
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cases import SAMPLES, Case, make_case, settings_of
from dipfast.bench.machine import describe
from dipfast.cli.bench import Sets
from dipfast.cli.options import Preset
from dipfast.errors import UsageError
from dipfast.fit import FitLoop, choose_machine, finish
from dipfast.fit.loop import smaller_fits
from dipfast.fit.statistics import newest_weight
from dipfast.fit.stop import choose_stop, make_stop
from dipfast.fit.stop.criterion import Criterion
from dipfast.metrics import psnr
from dipfast.settings.fit import Fit
from dipfast.settings.generator import ImageInput, Latent, SkipGenerator
from dipfast.settings.shapes import windows_of
from dipfast.settings.stop import AutoStop, FixedStop, Stop
from tables import Row, column, fill, grouped
from watch import Clock, quality

CRITERIA = ("discrepancy", "blocks", "ema-variance", "windowed-variance")
SECTION: TypeAdapter[Any] = TypeAdapter(Stop)  # of the manifest
AVERAGES: tuple[float | str, ...] = (0.9, 0.97, 0.99, "auto")


class Alone(StrEnum):
    """Stop criteria that need a fit of their own."""

    HELD_OUT = "held-out"
    SURE = "sure"
    NONE = "none"


def bench_stop(
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
) -> dict[str, Any]:
    """Follow fits with a known truth: every stop criterion and average on one trajectory.

    Raises UsageError for a damage or a setting that is not one.
    """
    sets, trajectories = sets or [], []
    for name, picture, seed in product(damage or ["gaussian:25"], pictures or SAMPLES, range(seeds)):
        case = make_case(picture, name, crop, seed)
        asked = settings_of(case.task, preset, sets, seed, crop)
        config, settings = asked.generator, asked.fit
        if windows_of(config, settings) is not None:  # a criterion looks at whole pictures, and returns their average
            settings = settings.model_copy(update={"windows": None, "average": "auto"})
        case = replace(case, problem=case.under(preset, sets))
        smaller = smaller_fits(case.problem, config, settings)  # as many of its steps as without ``steps``
        changes = {"steps": steps or settings.steps, "coarse": smaller[0][0] if smaller else 0}
        settings = settings.model_copy(update=changes | {"stop": FixedStop(), "rollback_db": None})
        trajectory = follow(case, config, settings, alone or (Alone.HELD_OUT, Alone.SURE))
        trajectories.append(trajectory)
        say(f"{picture} {name} seed {seed}: peak {trajectory['peak'][0]:.2f} dB at step {trajectory['peak'][1]}")
    return {
        "benchmark": "stop",
        "crop": crop,
        "preset": preset,
        "sets": sets,
        "machine": describe(torch.device("cpu")),
        "trajectories": trajectories,
        "criteria": summarize(trajectories),
        "averages": summarize_averages(trajectories),
    }


def follow(case: Case, config: SkipGenerator, settings: Fit, alone: Sequence[str] = ()) -> Row:
    """Take all steps of ``settings``, and look at the truth after each of them.

    `peak` (dB and step) and `last` (dB) are of the average that is returned, `peaks` of others and of the raw output,
    `chosen` is what each criterion returned.
    """
    if settings.average is None:
        raise UsageError("bench/stop.py needs fit.average: the criteria return the average")
    running = begun(case, config, settings)
    state, problem, device = running.state, running.state.problem, running.machine.device
    clean = torch.from_numpy(case.clean)[None].to(device)
    criteria = _criteria(running, config.input)
    clocks, steps = {name: Clock() for name in criteria}, Clock()
    averages = {str(kind): torch.zeros_like(state.output) for kind in AVERAGES}
    last, peak, peaks = 0.0, (0.0, 0), dict.fromkeys(["none", *averages], (0.0, 0))

    def score(picture: Tensor) -> float:
        return quality(problem.finish(picture), clean)

    for number in range(settings.steps):
        index = torch.tensor(number, device=device)
        with steps:
            running.step()
        for name, criterion in criteria.items():
            with clocks[name]:
                criterion.update(index, state.output, state.average, state.losses[number])
        for kind in AVERAGES:
            averages[str(kind)].lerp_(state.output, newest_weight(kind, index))
        last = score(state.average)
        peak = max(peak, (last, number + 1))
        for name, picture in {"none": state.output, **averages}.items():
            peaks[name] = max(peaks[name], (score(picture), number + 1))
    chosen = {name: _chosen(one, score, clocks[name].wall / steps.wall) for name, one in criteria.items()}
    ended = {name: _fit_alone(name, case, config, settings) for name in (Alone.HELD_OUT, Alone.SURE) if name in alone}
    chosen |= {name.value: _chosen(one, score) for name, one in ended.items() if one is not None}
    choice = choose_stop(settings.model_copy(update={"stop": AutoStop()}), case.problem, config.input).stop.type
    chosen["all steps"] = {"step": settings.steps, "psnr": last, "done": True, "overhead": 0.0}
    chosen["auto"] = chosen["all steps" if choice == "fixed" else choice]
    about = {"picture": case.picture, "damage": case.damage, "before": psnr(problem.guide[0].numpy(), case.clean)}
    return about | {"steps": settings.steps, "peak": peak, "last": last, "peaks": peaks, "chosen": chosen}


def begun(case: Case, config: SkipGenerator, settings: Fit) -> FitLoop:
    """A fit whose steps at smaller sizes are done. Raises UsageError for what the task cannot have."""
    coarse = smaller_fits(case.problem, config, settings)
    running = FitLoop(case.problem, config, settings, choose_machine(settings), coarse)
    finish(running.begin())
    return running


def _criteria(running: FitLoop, latent: Latent) -> dict[str, Criterion]:
    """Those of `CRITERIA` that the task can have, at their beginning."""
    state, found = running.state, {}
    for name in CRITERIA:
        with suppress(UsageError):
            stop = SECTION.validate_python({"type": name})
            found[name] = make_stop(stop, state.output, state.problem, state.steps, latent)
            found[name].reset(0)
            if running.coarse:
                found[name].go_on(state.average)
    return found


def _fit_alone(name: str, case: Case, config: SkipGenerator, settings: Fit) -> Criterion | None:
    """The criterion at the end of a fit of its own; None where the task cannot have it.

    Sure takes the image for latent, held-out leaves the noise alone where both are shown.
    """
    if name == Alone.SURE:
        config = config.model_copy(update={"input": ImageInput()})
    elif isinstance(config.input, ImageInput) and config.input.noise is not None:
        config = config.model_copy(update={"input": config.input.noise})
    try:
        running = begun(case, config, settings.model_copy(update={"stop": SECTION.validate_python({"type": name})}))
    except UsageError:
        return None
    for _ in range(settings.steps):
        running.step()
        if bool(running.state.stop.done):
            break
    return running.state.stop


def _chosen(criterion: Criterion, score: Callable[[Tensor], float], overhead: float | None = None) -> Row:
    """The step and PSNR of what it returned, whether it stopped the fit, its part of the time of a step."""
    step, done = int(criterion.best_step) + 1, bool(criterion.done)
    return {"step": step, "psnr": score(criterion.best), "done": done, "overhead": overhead}


def summarize(trajectories: Iterable[Row]) -> list[Row]:
    """A row for each damage and criterion: mean step and PSNR, mean and worst distance from the peak in dB."""
    rows = [
        {"damage": one["damage"], "criterion": name, "distance": one["peak"][0] - chosen["psnr"]} | chosen
        for one in trajectories
        for name, chosen in one["chosen"].items()
    ]
    return [
        {
            "damage": damage,
            "criterion": name,
            "step": mean(column(mine, "step")),
            "psnr": mean(column(mine, "psnr")),
            "distance_mean": mean(column(mine, "distance")),
            "distance_worst": max(column(mine, "distance")),
            "stopped": sum(column(mine, "done")),
            "of": len(mine),
            "overhead": median(costs) if (costs := column(mine, "overhead")) else None,
        }
        for (damage, name), mine in grouped(rows, "damage", "criterion").items()
    ]


def summarize_averages(trajectories: Iterable[Row]) -> list[Row]:
    """A row for each damage and average: the mean over pictures of the peak's PSNR and step."""
    rows = [
        {"damage": one["damage"], "average": name, "psnr": psnr, "step": step}
        for one in trajectories
        for name, (psnr, step) in one["peaks"].items()
    ]
    return [
        {"damage": damage, "average": name, "psnr": mean(column(mine, "psnr")), "step": mean(column(mine, "step"))}
        for (damage, name), mine in grouped(rows, "damage", "average").items()
    ]


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Both summaries as tables."""
    criteria = {"damage": "{damage}", "criterion": "{criterion}", "step": "{step:.0f}", "PSNR": "{psnr:.2f}"}
    criteria |= {"from the peak: mean": "{distance_mean:.2f}", "worst": "{distance_worst:.2f}"}
    criteria |= {"stopped": "{stopped}/{of}", "of a step": "{cost}"}
    costs = ["its own fit" if row["overhead"] is None else f"{row['overhead']:.1%}" for row in result["criteria"]]
    rows = [row | {"cost": cost} for row, cost in zip(result["criteria"], costs, strict=True)]
    title = f"stop criteria at {result['crop']}×{result['crop']}, preset {result['preset']}"
    console.print(fill(Table(*criteria, title=title), rows, criteria.values()))
    averages = {"damage": "{damage}", "average": "{average}", "peak: PSNR": "{psnr:.2f}", "step": "{step:.0f}"}
    console.print(fill(Table(*averages, title="averages of the outputs"), result["averages"], averages.values()))


app = benchmark(bench_stop, print_bench)

if __name__ == "__main__":
    run(app)
