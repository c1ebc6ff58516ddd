"""The fit: steps, with a look at the device every few of them to see whether it has diverged, stopped, or is done.

The ground truth is not here and cannot be: this room may not import `dipfast.metrics`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from dipfast.errors import DipfastError
from dipfast.fit.checkpoint import EVERY_SECONDS, LEAST_SECONDS, Checkpoint, load_state_dict, state_dict
from dipfast.fit.engine import Machine, choose_machine
from dipfast.fit.program_cache import ProgramCache
from dipfast.fit.result import FitResult, collect, on_whole_picture
from dipfast.fit.slots import Course, finish
from dipfast.fit.watch import LOOK_EVERY, Watch
from dipfast.fit.windows import sampled
from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.shapes import coarse_steps, halves, on_grid, windows_of, with_fewer_windows
from dipfast.tasks import Problem
from dipfast.tasks.problem import WHITE_NOISE

Progress = Callable[[int, float], None]  # steps done, loss
Coarse = tuple[tuple[int, tuple[int, int]], ...]  # steps, and height and width, the largest first


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
    config: SkipGenerator,
    settings: Fit,
    machine: Machine | None = None,
    *,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    program_cache: ProgramCache | None = None,
    checkpoint: Checkpoint | None = None,
) -> FitResult:
    """Fit the generator that ``config`` describes to ``problem``. The last four arguments are those of `Hooks`.

    ``machine`` is where and how, in place of what ``settings`` say of that; None: `choose_machine` of them. The same
    problem, config and settings give the same bits on the same device and number of threads.

    Raises MachineError for a device, engine or precision that this machine does not have; ItemError `non-finite` if
    the loss is still infinite or NaN after rollbacks; Cancelled.
    """
    hooks = Hooks(progress, cancelled, program_cache, checkpoint)
    return finish(fitting(problem, config, settings, machine, hooks))


def fitting(
    problem: Problem,
    config: SkipGenerator,
    settings: Fit,
    machine: Machine | None = None,
    hooks: Hooks = NO_HOOKS,
) -> Course[FitResult]:
    """Do what `fit` does step by step: yield with steps enqueued, and wait for them when moved again."""
    coarse = smaller_fits(problem, config, settings)
    running = FitLoop(problem, config, settings, machine or choose_machine(settings), coarse, hooks)
    yield from running.course()
    return running.result()


class FitLoop:
    """One fit under way. `advance` enqueues steps, `look` waits for them.

    ``coarse``: steps and sizes of the fits that it begins with (`smaller_fits`). The picture is fitted at half of its
    size first, and before that at half of that: a step there costs a quarter, and leads to weights that are nearer to
    those sought (LOG.md, 2026-11-28). ``steps``: of a fit at a smaller size; None: those of the settings.
    """

    def __init__(
        self,
        problem: Problem,
        config: SkipGenerator,
        settings: Fit,
        machine: Machine,
        coarse: Coarse = (),
        hooks: Hooks = NO_HOOKS,
        steps: int | None = None,
    ) -> None:
        start = time.perf_counter()
        self.problem, self.config, self.settings, self.machine = problem, config, settings, machine
        self.coarse, self.hooks = coarse, hooks
        self.program_cache = hooks.program_cache or ProgramCache()
        windows = windows_of(config, settings)
        self.on_windows = windows is not None
        part = problem if windows is None else sampled(problem, windows, on_grid(settings))
        self.state, self.step = self.program_cache.prepare(part, config, settings, machine, steps, self.on_windows)
        self.began = self.saved = time.perf_counter()
        self.setup = self.began - start
        self.watch = Watch(settings, self.state)
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
        (steps, size), *smaller = self.coarse
        hooks = Hooks(cancelled=self.hooks.cancelled, program_cache=self.program_cache.half)
        problem, settings = self.problem.halved(size), with_fewer_windows(self.settings)
        half = FitLoop(problem, self.config, settings, self.machine, tuple(smaller), hooks, steps)
        yield from half.course()
        self.state.go_on_from(half.state)
        self.watch = Watch(self.settings, self.state)
        self.setup += half.setup
        self.began += half.setup

    @property
    def going(self) -> bool:
        """Whether there are steps left to take."""
        return self.steps < self.state.steps and not self.watch.stopped

    @property
    def seconds(self) -> float:
        """Seconds since the first step, those of earlier processes included."""
        return time.perf_counter() - self.began + self.earlier

    def advance(self) -> None:
        """Enqueue the steps up to the next look, without waiting for a GPU. Raises Cancelled."""
        for _ in range(min(LOOK_EVERY - self.steps % LOOK_EVERY, self.state.steps - self.steps)):
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
        start = time.perf_counter()
        seconds = {"setup": self.setup, "fit": self.seconds}
        result = collect(
            self.state,
            self.watch,
            self.machine,
            programs=self.program_cache.programs,
            seconds=seconds,
            coarse=self.coarse,
            earlier=self.earlier,
        )
        if not self.on_windows:
            return result
        result = on_whole_picture(result, self.problem, self.config, self.settings)
        return replace(result, seconds=seconds | {"render": time.perf_counter() - start})

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


def smaller_fits(problem: Problem, config: SkipGenerator, settings: Fit) -> Coarse:
    """Return the fits at smaller sizes that a fit begins with.

    With `coarse: auto` there are none if the noise is correlated and a criterion stops the fit: there is no
    recorruption then, and the stop comes too soon (LOG.md, 2026-11-28).
    """
    stopped = settings.coarse == "auto" and windows_of(config, settings) is None
    shared = stopped and problem.noise_correlation != WHITE_NOISE
    steps = coarse_steps(config, settings) if settings.steps and not shared else 0
    _, *sides = problem.shape
    return tuple((steps, size) for size in halves(config, settings, (sides[0], sides[1]))) if steps else ()
