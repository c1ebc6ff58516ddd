"""When a fit stops, and which picture it returns: the choice of a criterion. The criteria are in the other files.

`fit.stop: auto` stands for those that measured best for the task (LOG.md, 2026-11-23 to 2026-11-24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.blind import blind_mask
from dipfast.fit.plan import FitPlan
from dipfast.fit.stop.criterion import Criterion, EmaVariance, Fixed, WindowedVariance
from dipfast.fit.stop.residual import Blocks, Discrepancy, HeldOut, Sure
from dipfast.tasks import Problem

FIXED = {"type": "fixed"}
DISCREPANCY = {"type": "discrepancy", "factor": "auto"}
STILLEST = {"type": "ema-variance", "patience": 0.2, "min_steps": 10, "alpha": "auto"}
BLOCKS = {"type": "blocks", "ratio": 1.05}
SMALLEST_SIDE = 16  # pixels, for which a grid of blocks can be seen


@dataclass(frozen=True)
class Choice:
    """A criterion, as the manifest's `fit.stop` has it, and why it was chosen."""

    stop: Mapping[str, Any]
    because: str | None = None  # None: it was asked for by name


def choose_stop(plan: FitPlan, problem: Problem, latent: Mapping[str, Any]) -> Choice:
    """Return what `auto` stands for, or what ``plan`` asks for. ``latent`` is the manifest's `generator.input`."""
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


def make_stop(
    config: Mapping[str, Any], picture: Tensor, problem: Problem, steps: int, latent: Mapping[str, Any]
) -> Criterion:
    """Return the criterion that ``config`` (the manifest's `fit.stop`) names, for pictures like ``picture``.

    ``picture`` is [1, C, H, W], ``latent`` the manifest's `generator.input`. Raises UsageError for a criterion that the
    task cannot have.
    """
    mask = blind_mask(latent, problem.noise_correlation)
    blind = None if mask is None else mask.share
    match config["type"]:
        case "fixed":
            return Fixed(picture)
        case "ema-variance":
            return EmaVariance(picture, config, blind)
        case "windowed-variance":
            return WindowedVariance(picture, config, steps)
        case "held-out":
            if latent["type"] == "image" and blind is None:
                raise UsageError("fit.stop is held-out, and generator.input.type image shows what is held out")
            return HeldOut(picture, config, problem)
        case "sure":
            return Sure(picture, problem, latent["type"])
        case "blocks":
            return Blocks(picture, config, problem)
    return Discrepancy(picture, config, problem, blind)
