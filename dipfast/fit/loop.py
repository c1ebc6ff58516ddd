"""The fit: steps, with a look at the device every few of them to see whether it diverged, stopped, or is done.

The ground truth is not here and cannot be: this room may not import `dipfast.metrics`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dipfast.errors import DipfastError, ItemError
from dipfast.fit.auto import FIXED
from dipfast.fit.average import newest_weight
from dipfast.fit.checkpoint import EVERY_SECONDS, LEAST_SECONDS, Checkpoint, freeze, thaw
from dipfast.fit.engine import Machine, choose_machine
from dipfast.fit.flecks import mended
from dipfast.fit.lane import Course, finish
from dipfast.fit.plan import FitPlan
from dipfast.fit.step import FitState
from dipfast.fit.trail import Trail
from dipfast.fit.workbench import Workbench
from dipfast.generators import SkipNet
from dipfast.settings.shapes import coarse_steps, halves
from dipfast.tasks import Problem
from dipfast.tasks.problem import WHITE_NOISE

LOOK_EVERY = 10  # steps between two looks of the host at the device
MAX_NON_FINITE = 3  # rollbacks from a non-finite loss before the item is given up
CURVE_POINTS = 200

Progress = Callable[[int, float], None]  # steps done, loss


@dataclass(frozen=True)
class Hooks:
    """What goes on around a fit. None of it changes a bit of the result.

    ``progress`` is called now and then with the steps done and the loss; ``cancelled`` is asked before each step. A
    ``workbench`` saves the next fit of the same bucket its compilation; it overwrites the last result's generator. Into
    a ``checkpoint`` the fit is saved every minute and when it is cancelled; what it holds is gone on from.
    """

    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    workbench: Workbench | None = None
    checkpoint: Checkpoint | None = None


NO_HOOKS = Hooks()


class Cancelled(DipfastError):
    """The fit was asked to end before it was done."""


@dataclass(frozen=True)
class FitResult:
    """What a fit leaves. Images are [1, C, H, W] float32 in [0, 1] on the CPU."""

    image: Tensor  # the answer: averaged and chosen as the plan says, known pixels put back; in the full range
    last: Tensor  # the last raw output, in the full range
    picture: Tensor  # the answer as the network's averaged outputs have it: nothing put back, in the unit range
    averaged: Tensor  # [P], the first seed's weights, averaged; on the fit's device
    generator: SkipNet  # of the first seed, with the weights of the last step, on the fit's device
    machine: Machine
    steps: int
    chosen_step: int  # steps behind the answer, from 1
    stop: Mapping[str, Any]  # the criterion that ran, `auto` filled in
    why: str
    rollbacks: int
    programs: int  # built so far on the workbench: one for each bucket
    losses: list[tuple[int, float]]  # thinned: step, loss; without those that were not finite
    stop_curve: list[tuple[int, float]]  # likewise: step, the value that the stop criterion looks at
    seconds: dict[str, float]  # setup, fit
    coarse: tuple[tuple[int, tuple[int, int]], ...] = ()  # before them: steps, at that height and width; finest first
    earlier: float = 0.0  # seconds of the fit in processes before this one, whose checkpoint was gone on from
    deviation: Tensor | None = None  # of the answer, [1, C, H, W] on the CPU, where samples were taken
    flecks: int = 0  # values that were mended, for the fit left its input there by more than noise explains
    samples: int = 0  # whose mean the answer is; 0: it is no mean of samples
    kept: tuple[nn.Module, ...] = ()  # generators with the weights of some of the samples
    trail: tuple[tuple[int, nn.Module], ...] = ()  # steps, and generators with the averaged weights of then
    members: tuple[SkipNet, ...] = ()  # of the other seeds, where they are kept or stored, with averaged weights


def fit(
    problem: Problem,
    config: dict[str, Any],
    plan: FitPlan,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    workbench: Workbench | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Fit the generator that ``config`` describes to ``problem``. The last four are those of `Hooks`.

    The same problem, config and plan give the same bits on the same device and number of threads.

    Raises MachineError for a device, engine or precision that is not there; ItemError `non-finite` where the loss
    stays infinite or NaN after rollbacks; Cancelled.
    """
    return finish(fitting(problem, config, plan, Hooks(progress, cancelled, workbench, checkpoint)))


def fitting(problem: Problem, config: dict[str, Any], plan: FitPlan, hooks: Hooks = NO_HOOKS) -> Course[FitResult]:
    """`fit`, step by step: it yields with steps enqueued that it will wait for when it is moved again."""
    running = Fit(problem, config, plan, hooks)
    yield from running.course()
    return running.result()


