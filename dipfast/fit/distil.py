"""A generator of the picture that is kept: a short distillation after the fit, without jitter.

The kept picture is an average of outputs, and no weights of the fit render it: the last are 30 to 43 dB from it, their
moving average 34 to 49. Beginning with that average, a few steps of Muon fit the picture, at the latent of the fit with
nothing hidden. They do not move the head: it is solved for in each step, and once more after the last.

The trunks of several seeds are kept side by side under one head, and moved together. One network alone (`fit.store:
one`) takes a K-th of the bytes and of the time to render, and is some 0.1 dB lower. Measurements are in LOG.md
(2026-11-24 and 2026-11-28); `dipfast bench render RUN` prints those of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast.fit.engine import loss_scale
from dipfast.fit.loop import Cancelled
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step
from dipfast.fit.result import FitResult
from dipfast.fit.slots import Course
from dipfast.generators import SkipNet
from dipfast.settings.fit import Fit, Muon

SHARE = 0.05  # of the steps of all the fit's seeds: a step here is cheaper, the last head costs half of one
REFINED_SHARE = 0.25  # the same where the picture was refined, which no average of weights is near to
POINTS = 4096  # pixels that the head is solved on, twice as many for a head over several trunks
SHARES = (1.0, 0.5, 0.0)  # of a step of a head over several trunks
RIDGE = 1e-6  # over the mean of the normal equations' diagonal
TURN = 0.007  # of a filter by the first step, over its norm, as only its direction counts; over root K for K trunks
CALMED = 0.7  # factor of the rate after a step that led away: some fits bear smaller turns than others
MUON = Muon(momentum=0.5, newton_schulz_steps=3)


@dataclass(frozen=True)
class Distilled:
    """``generator`` renders the kept picture with ``parity_db`` of PSNR in float32; infinity where they are equal."""

    generator: SkipNet
    parity_db: float
    steps: int


def distil_steps(result: FitResult, settings: Fit, share: float = SHARE) -> int:
    """Return the steps of a distillation, each of which moves every trunk. Steps of smaller fits count by pixels."""
    pixels = result.picture[0, 0].numel()
    steps = result.steps + sum(count * height * width / pixels for count, (height, width) in result.coarse)
    return int(share * steps * (settings.seeds if settings.store == "one" else 1))


def distilling(
    module: SkipNet,  # with the averaged weights
    latent: Tensor,  # as `generators.latent_of` gives it
    picture: Tensor,  # [1, C, H, W] in [0, 1], the network's averaged output, nothing put back
    steps: int,
    dtype: torch.dtype,
    cancelled: Callable[[], bool] | None = None,
) -> Course[Distilled]:
    """Make ``module`` render ``picture`` at ``latent``, by mean squares, step by step.

    The rate falls after each step that led away, and the nearest of all steps is kept. Convolutions run in ``dtype``.
    The same arguments give the same bits. Raises Cancelled.
    """
    device = module.head.weight.device
    parameters = FlatParameters(module, device)
    latent, picture = latent.to(device), picture.to(device)
    module.head.requires_grad_(False)  # its gradients stay zero, and so do its steps
    nearest, error = parameters.values.clone(), math.inf
    rate = TURN / math.sqrt(1 + len(module.others)) * _filter_norm(module)
    moments, scale = OptimizerState.zeros_like(nearest), loss_scale(dtype, picture.numel())
    for step in range(steps):
        if cancelled is not None and cancelled():
            raise Cancelled("cancelled after the last step")
        features = module.features(latent, dtype)
        _aim_head(module, features.detach(), picture)
        loss = (module.picture(features) - _like(picture, features)).square().mean()
        yield
        if float(loss.detach()) < error:
            nearest, error = parameters.values.clone(), float(loss.detach())
        else:
            rate *= CALMED
        parameters.grads.zero_()
        (loss * scale).backward()
        with torch.no_grad():
            parameters.grads.div_(scale)
            muon = MUON.model_copy(update={"lr": rate * (1 - step / steps)})
            optimizer_step(muon, parameters, moments, dtype, fused=module.fused)
    exact = _solve_head(module, latent, picture)
    if not exact < error:  # the steps led away
        parameters.values.copy_(nearest)
        exact = _solve_head(module, latent, picture)
    module.head.requires_grad_(True)
    return Distilled(module, decibel(exact), steps)


@torch.no_grad()
def as_it_is(module: SkipNet, latent: Tensor, picture: Tensor) -> Distilled:
    """Return ``module`` as it is, for a fit without steps."""
    device = module.head.weight.device
    return Distilled(module, decibel(_distance(module(latent.to(device)), picture.to(device))), 0)


def _filter_norm(module: nn.Module) -> float:
    """Return the mean norm of the filters of all convolutions."""
    norms = [p.detach().flatten(1).norm(dim=1) for p in module.parameters() if p.dim() == 4]
    return float(torch.cat(norms).mean())


def decibel(error: float) -> float:
    """Return the PSNR of a mean square error."""
    return -10 * math.log10(error) if error else math.inf


@torch.no_grad()
def _aim_head(module: SkipNet, features: Tensor, picture: Tensor) -> None:
    """Take one Gauss-Newton step of the head towards ``picture``, by about `POINTS` of its pixels."""
    points = 2 * POINTS if len(module.others) else POINTS
    every = max(1, picture[0, 0].numel() // points) | 1  # odd, so that columns change from row to row
    known, target = (_columns(x, every) for x in (features, _like(picture, features)))
    change = _gauss_newton(known, module.head, target, module.sigmoid)
    change = torch.where(change.isfinite().all(), change, 0.0)
    if len(module.others):
        change = _shortened(change, known, module.head, target, module.sigmoid)
    module.head.weight += change[:, :-1, None, None]
    module.head.bias += change[:, -1]  # type: ignore[operator]


@torch.no_grad()
def _solve_head(module: SkipNet, latent: Tensor, picture: Tensor) -> float:
    """Do the same in float32, keep it if it brings ``module`` nearer, and return the mean square distance."""
    features, head = module.features(latent, torch.float32), module.head
    before = {name: value.clone() for name, value in head.state_dict().items()}
    error = _distance(module.picture(features), _like(picture, features))
    _aim_head(module, features, picture)
    moved = _distance(module.picture(features), _like(picture, features))
    if not moved < error:
        head.load_state_dict(before)
    return moved if moved < error else error


def _like(picture: Tensor, features: Tensor) -> Tensor:  # [1, C, H, W] -> the same, or [4, C, H / 2, W / 2]
    """Return ``picture`` in phases if ``features`` are."""
    return picture if len(features) == 1 else F.pixel_unshuffle(picture.transpose(0, 1), 2).transpose(0, 1)


def _columns(x: Tensor, every: int) -> Tensor:  # [P, C, H, W] -> [C, P H W / every]
    return x.float().flatten(2)[..., ::every].transpose(0, 1).flatten(1)


def _shortened(
    change: Tensor,  # [C, U + 1]
    features: Tensor,  # [U, N]
    head: nn.Conv2d,
    target: Tensor,  # [C, N]
    sigmoid: bool,
) -> Tensor:  # [C, U + 1]
    """Return all, half or nothing of ``change``, for each channel what comes nearest: in dark ones it overshoots."""
    weights = torch.cat((head.weight.flatten(1), head.bias[:, None]), dim=1)  # type: ignore[index]
    tried = torch.stack([weights + share * change for share in SHARES])  # [3, C, U + 1]
    y = tried[..., :-1] @ features + tried[..., -1:]
    errors = ((y.sigmoid() if sigmoid else y) - target).square().mean(-1)  # [3, C]
    return change * change.new_tensor(SHARES)[errors.argmin(0)][:, None]


def _gauss_newton(features: Tensor, head: nn.Conv2d, target: Tensor, sigmoid: bool) -> Tensor:  # [C, U + 1]
    """Return what solves the normal equations, in float64, for each channel's weights and bias."""
    y = head.weight.flatten(1) @ features + head.bias[:, None]  # type: ignore[index]
    y = (y.sigmoid() if sigmoid else y).double()  # [C, N]
    slopes = F.pad(features.double(), (0, 0, 0, 1), value=1.0).expand(len(y), -1, -1)  # [C, U + 1, N]
    slopes = slopes * (y * (1 - y))[:, None] if sigmoid else slopes
    normal, right = slopes @ slopes.mT, (slopes @ (target - y)[..., None])[..., 0]
    diagonal = normal.diagonal(dim1=1, dim2=2)
    diagonal.add_((RIDGE * diagonal.mean()).clamp_min(1e-30))  # where every pixel is saturated, nothing moves
    return torch.linalg.solve_ex(normal, right).result.float()


def _distance(output: Tensor, picture: Tensor) -> float:
    """Return the mean square distance, with both cut to [0, 1]."""
    return float((output.clamp(0, 1) - picture.clamp(0, 1)).square().mean())
