"""Adam and Muon as functions over one flat buffer that holds all parameters of a generator.

Parameters lie in the buffer ordered so that all convolutions of one matrix shape are neighbours: a group of them is
one view [N, rows, columns], and Muon's products over a group are batched without a copy. The moving parts (moments,
step count) are tensors on the device, so that a step reads nothing from the host.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from dipfast.kernels import ops

MUON_SMALLEST_SIDE = 9  # a matrix with fewer rows or columns is left to Adam: skip branches, the head


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

    def load(self, module: nn.Module) -> None:
        """Copy the parameters of ``module``, of the same architecture, into the buffer."""
        for mine, theirs in zip(self._parameters, sorted(module.parameters(), key=_place), strict=True):
            mine.data.copy_(theirs.data)


def _matrix_shape(parameter: Tensor) -> tuple[int, int]:
    return (parameter.shape[0], parameter[0].numel()) if parameter.dim() == 4 else (1, parameter.numel())


def _place(parameter: Tensor) -> tuple:
    rows, columns = _matrix_shape(parameter)
    return (0, rows, columns) if min(rows, columns) >= MUON_SMALLEST_SIDE else (1, 0, 0)


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


def optimizer_step(
    config: Mapping[str, Any], parameters: FlatParameters, state: OptimizerState, dtype: torch.dtype
) -> None:
    """Update all parameters in place by the rule that ``config`` (the manifest's `fit.optimizer`) names."""
    state.step.add_(1)
    if config["type"] == "adam":
        _adam(parameters.values, parameters.grads, state.first, state.second, state.step, config)
        return
    for start, count, rows, columns in parameters.groups:
        span, shape = slice(start, start + count * rows * columns), (count, rows, columns)
        values, grads, momentum = (
            flat[span].view(shape) for flat in (parameters.values, parameters.grads, state.first)
        )
        _muon(values, grads, momentum, config, dtype)
    values, grads, first, second = (
        flat[parameters.rest :] for flat in (parameters.values, parameters.grads, state.first, state.second)
    )
    adam = {"lr": config["lr"], "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0}
    _adam(values, grads, first, second, state.step, adam)


def _adam(
    values: Tensor,  # [P]
    grads: Tensor,  # [P]
    first: Tensor,  # [P]
    second: Tensor,  # [P]
    step: Tensor,  # 0-D, counts from 1
    config: Mapping[str, Any],
) -> None:
    """Algorithm 1 of Kingma and Ba (2015); weight decay is added to the gradient."""
    beta1, beta2 = config["betas"]
    if config["weight_decay"]:
        grads = grads.add(values, alpha=config["weight_decay"])
    first.lerp_(grads, 1 - beta1)
    second.mul_(beta2).addcmul_(grads, grads, value=1 - beta2)
    scale = config["lr"] / (1 - beta1**step)
    denominator = second.sqrt().div_((1 - beta2**step).sqrt()).add_(config["eps"])
    values.sub_(first.div(denominator).mul_(scale))


def _muon(
    values: Tensor,  # [N, rows, columns]
    grads: Tensor,  # [N, rows, columns]
    momentum: Tensor,  # [N, rows, columns]
    config: Mapping[str, Any],
    dtype: torch.dtype,
) -> None:
    """Nesterov momentum, orthogonalised (Jordan 2024). A matrix is a convolution as [outputs, inputs * k * k]."""
    rows, columns = values.shape[1:]
    momentum.mul_(config["momentum"]).add_(grads)
    direction = grads.add(momentum, alpha=config["momentum"])
    direction = direction / (direction.norm(dim=(1, 2), keepdim=True) + 1e-20)
    update = ops.newton_schulz(direction.to(dtype), config["newton_schulz_steps"])
    values.sub_(update.to(values.dtype), alpha=2 * config["lr"] * math.sqrt(max(1, rows / columns)))