class Fit:
    """One fit under way, with the arguments of `fitting`. `advance` enqueues steps, `look` waits for them.

    Where the plan says so, the picture is fitted at half of its size first, and that at half of it: a step there costs
    a quarter, and the weights that it leads to are nearer to those sought (LOG.md).
    """

    def __init__(self, problem: Problem, config: dict[str, Any], plan: FitPlan, hooks: Hooks = NO_HOOKS) -> None:
        start = time.perf_counter()
        self.plan, self.machine, self.bench = plan, choose_machine(plan), hooks.workbench or Workbench()
        self.progress, self.cancelled, self.checkpoint = hooks.progress, hooks.cancelled, hooks.checkpoint
        self.config, self.coarse = config, smaller_fits(problem, config, plan)
        self.state, self.step = self.bench.lay_out(problem, config, plan, self.machine)
        self.ready = self.saved = time.perf_counter()
        self.setup = self.ready - start
        self.watch = Watch(plan, self.state)
        held = None if self.checkpoint is None else self.checkpoint.load()
        self.earlier = 0.0 if held is None else thaw(self.state, self.watch, held)
        self.steps = int(self.state.step)

    def course(self) -> Course[None]:
        """All of its steps: it yields where it will wait for the device."""
        yield from self.begin()
        while self.going:
            self.advance()
            yield
            self.look()

    def begin(self) -> Course[None]:
        """Its steps at smaller sizes, where it has any and they are not behind it."""
        if self.earlier or not self.coarse:
            return
        steps, size = self.coarse[0]
        plan = replace(
            self.plan,
            steps=steps,
            coarse=steps,
            stop=FIXED,
            average="auto",
            uncertainty=False,
            checkpoints=None,
            keep_seeds=None,
            store="one",
        )
        hooks = Hooks(cancelled=self.cancelled, workbench=self.bench.half)
        half = Fit(self.state.problem.halved(size), self.config, plan, hooks)
        yield from half.course()
        self.state.go_on_from(half.state)
        self.watch = Watch(self.plan, self.state)
        self.setup += half.setup
        self.ready += half.setup

    @property
    def going(self) -> bool:
        return self.steps < self.plan.steps and not self.watch.stopped

    @property
    def seconds(self) -> float:
        """Since its first step, those of earlier processes included."""
        return time.perf_counter() - self.ready + self.earlier

    def advance(self) -> None:
        """Enqueue the steps up to the next look; a GPU is not waited for. Raises Cancelled."""
        for _ in range(min(LOOK_EVERY - self.steps % LOOK_EVERY, self.plan.steps - self.steps)):
            self._heed()
            self.step()
            self.steps += 1
            if self.machine.device.type == "cpu":
                self._tell()

    def look(self) -> None:
        """Wait for the steps, and see whether the fit diverged or stopped; save it now and then. Raises ItemError."""
        if self.machine.device.type != "cpu":
            self._tell()
        self.watch.look()
        if self.checkpoint is not None and time.perf_counter() - self.saved > EVERY_SECONDS:
            self.saved = time.perf_counter()
            self.checkpoint.save(freeze(self.state, self.watch, self.seconds))

    def result(self) -> FitResult:
        """What it leaves. Raises ItemError where that is not finite."""
        seconds = {"setup": self.setup, "fit": self.seconds}
        return _result(self, seconds)

    def _heed(self) -> None:
        if self.cancelled is None or not self.cancelled():
            return
        if self.checkpoint is not None and self.seconds > LEAST_SECONDS:
            self.checkpoint.save(freeze(self.state, self.watch, self.seconds))
        raise Cancelled(f"cancelled after {self.steps} steps")

    def _tell(self) -> None:
        if self.progress is not None:
            self.progress(self.steps, float(self.state.losses[self.steps - 1]))


