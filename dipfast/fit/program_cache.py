"""The buffers and the engine's program of the last fit, kept for the next one if it has the same shape and settings.

One compilation or capture serves every item of a bucket. For the next one weights, moments, latent and target are set
in place, and it has the bits that it would have alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from dipfast.fit.engine import Machine, Step, accelerate, turn_to
from dipfast.fit.plan import FitPlan
from dipfast.fit.step import FitState, fit_step
from dipfast.fit.stop import Choice, choose_stop
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
        self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine
    ) -> tuple[FitState, Step]:
        """Return a state at its beginning, and the step that changes it. What the last call returned is overwritten."""
        turn_to(machine)
        choice = choose_stop(plan, problem, config["input"])
        key = (problem.signature, repr(config), repr(replace(plan, seed=0, stop=choice.stop)), machine)
        if key == self._key:
            self._state.problem.adopt(problem)
            self._state.reset(plan.seed)
        else:
            self.release()  # the old buffers must go before the new ones come
            self._build(problem.to(machine.device), config, plan, machine, choice)
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

    def _build(self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine, choice: Choice) -> None:
        self._state = FitState(problem, config, plan, machine, choice)
        self._step = accelerate(machine, self._state, partial(fit_step, self._state), plan.seed)
        self.built += 1
