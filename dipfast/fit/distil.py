"""One set of weights for the picture that is kept: a short distillation behind the fit, without jitter.

The kept picture is an average of outputs, and no weights of the fit render it: the last are 30 to 43 dB from it,
their moving average 34 to 49. A few steps of Muon from that average, onto the picture, at the fitted latent, bring it
to 42 dB and more, for about a twentieth of the fit's time (LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dipfast.fit.engine import loss_scale
from dipfast.fit.lane import Course, finish
from dipfast.fit.loop import Cancelled
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step
from dipfast.generators import twin

SHARE = 0.05  # of the fit's steps
LEARNING_RATE = 6e-3  # falls to zero over the distillation
MUON = {"type": "muon", "momentum": 0.7, "newton_schulz_steps": 3}


@dataclass(frozen=True)
class Distilled:
    """``generator`` renders the kept picture with ``parity_db`` of PSNR in float32; infinity where they are equal."""

    generator: nn.Module
    parity_db: float
    steps: int


def distil(
    generator: nn.Module,
    averaged: Tensor,  # [P], as `FlatParameters` has them, on the generator's device
    latent: Tensor,  # [1, D, H, W]
    picture: Tensor,  # [1, C, H, W] in [0, 1], the network's averaged output, nothing put back
    steps: int,
    dtype: torch.dtype,
    cancelled: Callable[[], bool] | None = None,
) -> Distilled:
    """A copy of ``generator`` that renders ``picture`` at ``latent``, by mean squares and ``steps`` of Muon.

    It begins at the last or at the averaged weights, whichever are nearer, and keeps the nearest of all steps.
    Convolutions run in ``dtype``. The same arguments give the same bits. Raises Cancelled.
    """
    return finish(distilling(generator, averaged, latent, picture, steps, dtype, cancelled))


def distilling(
    generator: nn.Module,
    averaged: Tensor,  # as in `distil`
    latent: Tensor,
    picture: Tensor,
    steps: int,
    dtype: torch.dtype,
    cancelled: Callable[[], bool] | None = None,
) -> Course[Distilled]:
    """`distil`, step by step."""
    module = twin(generator)
    parameters = FlatParameters(module, averaged.device)
    latent, picture = latent.to(averaged.device), picture.to(averaged.device)
    last = parameters.values.clone()
    if not steps and torch.equal(averaged, last):  # a fit without steps: nothing can come nearer
        return Distilled(module, _decibel(_error(module, latent, picture, torch.float32)), steps)
    error = _error(module, latent, picture, dtype)
    parameters.values.copy_(averaged)
    if not _error(module, latent, picture, dtype) < error:
        parameters.values.copy_(last)
    nearest, error = parameters.values.clone(), math.inf
    moments, scale = OptimizerState.zeros_like(averaged), loss_scale(dtype, picture.numel())
    for step in range(steps + 1):
        if cancelled is not None and cancelled():
            raise Cancelled("cancelled behind the last step")
        loss = (module(latent, dtype) - picture).square().mean()
        yield
        if float(loss.detach()) < error:
            nearest, error = parameters.values.clone(), float(loss.detach())
        if step < steps:
            parameters.grads.zero_()
            (loss * scale).backward()
            with torch.no_grad():
                parameters.grads.div_(scale)
                config = MUON | {"lr": LEARNING_RATE * (1 - step / steps)}
                optimizer_step(config, parameters, moments, dtype)
    parameters.values.copy_(nearest)
    exact = _error(module, latent, picture, torch.float32)
    return Distilled(module, _decibel(exact), steps)


def _decibel(error: float) -> float:
    """PSNR of a mean square error."""
    return -10 * math.log10(error) if error else math.inf


@torch.no_grad()
def _error(module: nn.Module, latent: Tensor, picture: Tensor, dtype: torch.dtype) -> float:
    """Mean square distance of what is rendered from ``picture``, both in [0, 1]."""
    return float((module(latent, dtype).clamp(0, 1) - picture.clamp(0, 1)).square().mean())
