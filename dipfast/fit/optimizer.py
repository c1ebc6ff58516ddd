"""Adam, Muon and SGLD as functions over one flat buffer that holds all parameters of a generator.

The parameters are ordered so that all convolutions of one matrix shape are neighbours in the buffer: a group of them is
one view [N, rows, columns], and Muon's products over a group are batched without a copy. After the groups come the
small convolutions, then all parameters of other modules. Moments and the number of steps are tensors on the device, so
that a step reads nothing from the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import torch
from torch import Tensor, nn

from dipfast import ops
from dipfast.errors import UsageError
from dipfast.settings.fit import Adam, Fit, Muon, Sgld
from dipfast.tasks import Problem
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance, WeightedSquare, mean_square

MUON_SMALLEST_SIDE = 9  # a matrix with fewer rows or columns is left to Adam: skip branches, the head
RMS_DECAY, RMS_FLOOR = 0.99, 1e-5  # alpha and lambda of Li et al. (AAAI 2016)


class FlatParameters:
    """All parameters of ``module`` as views of one float32 buffer, and their gradients as views of another.

    Convolution weights keep the channels-last order [O, kH, kW, I] in memory.
    """

    def __init__(self, module: nn.Module, device: torch.device) -> None:
        parameters = self._parameters = sorted(module.parameters(), key=_place)
        size = sum(p.numel() for p in parameters)
        self.values = torch.empty(size, device=device)
        self.grads = torch.zeros(size, device=device)
        start = 0
        for parameter in parameters:
            initial = parameter.data
            parameter.data = _view(self.values[start : start + parameter.numel()], initial.shape)
            parameter.grad = _view(self.grads[start : start + parameter.numel()], initial.shape)
            parameter.data.copy_(initial)
            start += parameter.numel()
        self.groups = _groups(parameters)  # (start, count, rows, columns) of the matrices that Muon takes
        self.rest = sum(count * rows * columns for _, count, rows, columns in self.groups)
        self.kernels = sum(p.numel() for p in parameters if p.dim() == 4)  # the buffer begins with all convolutions

    def grouped(self, flat: Tensor) -> list[Tensor]:
        """Return the groups of matrices that Muon takes as views [N, rows, columns] of ``flat`` [P]."""
        shapes = ((start, (count, rows, columns)) for start, count, rows, columns in self.groups)
        return [flat[start : start + math.prod(shape)].view(shape) for start, shape in shapes]

    def load(self, module: nn.Module) -> None:
        """Copy the parameters of ``module``, which has the same architecture, into the buffer."""
        for mine, theirs in zip(self._parameters, sorted(module.parameters(), key=_place), strict=True):
            mine.data.copy_(theirs.data)


def _matrix_shape(parameter: Tensor) -> tuple[int, int]:
    return (parameter.shape[0], parameter[0].numel()) if parameter.dim() == 4 else (1, parameter.numel())


def _place(parameter: Tensor) -> tuple:
    rows, columns = _matrix_shape(parameter)
    return (0, rows, columns) if min(rows, columns) >= MUON_SMALLEST_SIDE else (1 if parameter.dim() == 4 else 2, 0, 0)


def _groups(parameters: list[nn.Parameter]) -> list[tuple[int, int, int, int]]:
    groups, start = [], 0
    for (rest, rows, columns), members in groupby(parameters, key=_place):
        if rest:
            break
        count = len(list(members))
        groups.append((start, count, rows, columns))
        start += count * rows * columns
    return groups


def _view(flat: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 4:
        return flat.view(shape)
    outputs, inputs, height, width = shape
    return flat.view(outputs, height, width, inputs).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class OptimizerState:
    """Moments over the whole buffer and the number of steps taken. Muon's momentum shares ``first``."""

    first: Tensor  # [P]
    second: Tensor  # [P]
    step: Tensor  # 0-D float32

    @classmethod
    def zeros_like(cls, values: Tensor) -> OptimizerState:
        return cls(torch.zeros_like(values), torch.zeros_like(values), torch.zeros((), device=values.device))


