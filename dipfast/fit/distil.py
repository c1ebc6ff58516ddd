"""One set of weights for the picture that is kept: a short distillation behind the fit, without jitter.

The kept picture is an average of outputs, and no weights of the fit render it: the last are 30 to 43 dB from it,
their moving average 34 to 49. The head is solved for, a few steps of Muon follow, onto the picture, at the fitted
latent, and the head is solved for again: 42 dB and more, and against the truth within 0.05 dB of the kept picture, for
about a twentieth of the fit's time (LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast.fit.engine import loss_scale
from dipfast.fit.lane import Course, finish
from dipfast.fit.loop import Cancelled
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step
from dipfast.generators import SkipNet, twin
from dipfast.kernels import ops

SHARE = 0.04  # of the steps of all the fit's seeds; the head costs as much as one step and a half
BAND = 1 << 14  # pixels of the normal equations at a time
RIDGE = 1e-6  # over the mean of the normal equations' diagonal
LEARNING_RATE = 9e-3  # falls to zero over the distillation
MUON = {"type": "muon", "momentum": 0.8, "newton_schulz_steps": 3}


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

    It begins at the averaged weights and keeps the nearest of all steps. Before and behind them the head is solved for.
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
    assert isinstance(module, SkipNet)
    parameters = FlatParameters(module, averaged.device)
    latent, picture = latent.to(averaged.device), picture.to(averaged.device)
    if not steps and torch.equal(averaged, parameters.values):  # a fit without steps: nothing can come nearer
        with torch.no_grad():
            return Distilled(module, _decibel(_distance(module(latent), picture)), steps)
    parameters.values.copy_(averaged)
    _solve_head(module, latent, picture, dtype)
    nearest, error = parameters.values.clone(), math.inf
    moments, scale = OptimizerState.zeros_like(averaged), loss_scale(dtype, picture.numel())
    for step in range(steps):
        if cancelled is not None and cancelled():
            raise Cancelled("cancelled behind the last step")
        loss = (module(latent, dtype) - picture).square().mean()
        yield
        if float(loss.detach()) < error:
            nearest, error = parameters.values.clone(), float(loss.detach())
        parameters.grads.zero_()
        (loss * scale).backward()
        with torch.no_grad():
            parameters.grads.div_(scale)
            optimizer_step(MUON | {"lr": LEARNING_RATE * (1 - step / steps)}, parameters, moments, dtype)
    exact = _solve_head(module, latent, picture, torch.float32)
    if not exact < error:  # the steps led away
        parameters.values.copy_(nearest)
        exact = _solve_head(module, latent, picture, torch.float32)
    return Distilled(module, _decibel(exact), steps)


def _decibel(error: float) -> float:
    """PSNR of a mean square error."""
    return -10 * math.log10(error) if error else math.inf


@torch.no_grad()
def _solve_head(module: SkipNet, latent: Tensor, picture: Tensor, dtype: torch.dtype) -> float:
    """One Gauss-Newton step of the head towards ``picture``, kept where it brings ``module`` nearer.

    Returns the mean square distance then, convolutions in ``dtype``.
    """
    features = module.features(latent, dtype).float()
    features = (ops.interleave(features) if len(features) > 1 else features)[0].flatten(1)  # [U, H W]
    target, head = picture[0].flatten(1), module.head  # [C, H W]
    change = _gauss_newton(features, head, target, module.sigmoid)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    error = _distance(_headed(features, head, module.sigmoid), target)
    head.weight += change[:, :-1, None, None]
    head.bias += change[:, -1]  # type: ignore[operator]
    moved = _distance(_headed(features, head, module.sigmoid), target)
    if not moved < error:
        head.load_state_dict(before)
    return min(moved, error) if math.isfinite(moved) else error


def _gauss_newton(features: Tensor, head: nn.Conv2d, target: Tensor, sigmoid: bool) -> Tensor:  # [C, U + 1]
    """What solves the normal equations, in float64, for each channel's weights and bias."""
    count, size = len(target), len(features) + 1
    normal = torch.zeros(count, size, size, dtype=torch.float64, device=target.device)
    right = normal.new_zeros(count, size)
    for part, wanted in zip(features.split(BAND, dim=1), target.split(BAND, dim=1), strict=True):
        y = _headed(part, head, sigmoid).double()
        slopes = F.pad(part.double(), (0, 0, 0, 1), value=1.0).expand(count, -1, -1)  # [C, U + 1, N]
        slopes = slopes * (y * (1 - y))[:, None] if sigmoid else slopes
        normal += slopes @ slopes.mT
        right += (slopes @ (wanted - y)[..., None])[..., 0]
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal.add_((RIDGE * diagonal.mean()).clamp_min(1e-30))  # where every pixel is saturated, nothing moves
    return torch.linalg.solve_ex(normal, right).result.float()


def _headed(features: Tensor, head: nn.Conv2d, sigmoid: bool) -> Tensor:  # [U, N] -> [C, N]
    y = head.weight.flatten(1) @ features + head.bias[:, None]  # type: ignore[index]
    return y.sigmoid() if sigmoid else y


def _distance(output: Tensor, picture: Tensor) -> float:
    """Mean square distance, both cut to [0, 1]."""
    return float((output.clamp(0, 1) - picture.clamp(0, 1)).square().mean())