def smaller_fits(problem: Problem, config: Mapping[str, Any], plan: FitPlan) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Steps, and height and width, of the fits at smaller sizes that one begins with: the largest first.

    With `coarse: auto` none where noise is shared, for there is no recorruption: the stop comes too soon (LOG.md).
    """
    shared = plan.coarse == "auto" and problem.noise_correlation != WHITE_NOISE
    steps = coarse_steps(config, vars(plan)) if plan.steps and not shared else 0
    _, *sides = problem.shape
    return tuple((steps, size) for size in halves(config, (sides[0], sides[1]))) if steps else ()


class Watch:
    """Looks at a fit from the host: keeps its last good state, rolls back a divergence, sees that it has stopped.

    A divergence is a drop of the fit's own PSNR, -10 log10 mean (A x - y)^2, by `rollback_db` since the last look
    (the rule that the first paper's code meant), or a loss that is not finite.
    """

    def __init__(self, plan: FitPlan, state: FitState) -> None:
        self.plan, self.state = plan, state
        self.rollbacks = self.non_finite = 0
        self.good, self.good_residual = state.snapshot(), float("inf")
        self.stopped = False
        self.kept = state.members if plan.keep_seeds or plan.store == "all" else [state.first]  # weights are averaged
        self.averaged, self.looks = self._weights(), torch.zeros_like(state.step)
        self.trail = Trail(plan.checkpoints or 0)

    def look(self) -> None:
        residual = float(self.state.residual)
        finite = residual < float("inf") and self.state.finite
        if not finite:
            self.non_finite += 1
            if self.non_finite > MAX_NON_FINITE:
                raise ItemError(
                    "non-finite", f"the fit gave non-finite values at step {int(self.state.step)} and after rollbacks"
                )
        if not finite or self._dropped(residual):
            self.state.restore(self.good)
            self.rollbacks += 1
            return
        self.good, self.good_residual = self.state.snapshot(), residual
        self.stopped = bool(self.state.stop.done)
        self.averaged.lerp_(self._weights(), self._newest_weight())
        self.looks.add_(1)
        self.trail.add(int(self.state.step), self.averaged[0])

    def _weights(self) -> Tensor:  # [K, P]
        """Of the seeds that are kept, as they are now."""
        return torch.stack([member.parameters.values for member in self.kept])

    def _newest_weight(self) -> Tensor:
        """Of the weights at this look, so that their average is as long as that of the outputs."""
        average = self.plan.average
        constant = average if isinstance(average, str) else (average or 0.0) ** LOOK_EVERY
        return newest_weight(constant, self.looks)

    def _dropped(self, residual: float) -> bool:
        if self.plan.rollback_db is None:
            return False
        return residual > self.good_residual * 10 ** (self.plan.rollback_db / 10)


def _result(done: Fit, seconds: dict[str, float]) -> FitResult:
    state, watch, steps = done.state, done.watch, int(done.state.step)
    with torch.no_grad():
        if not done.plan.steps:
            pictures = [member.generator(member.latent, done.machine.dtype) for member in state.members]
            state.output.copy_(torch.stack(pictures).mean(0))
            state.stop.best.copy_(state.output)
        members = None if state.spread is None else state.spread.kept
        picture, flecks = mended(state.stop.best, members, state.problem) if steps else (state.stop.best, 0)
        image, last = (state.problem.finish(x).cpu() for x in (picture, state.output))
        sampled = _sampled(state)
    if not bool(torch.isfinite(image).all()):
        raise ItemError("non-finite", "the fit's picture has non-finite values")
    return FitResult(
        image=image,
        last=last,
        picture=picture.cpu(),
        flecks=flecks,
        averaged=watch.averaged[0],
        generator=state.first.generator,
        machine=done.machine,
        steps=steps,
        chosen_step=int(state.stop.best_step) + 1 if steps else 0,
        stop=state.choice.stop,
        why=_why(state, watch, steps),
        rollbacks=watch.rollbacks,
        programs=done.bench.programs,
        losses=_thinned(state.losses[:steps]),
        stop_curve=_thinned(state.stop_values[:steps]),
        seconds=seconds,
        coarse=done.coarse,
        earlier=done.earlier,
        trail=watch.trail.generators(state.first.generator, state.first.parameters),
        members=_members(watch),
        **sampled,
    )


def _members(watch: Watch) -> tuple[SkipNet, ...]:
    """The generators of the seeds behind the first that are kept, with their averaged weights."""
    others = watch.kept[1:]
    for member, weights in zip(others, watch.averaged[1:], strict=True):
        member.parameters.values.copy_(weights)
    return tuple(member.generator for member in others)


def _sampled(state: FitState) -> dict[str, Any]:
    """What samples or several members add to the result. Pixels returned as they were known have no deviation."""
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


def _thinned(curve: Tensor) -> list[tuple[int, float]]:  # [steps]
    """Pairs of step, from 1, and value: about `CURVE_POINTS`, and only those that are finite."""
    stride = max(1, len(curve) // CURVE_POINTS)
    values = curve.tolist()
    return [(i + 1, values[i]) for i in range(stride - 1, len(values), stride) if math.isfinite(values[i])]


def _why(state: FitState, watch: Watch, steps: int) -> str:
    """Why the fit ended, and that it was rolled back on the way, where it was."""
    if not steps:
        return "no steps asked for"
    times = f"; rolled back {watch.rollbacks} times" if watch.rollbacks else ""
    samples = "" if state.posterior is None else f"; mean of {int(state.posterior.count)} samples"
    chosen = "" if state.choice.because is None else f"{state.choice.stop['type']}, for {state.choice.because}; "
    return chosen + state.stop.why() + samples + times
