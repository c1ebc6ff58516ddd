"""Objectives: what the network is shown in a step, and how its output is judged.

`choose_objective` takes one of them once for a fit, so that a step asks no questions. Each is called with the member
that takes the step and returns the input of the network, to which the step adds its jitter, and the function that gives
the loss of its output. All random numbers come from the member's generator, and nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, final

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.blind import BlindMask, blind_mask, hide
from dipfast.fit.stop import Criterion, HeldOut, Sure
from dipfast.tasks import Problem
from dipfast.tasks.coding import CELL, Coding
from dipfast.tasks.problem import WHITE, ClippedGaussian

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
    output: Tensor  # [1, C, H, W], of the step before
    random: torch.Generator
    forward: Callable[..., Tensor]  # latent, dtype -> output


Predict = Callable[[Tensor], Tensor]  # output [1, C, H, W] -> A x [1, C, h, w], as the data term compares it
Judge = Callable[[Tensor, Tensor], Losses]  # output of the network, and the input that it had
Objective = Callable[[Network], tuple[Tensor, Judge]]


def choose_objective(problem: Problem, latent: Mapping[str, Any], stop: Criterion, dtype: torch.dtype) -> Objective:
    """Return the objective of a fit. ``latent`` is the manifest's `generator.input`; ``dtype`` that of convolutions.

    Raises UsageError for what ``latent`` asks for and the task cannot have.
    """
    predict: Predict = partial(_without_held_out, problem, stop) if isinstance(stop, HeldOut) else problem.operator
    objective = _shown(problem, latent, predict)
    return Risk(objective, stop, dtype) if isinstance(stop, Sure) else objective


def _without_held_out(problem: Problem, stop: HeldOut, output: Tensor) -> Tensor:
    return stop.fitted(problem.operator(output), problem.target)


def _shown(problem: Problem, latent: Mapping[str, Any], predict: Predict) -> Objective:
    """Return the objective by what the network is shown: pairs of noise, all but blind spots, a JPEG, or the latent."""
    noise, strength = problem.expected_residual, latent.get("recorrupt")
    if latent.get("reach") == "auto" and problem.grain != WHITE:
        strength = None  # pairs are independent only where the noise is white
    if strength is not None and not isinstance(noise, ClippedGaussian):
        raise UsageError("generator.input.recorrupt needs a denoise task with gaussian noise")
    if latent.get("recompress"):
        if problem.coding is None:
            raise UsageError("generator.input.recompress needs task jpeg of some quality")
        return Recompressed(problem, predict, problem.coding)
    mask = blind_mask(latent, problem.grain)
    if mask is None:
        return Plain(problem, predict)
    if strength is None or not isinstance(noise, ClippedGaussian):
        return BlindSpots(problem, predict, mask)
    return Recorrupted(problem, predict, mask, noise, strength)


@final
@dataclass(frozen=True)
class Plain:
    """The latent as it is, and the task's data term on all values."""

    problem: Problem
    predict: Predict

    def __call__(self, network: Network) -> tuple[Tensor, Judge]:
        return network.latent, self.judge

    def judge(self, output: Tensor, shown: Tensor) -> Losses:
        """Return the data term of ``output``."""
        return Losses(self.problem.data_term(self.predict(output), self.problem.target))


@final
@dataclass(frozen=True)
class Recompressed:
    """The latent quantised again, as JPEG does it, on a grid that is elsewhere in each step (Nosratinia 2001)."""

    problem: Problem
    predict: Predict
    coding: Coding

    def __call__(self, network: Network) -> tuple[Tensor, Judge]:
        corner = torch.randint(CELL, (2,), generator=network.random, device=network.latent.device)
        return self.coding.again(network.latent, corner), Plain(self.problem, self.predict).judge


@final
@dataclass(frozen=True)
class BlindSpots:
    """The latent with random values hidden, and the data term on those values alone."""

    problem: Problem
    predict: Predict
    mask: BlindMask

    def __call__(self, network: Network) -> tuple[Tensor, Judge]:
        judged, hidden = draw_blind(self.mask, network)
        return hide(network.latent, hidden, self.mask.radius), partial(self.judge, judged)

    def judge(self, judged: Tensor, output: Tensor, shown: Tensor) -> Losses:
        """Return the data term of ``output`` where the network is ``judged``."""
        target = self.problem.target
        return Losses(self.problem.data_term(torch.where(judged, self.predict(output), target), target))


@final
@dataclass(frozen=True)
class Recorrupted:
    """Blind spots, and beside them pairs of noise: a judgement of the values that the network sees, too.

    If the noise is Gaussian of known deviation, more of it, n, is drawn in each step: the network is shown y + a n and
    compared with y - n / a, whose noises are independent (Recorrupted-to-Recorrupted, Pang et al., CVPR 2021).
    """

    problem: Problem
    predict: Predict
    mask: BlindMask
    noise: ClippedGaussian
    strength: float  # a

    def __call__(self, network: Network) -> tuple[Tensor, Judge]:
        judged, hidden = draw_blind(self.mask, network)
        picture = hide(network.latent, hidden, self.mask.radius)
        drawn = torch.empty_like(network.noise).normal_(generator=network.random).permute(0, 3, 1, 2)
        shown, aim = recorrupt(picture, hidden, drawn * self.noise.deviation(network.output), self.strength)
        return shown, partial(self.judge, judged, hidden, aim)

    def judge(self, judged: Tensor, hidden: Tensor, aim: Tensor, output: Tensor, shown: Tensor) -> Losses:
        """Return the data term of ``output`` where it is ``judged``, and its distance from ``aim`` where it saw."""
        fitted, target = self.predict(output), self.problem.target
        blind = self.problem.data_term(torch.where(judged, fitted, target), target)
        return Losses(blind, SEEN_WEIGHT * ((fitted - aim).square() * ~hidden).mean())


@final
@dataclass(frozen=True)
class Risk:
    """Stein's unbiased risk estimate in place of the loss, by a second forward pass (`dipfast.fit.stop.Sure`)."""

    objective: Objective
    stop: Sure
    dtype: torch.dtype

    def __call__(self, network: Network) -> tuple[Tensor, Judge]:
        shown, judge = self.objective(network)
        return shown, partial(self.judge, network, judge)

    def judge(self, network: Network, judge: Judge, output: Tensor, shown: Tensor) -> Losses:
        """Return the loss of ``output`` and the penalty that makes it a risk."""
        losses, stop = judge(output, shown), self.stop
        stop.probe.normal_(generator=network.random)
        shifted = network.forward(shown.add(stop.probe, alpha=stop.probe_step), self.dtype)
        return losses._replace(reported=losses.reported + stop.penalty(output, shifted))


def draw_blind(mask: BlindMask, network: Network) -> tuple[Tensor, Tensor]:  # [1, C, H, W] bool, both
    """Draw the values that the network is judged on in this step, and all that are hidden with them."""
    judged = mask.draw(network.noise.uniform_(generator=network.random).permute(0, 3, 1, 2))
    return judged, mask.cover(judged)


def recorrupt(
    picture: Tensor,  # [1, C, H, W], y, with something in place of what is hidden
    hidden: Tensor,  # [1, C, H, W] bool
    drawn: Tensor,  # [1, C, H, W], n, noise of the picture's own kind
    strength: float,  # a
) -> tuple[Tensor, Tensor]:  # [1, C, H, W], both
    """Return what the network is shown, y + a n where it sees, and what it is compared with there, y - n / a."""
    shown = torch.where(hidden, picture, picture + strength * drawn)
    return shown, picture - drawn / strength
