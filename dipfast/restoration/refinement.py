"""The refinement of a fit's answer, as the line runs it after the fit and a stored generator runs it again."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit import FitResult
from dipfast.refine import Refined, refine
from dipfast.settings.document import Settings
from dipfast.settings.refine import Refine
from dipfast.settings.shapes import windows_of
from dipfast.tasks import Problem
from dipfast.tasks.problem import NoiseModel, noise_from_json, noise_to_json

CALIBRATION = 1.3  # mean square error over the expected one, for the pilot is not the truth (LOG.md, 2026-12-01)


def refined_result(result: FitResult, problem: Problem, settings: Settings) -> FitResult:
    """Return ``result`` with its image refined where ``settings`` ask for it, and the deviation to be expected.

    Of a fit to the whole picture the refined picture takes the place of the network's, for the distillation.
    """
    noise = problem.expected_residual
    if settings.refine is None or not isinstance(noise, NoiseModel):
        return result
    # As a stored network gives it, in the full range, and back: the same bits when it is rendered again.
    pilot = problem.range.of_full(problem.range.to_full(result.picture))
    found = refined(problem.target, pilot, noise, settings.refine)
    result = replace(result, image=problem.finish(found.picture[None]), deviation=None)
    if not is_frozen(settings):
        result = replace(result, picture=found.picture[None].clamp(0, 1))
    if settings.fit.uncertainty is False:
        return result
    deviation = (CALIBRATION * found.error[None]).sqrt() * problem.range.width
    return replace(result, deviation=deviation if problem.keep is None else deviation * (problem.keep <= 0.5))


def refined(noisy: Tensor, pilot: Tensor, noise: NoiseModel, settings: Refine) -> Refined:
    """Return the refinement of ``noisy`` by ``pilot``, [1, C, H, W] both in the unit range."""
    pilot = pilot.clamp(0, 1)
    expected, variance = noise.expected(pilot), noise.deviation(pilot).square().expand_as(pilot)
    return refine(noisy[0], pilot[0], expected[0], variance[0], settings)


def is_frozen(settings: Settings) -> bool:
    """Return whether the stored generator is the pilot's network, with frozen statistics."""
    return windows_of(settings.generator, settings.fit) is not None


def stored_refinement(problem: Problem, settings: Settings) -> dict[str, Any] | None:
    """Return what a stored generator needs for its refinement, as JSON; None where there is none.

    A generator that is distilled onto the refined picture needs nothing.
    """
    noise = problem.expected_residual
    if settings.refine is None or not is_frozen(settings) or not isinstance(noise, NoiseModel):
        return None
    return {"settings": settings.refine.model_dump(mode="json"), "noise": noise_to_json(noise)}


def refined_again(noisy: Tensor, pilot: Tensor, stored: dict[str, Any]) -> Tensor:  # [1, C, H, W]
    """Return the refined picture in the unit range, as ``stored`` by a fit says.

    Raises UsageError for what no fit stores.
    """
    try:
        settings, noise = Refine.from_json(stored["settings"]), noise_from_json(stored["noise"])
        return refined(noisy, pilot, noise, settings).picture[None]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the generator's refinement cannot be read ({type(error).__name__}: {reason})") from None
