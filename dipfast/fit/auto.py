"""`fit.stop: auto`: which criterion suits a problem, and why. Those that measured best stand in LOG.md."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dipfast.fit.plan import FitPlan
from dipfast.tasks import Problem

FIXED = {"type": "fixed"}
DISCREPANCY = {"type": "discrepancy", "factor": "auto"}
STILLEST = {"type": "ema-variance", "patience": 0.2, "min_steps": 10, "alpha": "auto"}
BLOCKS = {"type": "blocks", "ratio": 1.05}
SMALLEST_SIDE = 16  # pixels, that a grid of blocks can be seen in


@dataclass(frozen=True)
class Choice:
    """A criterion, as the manifest's `fit.stop` has it, and why it was taken."""

    stop: Mapping[str, Any]
    because: str | None = None  # None: it was asked for by name


def choose_stop(plan: FitPlan, problem: Problem, latent: Mapping[str, Any]) -> Choice:
    """What `auto` stands for; what was asked for by name stays as it is. ``latent``: the generator's input."""
    if plan.stop["type"] != "auto":
        return Choice(plan.stop)
    if plan.posterior is not None:
        return Choice(FIXED, "a chain of samples takes all its steps")
    if problem.coding is not None and problem.coding.known:
        return Choice(DISCREPANCY, f"JPEG's quality is {problem.facts['quality_source']}: {problem.facts['quality']}")
    if problem.block is not None and min(problem.shape[1:]) < SMALLEST_SIDE:
        return Choice(FIXED, "the picture is too small to show a grid of blocks")
    if problem.block is not None:
        return Choice(BLOCKS, f"a codec worked in blocks of {problem.block}")
    if latent.get("blind") is not None:
        return Choice(STILLEST, "a network with blind spots leaves the residual as it is")
    if problem.expected_residual is None:
        return Choice(FIXED, "the task knows no noise level")
    if problem.facts.get("sigma") == 0:
        return Choice(FIXED, "no noise was found")
    return Choice(DISCREPANCY, _noise(problem.facts))


def _noise(facts: Mapping[str, float | str]) -> str:
    if "peak" in facts:
        return f"photon noise of peak {facts['peak']:g}"
    return f"sigma is {facts['sigma_source']}: {facts['sigma']:g}" if "sigma" in facts else "the noise is known"


def settle(plan: FitPlan, problem: Problem, latent: Mapping[str, Any]) -> tuple[FitPlan, Choice]:
    """``plan`` with the criterion that `auto` stands for."""
    choice = choose_stop(plan, problem, latent)
    return replace(plan, stop=choice.stop), choice
