"""When a fit stops, and which picture it returns: the choice of a criterion. The criteria are in the other files.

`fit.stop: auto` stands for those that measured best for the task (LOG.md, 2026-11-23 to 2026-11-24).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.blind import blind_mask
from dipfast.fit.stop.criterion import Criterion, EmaVariance, Fixed, WindowedVariance
from dipfast.fit.stop.residual import Blocks, Discrepancy, HeldOut, Sure
from dipfast.settings.fit import Fit
from dipfast.settings.generator import ImageInput, Latent
from dipfast.settings.stop import (
    AutoStop,
    BlocksStop,
    DiscrepancyStop,
    EmaVarianceStop,
    FixedStop,
    HeldOutStop,
    Stop,
    SureStop,
    WindowedVarianceStop,
)
from dipfast.tasks import Problem

SMALLEST_SIDE = 16  # pixels, for which a grid of blocks can be seen


@dataclass(frozen=True)
class Choice:
    """A criterion, and why it was chosen."""

    stop: Stop
    because: str | None = None  # None: it was asked for by name


FIXED = Choice(FixedStop())


def choose_stop(settings: Fit, problem: Problem, latent: Latent) -> Choice:
    """Return what `auto` stands for, or what ``settings`` ask for."""
    if not isinstance(settings.stop, AutoStop):
        return Choice(settings.stop)
    if settings.posterior is not None:
        return Choice(FixedStop(), "a chain of samples takes all its steps")
    if problem.coding is not None and problem.coding.known:
        known = f"JPEG's quality is {problem.facts['quality_source']}: {problem.facts['quality']}"
        return Choice(DiscrepancyStop(), known)
    if problem.block is not None and min(problem.shape[1:]) < SMALLEST_SIDE:
        return Choice(FixedStop(), "the picture is too small to show a grid of blocks")
    if problem.block is not None:
        return Choice(BlocksStop(), f"a codec worked in blocks of {problem.block}")
    if isinstance(latent, ImageInput) and latent.blind is not None:
        return Choice(EmaVarianceStop(), "a network with blind spots leaves the residual as it is")
    if problem.expected_residual is None:
        return Choice(FixedStop(), "the task knows no noise level")
    if problem.facts.get("sigma") == 0:
        return Choice(FixedStop(), "no noise was found")
    return Choice(DiscrepancyStop(), _noise(problem.facts))


def _noise(facts: Mapping[str, float | str]) -> str:
    if "peak" in facts:
        return f"photon noise of peak {facts['peak']:g}"
    return f"sigma is {facts['sigma_source']}: {facts['sigma']:g}" if "sigma" in facts else "the noise is known"


def make_stop(stop: Stop, picture: Tensor, problem: Problem, steps: int, latent: Latent) -> Criterion:
    """Return the criterion ``stop``, which is not `auto`, for pictures like ``picture`` [1, C, H, W].

    Raises UsageError for a criterion that the task cannot have.
    """
    mask = blind_mask(latent, problem.noise_correlation)
    blind = None if mask is None else mask.share
    match stop:
        case EmaVarianceStop():
            return EmaVariance(picture, stop, blind)
        case WindowedVarianceStop():
            return WindowedVariance(picture, stop, steps)
        case HeldOutStop():
            if isinstance(latent, ImageInput) and blind is None:
                raise UsageError("fit.stop is held-out, and generator.input.type image shows what is held out")
            return HeldOut(picture, stop, problem)
        case SureStop():
            return Sure(picture, problem, latent.type)
        case BlocksStop():
            return Blocks(picture, stop, problem)
        case DiscrepancyStop():
            return Discrepancy(picture, stop, problem, blind)
    return Fixed(picture)
