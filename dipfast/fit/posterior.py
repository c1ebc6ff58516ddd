"""Mean and variance of the outputs that a chain of weights gives, kept on the device without keeping the outputs.

The chain itself is `dipfast.fit.optimizer.sgld_step`. What is a sample is a predicate of the step's number, so that a
captured step takes and leaves samples by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dipfast.errors import UsageError
from dipfast.fit.optimizer import FlatParameters
from dipfast.generators import twin
from dipfast.tasks import Problem
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance, WeightedSquare, mean_square


class Posterior:
    """Welford's running mean and variance (Technometrics 1962) over every ``every``-th output behind ``burn_in``.

    Step s, from 0, is a sample where s > burn_in and s is a multiple of ``every``: the second paper's rule. Until the
    first sample the mean is the last output. Of ``keep`` samples, evenly spread, the weights are kept too.
    """

    def __init__(self, config: Mapping[str, Any], steps: int, picture: Tensor, values: Tensor) -> None:
        self.config, self.burn_in, self.every = config, config["burn_in"], config["every"]
        self.mean = torch.zeros_like(picture)
        self.squares = torch.zeros_like(picture)  # sum of squared distances from the mean
        self.count = torch.zeros((), dtype=torch.int64, device=picture.device)
        expected, keep = (steps - 1) // self.every - self.burn_in // self.every, config["keep"]
        marks = [(k + 1) * expected // keep for k in range(keep)]  # the counts at which weights are kept
        self.marks = torch.tensor(marks, dtype=torch.int64, device=picture.device)
        self.weights = values.new_zeros(keep, len(values))

    def update(
        self,
        step: Tensor,  # 0-D int64, from 0
        output: Tensor,  # [1, C, H, W]
        values: Tensor,  # [P], the weights that the step ends with
    ) -> None:
        """Take ``output`` in where it is a sample."""
        taken = (step > self.burn_in) & (step % self.every == 0)
        self.count.add_(taken)
        delta = output - self.mean
        weight = torch.where(self.count == 0, 1.0, taken / self.count.clamp_min(1))
        self.mean.lerp_(output, weight)
        self.squares.add_(delta * (output - self.mean) * taken)
        if len(self.marks):
            slot = (self.marks < self.count).sum().clamp_max(len(self.marks) - 1).view(1)
            hit = taken & (self.marks == self.count).any()
            row = torch.where(hit, values, self.weights.index_select(0, slot)[0])
            self.weights.index_copy_(0, slot, row.view(1, -1))

    def tensors(self) -> dict[str, Tensor]:
        """What a rollback must restore. Kept weights are not: a count that is reached again writes them again."""
        return {"mean": self.mean, "squares": self.squares, "count": self.count}

    def reset(self) -> None:
        """Forget everything, in place."""
        for tensor in (*self.tensors().values(), self.weights):
            tensor.zero_()

    def deviation(self) -> Tensor | None:  # [1, C, H, W]
        """The samples' standard deviation; None where it is not asked for or there are fewer than two."""
        count = int(self.count)
        if not self.config["uncertainty"] or count < 2:
            return None
        return (self.squares / (count - 1)).clamp_min(0).sqrt()

    def kept(self, generator: nn.Module, parameters: FlatParameters) -> tuple[nn.Module, ...]:
        """Copies of ``generator``, whose weights ``parameters`` holds, with the weights of the samples kept."""
        now = parameters.values.clone()
        copies = []
        for weights in self.weights[self.marks <= self.count]:
            parameters.values.copy_(weights)
            copies.append(twin(generator))
        parameters.values.copy_(now)
        return tuple(copies)


def likelihood_scale(config: Mapping[str, Any], problem: Problem) -> Tensor:  # 0-D
    """The factor that makes the problem's loss, a mean over n observed values, a negative log-likelihood.

    Gaussian noise: n / (2 sigma^2) times the mean square; Poisson noise: n peak / 2 times the mean deviance. ``config``
    is the manifest's `fit.optimizer`, whose sigma wins over the task's. Raises UsageError where neither is known.
    """
    n, noise = problem.target.numel(), problem.expected_residual
    if config["sigma"] != "auto":
        if not isinstance(problem.data_term, WeightedSquare) and problem.data_term is not mean_square:
            raise UsageError("fit.optimizer.sigma is for tasks with a squared data term; give auto")
        return n / 2 * (255 / config["sigma"] * problem.range.width).square().mean()
    if isinstance(noise, ClippedGaussian):
        return n / 2 * noise.std.clamp_min(1e-3).square().reciprocal().mean()
    if isinstance(noise, PoissonVariance):
        return n / 2 * noise.peak * problem.range.width.mean()
    raise UsageError("fit.optimizer.sigma is auto, but the task knows no noise level: give fit.optimizer.sigma")