Update = Callable[[FlatParameters, OptimizerState, torch.Generator], None]


def choose_update(settings: Fit, problem: Problem, dtype: torch.dtype, *, fused: bool) -> Update:
    """Return what changes a member's parameters in each step of a fit, by its gradients and random numbers.

    ``dtype`` is that of convolutions, and ``fused`` says whether the member runs on Triton's kernels.
    """
    config = settings.optimizer
    if not isinstance(config, Sgld):
        return lambda parameters, state, _: optimizer_step(config, parameters, state, dtype, fused=fused)
    assert settings.posterior is not None and settings.posterior.burn_in is not None  # sgld's are filled in
    burn_in = settings.posterior.burn_in
    scale = partial(likelihood_scale, config, problem) if config.rule == "preconditioned" else lambda: None
    return lambda parameters, state, random: sgld_step(config, parameters, state, random, scale(), burn_in)


def optimizer_step(
    config: Adam | Muon,
    parameters: FlatParameters,
    state: OptimizerState,
    dtype: torch.dtype,  # of Muon's products
    *,
    fused: bool = False,  # whether the kernel does Muon's products, over all matrices at once
) -> None:
    """Update all parameters in place by Adam or Muon, as ``config`` says."""
    state.step.add_(1)
    if isinstance(config, Adam):
        _adam(
            parameters.values,
            parameters.grads,
            state.first,
            state.second,
            state.step,
            config.lr,
            config.betas,
            config.eps,
            config.weight_decay,
        )
        return
    _muon(parameters, state.first, config, dtype, fused)
    values, grads, first, second = (
        flat[parameters.rest :] for flat in (parameters.values, parameters.grads, state.first, state.second)
    )
    _adam(values, grads, first, second, state.step, config.lr)


def sgld_step(
    config: Sgld,
    parameters: FlatParameters,
    state: OptimizerState,
    random: torch.Generator,
    scale: Tensor | None,  # 0-D, for rule preconditioned: loss times scale is the negative log-likelihood
    burn_in: int,  # steps in which the preconditioner adapts
) -> None:
    """Take one step of Langevin dynamics, in place.

    Rule paper is Adam with weight decay, then N(0, (noise lr)^2) on the weights of convolutions alone, as in the code
    of Cheng et al. (CVPR 2019). This samples no stated posterior. Rule preconditioned is `_langevin`.
    """
    state.step.add_(1)
    values, grads = parameters.values, parameters.grads
    draw = torch.empty_like(values if scale is not None else values[: parameters.kernels]).normal_(generator=random)
    if scale is not None:
        _langevin(values, grads, draw, state.second, state.step, scale, burn_in, config)
        return
    _adam(values, grads, state.first, state.second, state.step, config.lr, weight_decay=config.weight_decay)
    values[: parameters.kernels].add_(draw, alpha=config.noise * config.lr)


def _langevin(
    values: Tensor,  # [P]
    grads: Tensor,  # [P], of the loss
    draw: Tensor,  # [P], normal
    second: Tensor,  # [P]
    step: Tensor,  # 0-D, counts from 1
    scale: Tensor,  # 0-D
    burn_in: int,
    config: Sgld,
) -> None:
    """Take the step of equation 5 of Li et al. (AAAI 2016): theta += eps / 2 G grad log p(theta | y) + N(0, eps G).

    G = 1 / (lambda + sqrt(V)), where V is the moving average of the squared gradient of the loss. With
    eps = 2 lr / scale this is RMSprop at rate lr on the loss and the prior's share of it, with noise of variance
    2 lr G / scale. G is constant after the burn-in: while it moves with theta, leaving out the paper's Gamma biases the
    chain (LOG.md, 2026-11-23). The rate falls as Welling and Teh (ICML 2011) ask, by the power that Teh et al. (JMLR
    2016) find best.
    """
    adapting = step.clamp_max(burn_in + 1)
    second.lerp_(grads.square(), torch.where(step > burn_in + 1, 0.0, 1 - RMS_DECAY))
    g = 1 / (RMS_FLOOR + (second / (1 - RMS_DECAY**adapting)).sqrt())
    lr = config.lr / (1 + (step - 1) / config.decay_steps) ** config.decay
    drift = grads + values / (scale * config.prior_std**2)
    values.add_(draw * (2 * lr * g / scale).sqrt() - lr * g * drift)


