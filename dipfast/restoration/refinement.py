"""The refinement of a fit's answer, as the line runs it after the fit and a stored generator runs it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.errors import UsageError
from dipfast.fit import FitResult
from dipfast.refine import refine
from dipfast.settings.document import Settings
from dipfast.settings.refine import Refine
from dipfast.settings.shapes import windows_of
from dipfast.tasks import Problem
from dipfast.tasks.problem import NoiseBound, NoiseModel, noise_from_json, noise_to_json

CALIBRATION = 1.3  # mean square error over the expected one, for the pilot is not the truth (LOG.md, 2026-12-01)
RESIDUAL = 2.0  # of a residual's mean square, taken for the variance of noise that is not white (LOG.md, 2026-12-01)
AROUND = 33  # pixels a side of the squares over which a change is compared with the noise
TINY = 1e-12


def is_left_alone(problem: Problem, settings: Settings) -> bool:
    """Return whether a picture is returned as it is without a fit, because no noise was found that would be seen.

    A fit to the whole picture is done all the same, so that its network gives the picture again.
    """
    none = problem.bound is not None and problem.bound.std == 0
    return none and settings.refine is not None and is_frozen(settings)


def refined_result(result: FitResult, problem: Problem, settings: Settings) -> FitResult:
    """Return ``result`` with its image refined where ``settings`` ask for it, and the deviation to be expected.

    Of a fit to the whole picture the refined picture takes the place of the network's, for the distillation.
    """
    noise = problem.expected_residual
    if settings.refine is None or not isinstance(noise, NoiseModel):
        return result
    # As a stored network gives it, in the full range, and back: the same bits when it is rendered again.
    pilot = problem.range.of_full(problem.range.to_full(result.picture))
    found = refined(problem.target, pilot, noise, settings.refine, problem.bound)
    result = replace(result, image=problem.finish(found.picture[None]), deviation=None, applied=found.applied)
    if not is_frozen(settings):
        result = replace(result, picture=found.picture[None].clamp(0, 1))
    if settings.fit.uncertainty is False:
        return result
    deviation = found.error[None].sqrt() * problem.range.width
    return replace(result, deviation=deviation if problem.keep is None else deviation * (problem.keep <= 0.5))


@dataclass(frozen=True)
class Explained:
    """A refined picture of which the noise explains the change."""

    picture: Tensor  # [C, H, W]
    error: Tensor  # [C, H, W], expected squared error
    applied: float  # share of the change that was applied, a mean over the picture


def refined(
    noisy: Tensor, pilot: Tensor, noise: NoiseModel, settings: Refine, bound: NoiseBound | None = None
) -> Explained:
    """Return the refinement of ``noisy`` by ``pilot``, [1, C, H, W] both in the unit range.

    Where nobody told of the noise, ``bound`` limits the change. Between the noisy picture y and its refinement z lie
    y + a (z - y), of which a = sigma^2 / (y - z)^2 has the least expected error if z has none of y's noise: where the
    change is larger than the noise, the rest of it is detail of the picture. A local mean of (y - z)^2 is taken. Of
    noise that is not white the residual tells more than the model does.
    """
    if bound is not None and bound.std == 0:
        return Explained(noisy[0], torch.zeros_like(noisy[0]), 0.0)
    pilot = pilot.clamp(0, 1)
    expected, variance = noise.expected(pilot), noise.deviation(pilot).square().expand_as(pilot)
    if bound is not None and not bound.is_white:
        residual = (noisy - expected).square().mean((2, 3), keepdim=True)
        variance = (RESIDUAL * residual).expand_as(pilot).contiguous()
    found = refine(noisy[0], pilot[0], expected[0], variance[0], settings)
    if bound is None or bound.std is None:
        return Explained(found.picture, CALIBRATION * found.error, 1.0)
    share = (bound.std**2 / _local_mean((noisy[0] - found.picture).square().mean(0)).clamp_min(TINY)).clamp_max(1)
    error = share.square() * CALIBRATION * found.error + (1 - share) * bound.std**2
    return Explained(noisy[0] + share * (found.picture - noisy[0]), error, float(share.mean()))


def _local_mean(values: Tensor) -> Tensor:  # [H, W] -> [H, W]
    """Return means over squares of `AROUND` pixels a side, of the part of them inside the picture."""
    sums = F.avg_pool2d(values[None], (AROUND, 1), 1, (AROUND // 2, 0), count_include_pad=False)
    return F.avg_pool2d(sums, (1, AROUND), 1, (0, AROUND // 2), count_include_pad=False)[0]


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
    stored: dict[str, Any] = {"settings": settings.refine.model_dump(mode="json"), "noise": noise_to_json(noise)}
    return stored if problem.bound is None else stored | {"bound": asdict(problem.bound)}


def refined_again(noisy: Tensor, pilot: Tensor, stored: dict[str, Any]) -> Tensor:  # [1, C, H, W]
    """Return the refined picture in the unit range, as ``stored`` by a fit says.

    Raises UsageError for what no fit stores.
    """
    try:
        settings, noise = Refine.from_json(stored["settings"]), noise_from_json(stored["noise"])
        bound = _bound_from_json(stored["bound"]) if "bound" in stored else None
        return refined(noisy, pilot, noise, settings, bound).picture[None]
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"the generator's refinement cannot be read ({type(error).__name__}: {reason})") from None


def _bound_from_json(tree: dict[str, Any]) -> NoiseBound:
    return NoiseBound(None if tree["std"] is None else float(tree["std"]), bool(tree["is_white"]))
