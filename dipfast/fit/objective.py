"""Objectives: what the network is shown in a step, and how its output is judged.

`choose_objective` chooses one of them once for a fit. An objective is called with the member that takes the step, and
returns the input of the network, to which the step adds its jitter, and the function that gives the loss of its output.
All random numbers come from the member's generator, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.blind import BlindMask, blind_mask, hide
from dipfast.fit.stop.criterion import Criterion
from dipfast.fit.stop.residual import HeldOut, Sure
from dipfast.settings.generator import ImageInput, Latent
from dipfast.tasks import Problem
from dipfast.tasks.coding import CELL, Coding
from dipfast.tasks.problem import WHITE_NOISE, ClippedGaussian

SEEN_WEIGHT = 0.1  # of an error where the network sees, over that of one where it is blind (LOG.md, 2026-11-24)


class Losses(NamedTuple):
    """``reported``, which the curve shows and the stop criterion uses, and ``extra``, which is minimised with it."""

    reported: Tensor  # 0-D
    extra: Tensor | None = None  # 0-D

    @property
    def total(self) -> Tensor:
        """What is minimised, 0-D."""
        return self.reported if self.extra is None else self.reported + self.extra


class Network(Protocol):
    """What an objective uses of the member that takes a step."""

    latent: Tensor  # [1, D, H, W]
    noise: Tensor  # [1, H, W, D], overwritten by each draw
    deviation: Tensor  # [1, C, H, W], of the noise, at a local mean of what was observed
    random: torch.Generator
    forward: Callable[..., Tensor]  # latent, dtype -> output


Predict = Callable[[Tensor], Tensor]  # output [1, C, H, W] -> A x [1, C, h, w], as it is compared with the target
Judge = Callable[[Tensor, Tensor], Losses]  # output of the network, and the input that it had
Objective = Callable[[Network], tuple[Tensor, Judge]]


def choose_objective(problem: Problem, latent: Latent, stop: Criterion, dtype: torch.dtype) -> Objective:
    """Return the objective of a fit. ``dtype`` is that of convolutions.

    Raises UsageError for what ``latent`` asks for and the task cannot have.
    """
    predict: Predict = stop.predict if isinstance(stop, HeldOut) else problem.operator
    objective = _by_latent(problem, latent, predict)
    return risk(objective, stop, dtype) if isinstance(stop, Sure) else objective


def _by_latent(problem: Problem, latent: Latent, predict: Predict) -> Objective:
    if not isinstance(latent, ImageInput):
        return plain(problem, predict)
    noise, strength = problem.expected_residual, latent.recorrupt
    if latent.reach == "auto" and problem.noise_correlation != WHITE_NOISE:
        strength = None  # pairs are independent only if the noise is white
    if strength is not None and not isinstance(noise, ClippedGaussian):
        raise UsageError("generator.input.recorrupt needs a denoise task with gaussian noise")
    if latent.recompress:
        if problem.coding is None:
            raise UsageError("generator.input.recompress needs task jpeg of some quality")
        return recompressed(problem, predict, problem.coding)
    mask = blind_mask(latent, problem.noise_correlation)
    if mask is None:
        return plain(problem, predict)
    if strength is None or not isinstance(noise, ClippedGaussian):
        return blind_spots(problem, predict, mask)
    return recorrupted(problem, predict, mask, strength)


def plain(problem: Problem, predict: Predict) -> Objective:
    """Show the latent as it is, and judge all values by the task's data term."""
    return lambda network: (network.latent, lambda output, _: _fidelity(problem, predict(output)))


def recompressed(problem: Problem, predict: Predict, coding: Coding) -> Objective:
    """Show the latent quantised again, as JPEG does it, on a grid elsewhere in each step (Nosratinia 2001)."""

    def objective(network: Network) -> tuple[Tensor, Judge]:
        corner = torch.randint(CELL, (2,), generator=network.random, device=network.latent.device)
        return coding.again(network.latent, corner), lambda output, _: _fidelity(problem, predict(output))

    return objective


def blind_spots(problem: Problem, predict: Predict, mask: BlindMask) -> Objective:
    """Hide random values of the latent, and judge those alone by the task's data term."""

    def objective(network: Network) -> tuple[Tensor, Judge]:
        judged, hidden = _draw(mask, network)
        shown = hide(network.latent, hidden, mask.radius)
        return shown, lambda output, _: _fidelity(problem, predict(output), judged)

    return objective


def recorrupted(problem: Problem, predict: Predict, mask: BlindMask, strength: float) -> Objective:
    """Hide random values, and add noise to those that the network sees, so that they can be judged, too.

    If the noise is Gaussian of known deviation, more of it, n, is drawn in each step: the network is shown y + a n and
    compared with y - n / a, whose noises are independent (Recorrupted-to-Recorrupted, Pang et al., CVPR 2021).
    ``strength`` is a.
    """

    def objective(network: Network) -> tuple[Tensor, Judge]:
        judged, hidden = _draw(mask, network)
        picture = hide(network.latent, hidden, mask.radius)
        drawn = torch.empty_like(network.noise).normal_(generator=network.random).permute(0, 3, 1, 2)
        shown, aim = recorrupt(picture, hidden, drawn * network.deviation, strength)
        return shown, lambda output, _: pair_losses(problem, predict(output), judged, hidden, aim)

    return objective


def risk(objective: Objective, stop: Sure, dtype: torch.dtype) -> Objective:
    """Make the loss of ``objective`` Stein's unbiased risk estimate, by a second forward pass (`Sure`)."""

    def estimate(network: Network) -> tuple[Tensor, Judge]:
        shown, judge = objective(network)

        def judge_risk(output: Tensor, shown: Tensor) -> Losses:
            losses = judge(output, shown)
            stop.probe.normal_(generator=network.random)
            shifted = network.forward(shown.add(stop.probe, alpha=stop.probe_step), dtype)
            return losses._replace(reported=losses.reported + stop.penalty(output, shifted))

        return shown, judge_risk

    return estimate


def recorrupt(
    picture: Tensor,  # [1, C, H, W], y, with something in place of what is hidden
    hidden: Tensor,  # [1, C, H, W] bool
    drawn: Tensor,  # [1, C, H, W], n, noise of the picture's own kind
    strength: float,  # a
) -> tuple[Tensor, Tensor]:  # [1, C, H, W], both
    """Return what the network is shown, y + a n where it sees, and what it is compared with there, y - n / a."""
    shown = torch.where(hidden, picture, picture + strength * drawn)
    return shown, picture - drawn / strength


def pair_losses(problem: Problem, fitted: Tensor, judged: Tensor, hidden: Tensor, aim: Tensor) -> Losses:
    """Return the data term where ``fitted`` is ``judged``, and its distance from ``aim`` where the network sees."""
    blind = _fidelity(problem, fitted, judged)
    return blind._replace(extra=SEEN_WEIGHT * ((fitted - aim).square() * ~hidden).mean())


def _fidelity(problem: Problem, fitted: Tensor, judged: Tensor | None = None) -> Losses:
    """Return the data term of ``fitted``, where it is ``judged``."""
    fitted = fitted if judged is None else torch.where(judged, fitted, problem.target)
    return Losses(problem.data_term(fitted, problem.target))


def _draw(mask: BlindMask, network: Network) -> tuple[Tensor, Tensor]:  # [1, C, H, W] bool, both
    """Draw the values that the network is judged on in this step, and all that are hidden with them."""
    judged = mask.draw(network.noise.uniform_(generator=network.random).permute(0, 3, 1, 2))
    return judged, mask.cover(judged)
