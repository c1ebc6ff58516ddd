"""What a fit leaves: the answer and how it came about."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dipfast.errors import ItemError
from dipfast.fit.engine import Machine
from dipfast.fit.flecks import mended
from dipfast.fit.optimizer import FlatParameters
from dipfast.fit.step import FitState
from dipfast.fit.watch import Curve, Watch, thinned
from dipfast.generators import SkipNet, joined, twin
from dipfast.generators.architecture import architecture_of
from dipfast.generators.frozen import freeze, render
from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.stop import Stop
from dipfast.tasks import Problem


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves. Images are [1, C, H, W] float32 in [0, 1] on the CPU."""

    image: Tensor  # the answer: averaged and chosen as the settings say, known pixels put back; in the full range
    last: Tensor  # the last raw output, in the full range
    picture: Tensor  # the answer as the network's averaged outputs have it: nothing put back, in the unit range
    averaged: Tensor  # [P], the first seed's weights, averaged; on the fit's device
    generator: SkipNet  # of the first seed, with the weights of the last step, on the fit's device
    machine: Machine
    steps: int
    chosen_step: int  # the number of steps after which the answer was chosen
    stop: Stop  # the criterion that ran, `auto` filled in
    why: str
    rollbacks: int
    programs: int  # built so far by the program cache: one for each bucket
    losses: Curve  # thinned, without those that were not finite
    stop_curve: Curve  # likewise: what the stop criterion looks at
    seconds: dict[str, float]  # setup, fit
    coarse: tuple[tuple[int, tuple[int, int]], ...] = ()  # before them: steps, at that height and width; finest first
    earlier: float = 0.0  # seconds of the fit in earlier processes, from whose checkpoint it went on
    deviation: Tensor | None = None  # of the answer, [1, C, H, W] on the CPU, where samples were taken
    applied: float = 1.0  # share of the change to the picture that was applied; less where noise explains less
    flecks: int = 0  # values that were mended, because they were off by more than noise explains
    samples: int = 0  # whose mean the answer is; 0: it is no mean of samples
    kept: tuple[nn.Module, ...] = ()  # generators with the weights of some of the samples
    snapshots: tuple[tuple[int, nn.Module], ...] = ()  # steps, and generators with the averaged weights of then
    members: tuple[SkipNet, ...] = ()  # of the other seeds, where they are kept or stored, with averaged weights


def collect(state: FitState, watch: Watch, machine: Machine, **ran: Any) -> FitResult:
    """Return the result of a fit that is done. ``ran`` are the fields that only its loop knows.

    Raises ItemError `non-finite` for an answer that is not finite.
    """
    steps = int(state.step)
    with torch.no_grad():
        if not state.steps:
            _render_untouched(state, machine)
        members = None if state.spread is None else state.spread.kept
        picture, flecks = (
            mended(state.stop.best, members, state.problem) if steps and not state.is_part else (state.stop.best, 0)
        )
        image, last = (state.problem.finish(x).cpu() for x in (picture, state.output))
        ran |= _sampled(state)
    if not bool(torch.isfinite(image).all()):
        raise ItemError("non-finite", "the fit's picture has non-finite values")
    return FitResult(
        image=image,
        last=last,
        picture=picture.cpu(),
        flecks=flecks,
        averaged=watch.averaged[0],
        generator=state.first.generator,
        machine=machine,
        steps=steps,
        chosen_step=int(state.stop.best_step) + 1 if steps else 0,
        stop=state.choice.stop,
        why=watch.why(),
        rollbacks=watch.rollbacks,
        losses=thinned(state.losses[:steps]),
        stop_curve=thinned(state.stop_values[:steps]),
        snapshots=watch.snapshots.generators(state.first.generator, state.first.parameters),
        members=_members(watch),
        **ran,
    )


def _render_untouched(state: FitState, machine: Machine) -> None:
    """Take what the generators give before any step for the answer."""
    pictures = [member.generator(member.latent, machine.dtype) for member in state.members]
    state.output.copy_(torch.stack(pictures).mean(0))
    state.stop.best.copy_(state.output)


def averaged_generator(result: FitResult, config: SkipGenerator, settings: Fit) -> SkipNet:
    """Return the generator with the averaged weights of the first seed, or of all seeds in one."""
    first = twin(result.generator)
    FlatParameters(first, result.averaged.device).values.copy_(result.averaged)
    if settings.seeds == 1 or settings.store == "one":
        return first
    module = joined((first, *result.members), config)
    module.recompute(result.machine.recompute)
    if result.generator.fused:
        module.fuse()
    return module


def on_whole_picture(result: FitResult, problem: Problem, config: SkipGenerator, settings: Fit) -> FitResult:
    """Return the result of a fit on windows with the picture that its network, statistics frozen, gives of ``problem``.

    Raises ItemError `non-finite` for a picture that is not finite.
    """
    module = averaged_generator(result, config, settings)
    architecture = architecture_of(config, problem.shape[0], trunks=1 + len(module.others))
    picture = render(freeze(architecture, module.state_dict(), problem.shown), architecture, problem.shown)
    image = problem.finish(picture)
    if not bool(torch.isfinite(image).all()):
        raise ItemError("non-finite", "the fit's picture has non-finite values")
    return replace(result, image=image, last=image, picture=picture)


def _members(watch: Watch) -> tuple[SkipNet, ...]:
    """Return the generators of the kept seeds but the first, with their averaged weights."""
    others = watch.kept[1:]
    for member, weights in zip(others, watch.averaged[1:], strict=True):
        member.parameters.values.copy_(weights)
    return tuple(member.generator for member in others)


def _sampled(state: FitState) -> dict[str, Any]:
    """Return what samples or several members add to the result. Known pixels that are put back have no deviation."""
    found: dict[str, Any] = {}
    deviation = None if state.spread is None or not int(state.step) else state.spread.deviation()
    if state.posterior is not None:
        deviation = state.posterior.deviation()
        kept = state.posterior.kept(state.first.generator, state.first.parameters)
        found |= {"samples": int(state.posterior.count), "kept": kept}
    if deviation is not None:
        keep = state.problem.keep
        deviation = deviation * state.problem.range.width
        found["deviation"] = (deviation if keep is None else torch.where(keep > 0.5, 0.0, deviation)).cpu()
    return found
