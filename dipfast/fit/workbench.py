"""The buffers and the engine's program of one bucket, kept for the next item of the same bucket.

One compilation or capture serves every item of a bucket: the next one re-initialises weights, moments, latent and
target in place and comes out with the bits that it would have had alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from dipfast.fit.auto import settle
from dipfast.fit.engine import Machine, Step, accelerate, turn_to
from dipfast.fit.plan import FitPlan
from dipfast.fit.step import FitState, fit_step
from dipfast.tasks import Problem


class Workbench:
    """Holds one bucket at a time; `built` counts the programs that it has built."""

    def __init__(self) -> None:
        self.built = 0
        self._half: Workbench | None = None
        self._key: tuple | None = None
        self._state: FitState
        self._step: Step

    def lay_out(
        self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine
    ) -> tuple[FitState, Step]:
        """A state at its beginning and the step that moves it. What the last call gave out is overwritten."""
        turn_to(machine)
        plan, choice = settle(plan, problem, config["input"])
        key = (problem.signature, repr(config), repr(replace(plan, seed=0)), machine)
        if key == self._key:
            self._state.problem.adopt(problem)
            self._state.reset(plan.seed)
        else:
            self.release()  # the old buffers go before the new ones come
            self._build(problem.to(machine.device), config, plan, machine)
            self._key = key
        self._state.choice = choice
        return self._state, self._step

    @property
    def half(self) -> Workbench:
        """The one on which its pictures are fitted at half of their size first."""
        if self._half is None:
            self._half = Workbench()
        return self._half

    @property
    def programs(self) -> int:
        """Built so far, those for smaller sizes among them."""
        return self.built + (0 if self._half is None else self._half.programs)

    def release(self) -> None:
        """Let go of the buffers and the program: the next item has others."""
        self._key = None
        if self._half is not None:
            self._half.release()
        if hasattr(self, "_state"):
            del self._state, self._step

    def _build(self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine) -> None:
        self._state = FitState(problem, config, plan, machine)
        step = partial(fit_step, self._state, problem, plan, machine.dtype)
        self._step = accelerate(machine, self._state, step, plan.seed)
        self.built += 1
