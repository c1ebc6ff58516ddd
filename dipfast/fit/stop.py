"""When to stop: criteria whose state lives on the device, each keeping its best picture, not just its number.

`update` runs inside the step and reads nothing back; the loop looks at `done` now and then. A criterion that never
fired returns what it holds best at the last step, or the last picture where it holds none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.average import newest_weight
from dipfast.tasks import Problem
from dipfast.tasks.problem import mean_square


class Fixed:
    """All the steps; the last picture."""

    def __init__(self, picture: Tensor) -> None:
        self.done = torch.zeros((), dtype=torch.bool, device=picture.device)
        self.best_step = torch.zeros((), dtype=torch.int64, device=picture.device)
        self.best = torch.zeros_like(picture)

    def update(
        self,
        step: Tensor,  # 0-D int64, from 0
        output: Tensor,  # [1, C, H, W], of this step
        picture: Tensor,  # [1, C, H, W], the average where there is one
    ) -> None:
        self._keep(torch.ones_like(self.done), step, picture)

    def _keep(self, better: Tensor, step: Tensor, picture: Tensor) -> None:
        """Where ``better`` (0-D bool), hold ``picture`` and ``step``."""
        torch.where(better, picture, self.best, out=self.best)
        torch.where(better, step, self.best_step, out=self.best_step)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a snapshot must keep, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def reset(self) -> None:
        """Forget everything, in place."""
        for tensor in self.tensors().values():
            tensor.zero_()

    def why(self) -> str:
        """For the record, once the fit has ended."""
        return "all steps taken"


class EmaVariance(Fixed):
    """ES-EMV of Wang et al. (TMLR 2023): m and v are the moving mean and variance of the outputs, v has a valley.

    m <- m + alpha (x - m), v <- (1 - alpha) (v + alpha |x - m|^2 / n). The picture at the lowest v is the answer.
    Known false minimum: the first steps, hence `min_steps`.
    """

    def __init__(self, picture: Tensor, config: Mapping[str, Any]) -> None:
        super().__init__(picture)
        self.alpha, self.patience, self.min_steps = config["alpha"], config["patience"], config["min_steps"]
        self.mean = torch.zeros_like(picture)
        self.seen = torch.zeros((), dtype=torch.int64, device=picture.device)
        self.variance = torch.zeros((), device=picture.device)
        self.lowest = torch.full_like(self.variance, torch.inf)

    def update(self, step: Tensor, output: Tensor, picture: Tensor) -> None:
        change = (output - self.mean).square().mean()
        self.mean.lerp_(output, newest_weight(1 - self.alpha, self.seen))
        variance = (1 - self.alpha) * (self.variance + self.alpha * change)
        self.variance.copy_(torch.where(self.seen == 0, torch.zeros_like(variance), variance))
        self.seen.add_(1)
        better = (self.variance < self.lowest) & (step >= self.min_steps) & ~self.done
        self._keep(better | (step < self.min_steps), step, picture)
        torch.where(better, self.variance, self.lowest, out=self.lowest)
        self.done |= step - self.best_step >= self.patience

    def reset(self) -> None:
        super().reset()
        self.lowest.fill_(torch.inf)

    def why(self) -> str:
        if bool(self.done):
            return f"the outputs' moving variance did not fall for {self.patience} steps"
        return "all steps taken; the picture at the lowest moving variance"


class Discrepancy(Fixed):
    """Morozov's principle, asked of the picture that would be returned: its residual is down to what the noise leaves.

    An average of outputs takes up the noise later than each output does, so it is its own residual that is held
    against the noise, with the noise's clipping to [0, 1] counted in. A noise level given too low is never reached.
    """

    def __init__(self, picture: Tensor, config: Mapping[str, Any], problem: Problem) -> None:
        super().__init__(picture)
        if problem.expected_residual is None:
            raise UsageError("fit.stop is discrepancy, but the task knows no noise level: give task.noise.sigma")
        self.factor, self.problem, self.expected = config["factor"], problem, problem.expected_residual
        self.ratio = torch.zeros((), device=picture.device)

    def update(self, step: Tensor, output: Tensor, picture: Tensor) -> None:
        prediction = self.problem.operator(picture)
        ratio = mean_square(prediction, self.problem.target) / self.expected(prediction)
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.ratio, ratio, out=self.ratio)
        self.done |= ratio <= self.factor

    def why(self) -> str:
        reached = f"mean (A x - y)^2 is {float(self.ratio):.3f} of what the noise leaves"
        return reached if bool(self.done) else f"all steps taken; {reached}, above {self.factor:g}"


def make_stop(config: Mapping[str, Any], picture: Tensor, problem: Problem) -> Fixed:
    """The criterion that ``config`` (the manifest's `fit.stop`) names, for pictures like ``picture`` [1, C, H, W]."""
    if config["type"] == "fixed":
        return Fixed(picture)
    if config["type"] == "ema-variance":
        return EmaVariance(picture, config)
    return Discrepancy(picture, config, problem)
