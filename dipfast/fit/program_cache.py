"""The buffers and the engine's program of the last fit, kept for the next one if it has the same shape and settings.

One compilation or capture serves every item of a bucket. For the next one weights, moments, latent and target are set
in place, and it has the bits that it would have alone.
"""

from __future__ import annotations

from functools import partial

from dipfast.fit.engine import Machine, Step, accelerate, turn_to
from dipfast.fit.step import FitState, fit_step
from dipfast.fit.stop import FIXED, Choice, choose_stop
from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.stop import FixedStop
from dipfast.tasks import Problem


class ProgramCache:
    """Holds one program at a time; `built` counts those that it has built."""

    def __init__(self) -> None:
        self.built = 0
        self._half: ProgramCache | None = None
        self._key: tuple | None = None
        self._state: FitState
        self._step: Step

    def prepare(
        self,
        problem: Problem,
        config: SkipGenerator,
        settings: Fit,
        machine: Machine,
        coarse: int | None = None,
        is_part: bool = False,
    ) -> tuple[FitState, Step]:
        """Return a state at its beginning, and the step that changes it. What the last call returned is overwritten.

        ``coarse``: the number of steps of a fit at a smaller size, which takes them all. ``is_part``: whether the
        problem is that of windows of a picture.
        """
        turn_to(machine)
        if is_part:
            choice = Choice(FixedStop(), "a fit on windows takes all its steps")
        else:
            choice = choose_stop(settings, problem, config.input) if coarse is None else FIXED
        alike = settings.model_copy(update={"seed": 0, "stop": choice.stop})
        key = (problem.signature, config, alike, machine, coarse, is_part)
        if key == self._key:
            self._state.problem.adopt(problem)
            self._state.reset(settings.seed)
        else:
            self.release()  # the old buffers must go before the new ones come
            self._build(problem.to(machine.device), config, settings, machine, choice, coarse, is_part)
            self._key = key
        self._state.choice = choice
        return self._state, self._step

    @property
    def half(self) -> ProgramCache:
        """The cache of the fits at half of the size."""
        if self._half is None:
            self._half = ProgramCache()
        return self._half

    @property
    def programs(self) -> int:
        """How many programs have been built so far, those for smaller sizes included."""
        return self.built + (0 if self._half is None else self._half.programs)

    def release(self) -> None:
        """Free the buffers and the program."""
        self._key = None
        if self._half is not None:
            self._half.release()
        if hasattr(self, "_state"):
            del self._state, self._step

    def _build(
        self,
        problem: Problem,
        config: SkipGenerator,
        settings: Fit,
        machine: Machine,
        choice: Choice,
        coarse: int | None,
        is_part: bool,
    ) -> None:
        self._state = state = FitState(problem, config, settings, machine, choice, coarse, is_part)
        self._step = accelerate(machine, state, partial(fit_step, state), settings.seed)
        self.built += 1
