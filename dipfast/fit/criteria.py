"""From the manifest's `fit.stop` to the criterion that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.blind import spots_of
from dipfast.fit.blocks import Blocks
from dipfast.fit.stop import Discrepancy, EmaVariance, Fixed, HeldOut, Sure, WindowedVariance
from dipfast.tasks import Problem


def make_stop(
    config: Mapping[str, Any], picture: Tensor, problem: Problem, steps: int, latent: Mapping[str, Any]
) -> Fixed:
    """The criterion that ``config`` (the manifest's `fit.stop`) names, for pictures like ``picture`` [1, C, H, W].

    ``latent`` is the manifest's `generator.input`. Raises UsageError for a criterion that the task cannot have.
    """
    spots = spots_of(latent, problem.noise_correlation)
    blind = None if spots is None else spots.share
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
