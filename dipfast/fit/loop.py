"""The fit: steps, with a look at the device every few of them to see whether it has diverged, stopped, or is done.

The ground truth is not here and cannot be: this room may not import `dipfast.metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from dipfast.errors import DipfastError
from dipfast.fit.checkpoint import EVERY_SECONDS, LEAST_SECONDS, Checkpoint, load_state_dict, state_dict
from dipfast.fit.engine import choose_machine
from dipfast.fit.plan import FitPlan
from dipfast.fit.program_cache import ProgramCache
from dipfast.fit.result import FitResult, collect
from dipfast.fit.slots import Course, finish
from dipfast.fit.stop import FIXED
from dipfast.fit.watch import LOOK_EVERY, Watch
from dipfast.settings.shapes import coarse_steps, halves
from dipfast.tasks import Problem
from dipfast.tasks.problem import WHITE_NOISE

Progress = Callable[[int, float], None]  # steps done, loss


@dataclass(frozen=True)
class Hooks:
    """What goes on around a fit. None of it changes a bit of the result.

    ``progress`` is called now and then with the steps done and the loss; ``cancelled`` is asked before each step. A
    ``program_cache`` saves the next fit of the same bucket its compilation, and overwrites the generator of the last
    result. The fit is saved in a ``checkpoint`` every minute and when it is cancelled, and goes on from what is there.
    """

    progress: Progress | None = None
    cancelled: Callable[[], bool] | None = None
    program_cache: ProgramCache | None = None
    checkpoint: Checkpoint | None = None


NO_HOOKS = Hooks()


class Cancelled(DipfastError):
    """The fit was asked to end before it was done."""


def fit(
    problem: Problem,
    config: dict[str, Any],
    plan: FitPlan,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    program_cache: ProgramCache | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Fit the generator that ``config`` describes to ``problem``. The last four arguments are those of `Hooks`.

    The same problem, config and plan give the same bits on the same device and number of threads.

    Raises MachineError for a device, engine or precision that this machine does not have; ItemError `non-finite` if
    the loss is still infinite or NaN after rollbacks; Cancelled.
    """
    return finish(fitting(problem, config, plan, Hooks(progress, cancelled, program_cache, checkpoint)))


def fitting(problem: Problem, config: dict[str, Any], plan: FitPlan, hooks: Hooks = NO_HOOKS) -> Course[FitResult]:
    """Do what `fit` does step by step: yield with steps enqueued, and wait for them when moved again."""
    running = Fit(problem, config, plan, hooks)
    yield from running.course()
    return running.result()


class Fit:
    """One fit under way, with the arguments of `fitting`. `advance` enqueues steps, `look` waits for them.

    Where the plan says so, the picture is fitted at half of its size first, and before that at half of that: a step
    there costs a quarter, and leads to weights that are nearer to those sought (LOG.md, 2026-11-28).
    """

    def __init__(self, problem: Problem, config: dict[str, Any], plan: FitPlan, hooks: Hooks = NO_HOOKS) -> None:
        start = time.perf_counter()
        self.config, self.plan, self.hooks = config, plan, hooks
        self.machine, self.coarse = choose_machine(plan), smaller_fits(problem, config, plan)
        self.program_cache = hooks.program_cache or ProgramCache()
        self.state, self.step = self.program_cache.prepare(problem, config, plan, self.machine)
        self.began = self.saved = time.perf_counter()
        self.setup = self.began - start
        self.watch = Watch(plan, self.state)
        held = None if hooks.checkpoint is None else hooks.checkpoint.load()
        self.earlier = 0.0 if held is None else load_state_dict(self.state, self.watch, held)
        self.steps = int(self.state.step)

    def course(self) -> Course[None]:
        """Take all steps, yielding before each wait for the device."""
        yield from self.begin()
        while self.going:
            self.advance()
            yield
            self.look()

    def begin(self) -> Course[None]:
        """Take the steps at smaller sizes, if there are any and the fit does not go on from a checkpoint."""
        if self.earlier or not self.coarse:
            return
        steps, size = self.coarse[0]
        hooks = Hooks(cancelled=self.hooks.cancelled, program_cache=self.program_cache.half)
        half = Fit(self.state.problem.halved(size), self.config, _coarse_plan(self.plan, steps), hooks)
        yield from half.course()
        self.state.go_on_from(half.state)
        self.watch = Watch(self.plan, self.state)
        self.setup += half.setup
        self.began += half.setup

    @property
    def going(self) -> bool:
        """Whether there are steps left to take."""
        return self.steps < self.plan.steps and not self.watch.stopped

    @property
    def seconds(self) -> float:
        """Seconds since the first step, those of earlier processes included."""
        return time.perf_counter() - self.began + self.earlier

    def advance(self) -> None:
        """Enqueue the steps up to the next look, without waiting for a GPU. Raises Cancelled."""
        for _ in range(min(LOOK_EVERY - self.steps % LOOK_EVERY, self.plan.steps - self.steps)):
            self._raise_if_cancelled()
            self.step()
            self.steps += 1
            if self.machine.device.type == "cpu":
                self._report()

    def look(self) -> None:
        """Wait for the steps, and see whether the fit has diverged or stopped; save it at times. Raises ItemError."""
        if self.machine.device.type != "cpu":
            self._report()
        self.watch.look()
        if time.perf_counter() - self.saved > EVERY_SECONDS:
            self.saved = time.perf_counter()
            self._save()

    def result(self) -> FitResult:
        """Return what the fit leaves. Raises ItemError if that is not finite."""
        return collect(
            self.state,
            self.watch,
            self.machine,
            programs=self.program_cache.programs,
            seconds={"setup": self.setup, "fit": self.seconds},
            coarse=self.coarse,
            earlier=self.earlier,
        )

    def _raise_if_cancelled(self) -> None:
        if self.hooks.cancelled is None or not self.hooks.cancelled():
            return
        if self.seconds > LEAST_SECONDS:
            self._save()
        raise Cancelled(f"cancelled after {self.steps} steps")

    def _save(self) -> None:
        if self.hooks.checkpoint is not None:
            self.hooks.checkpoint.save(state_dict(self.state, self.watch, self.seconds))

    def _report(self) -> None:
        if self.hooks.progress is not None:
            self.hooks.progress(self.steps, float(self.state.losses[self.steps - 1]))


def _coarse_plan(plan: FitPlan, steps: int) -> FitPlan:
    """Return the plan of a fit at half of the size, of which only weights and the average are used."""
    return replace(
        plan,
        steps=steps,
        coarse=steps,
        stop=FIXED,
        average="auto",
        uncertainty=False,
        checkpoints=None,
        keep_seeds=None,
        store="one",
    )


def smaller_fits(problem: Problem, config: Mapping[str, Any], plan: FitPlan) -> tuple[tuple[int, tuple[int, int]], ...]:
    """Return steps, and height and width, of the fits at smaller sizes that a fit begins with: the largest first.

    With `coarse: auto` there are none if the noise is correlated: there is no recorruption then, and the stop comes too
    soon (LOG.md, 2026-11-28).
    """
    shared = plan.coarse == "auto" and problem.noise_correlation != WHITE_NOISE
    steps = coarse_steps(config, vars(plan)) if plan.steps and not shared else 0
    _, *sides = problem.shape
    return tuple((steps, size) for size in halves(config, (sides[0], sides[1]))) if steps else ()