def _adam(
    values: Tensor,  # [P]
    grads: Tensor,  # [P]
    first: Tensor,  # [P]
    second: Tensor,  # [P]
    step: Tensor,  # 0-D, counts from 1
    lr: float | Tensor,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> None:
    """Take a step of algorithm 1 of Kingma and Ba (2015), by default with PyTorch's settings.

    Weight decay is added to the gradient.
    """
    beta1, beta2 = betas
    if weight_decay:
        grads = grads.add(values, alpha=weight_decay)
    first.lerp_(grads, 1 - beta1)
    second.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    scale = lr / (1 - beta1**step)
    denominator = second.sqrt().div_((1 - beta2**step).sqrt()).add_(eps)
    values.sub_(first.div(denominator).mul_(scale))


def _muon(
    parameters: FlatParameters,
    momentum: Tensor,  # [P]
    config: Muon,
    dtype: torch.dtype,
    fused: bool,
) -> None:
    """Take a step of orthogonalised Nesterov momentum (Jordan 2024); matrices are convolutions [O, I * k * k]."""
    values, grads, momenta = map(parameters.grouped, (parameters.values, parameters.grads, momentum))
    directions = []
    for grad, moving in zip(grads, momenta, strict=True):
        moving.mul_(config.momentum).add_(grad)
        directions.append(grad.add(moving, alpha=config.momentum))
    for value, update in zip(values, _orthogonal(directions, config, dtype, fused), strict=True):
        rows, columns = value.shape[1:]
        value.sub_(update.to(value.dtype), alpha=2 * config.lr * math.sqrt(max(1, rows / columns)))


def _orthogonal(
    directions: Sequence[Tensor],  # of [N, rows, columns] each
    config: Muon,
    dtype: torch.dtype,
    fused: bool,
) -> list[Tensor]:  # the same, in ``dtype``
    """Return each matrix made nearly orthogonal: all at once if ``fused``, otherwise group by group."""
    steps = config.newton_schulz_steps
    if fused and directions:
        return ops.newton_schulz_batched(directions, steps, dtype)
    units = (one / (one.norm(dim=(1, 2), keepdim=True) + 1e-20) for one in directions)
    return [ops.newton_schulz(unit.to(dtype), steps) for unit in units]


def likelihood_scale(config: Sgld, problem: Problem) -> Tensor:  # 0-D
    """Return the factor that makes the problem's loss, a mean over n observed values, a negative log-likelihood.

    For Gaussian noise it is n / (2 sigma^2), times the mean square; for Poisson noise n peak / 2, times the mean
    deviance. The sigma of ``config`` has precedence over the task's. Raises UsageError if neither is known.
    """
    n, noise = problem.target.numel(), problem.expected_residual
    if config.sigma != "auto":
        if not isinstance(problem.data_term, WeightedSquare) and problem.data_term is not mean_square:
            raise UsageError("fit.optimizer.sigma is for tasks with a squared data term; give auto")
        return n / 2 * (255 / config.sigma * problem.range.width).square().mean()
    if isinstance(noise, ClippedGaussian):
        return n / 2 * noise.std.clamp_min(1e-3).square().reciprocal().mean()
    if isinstance(noise, PoissonVariance):
        return n / 2 * noise.peak * problem.range.width.mean()
    raise UsageError("fit.optimizer.sigma is auto, but the task knows no noise level: give fit.optimizer.sigma")
