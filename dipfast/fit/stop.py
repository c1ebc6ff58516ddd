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
from dipfast.fit.average import ema_


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
        residual: Tensor,  # 0-D, mean (A x - y)^2
    ) -> None:
        self._keep(torch.ones_like(self.done), step, picture)

    def _keep(self, better: Tensor, step: Tensor, picture: Tensor) -> None:
        """Where ``better`` (0-D bool), hold ``picture`` and ``step``."""
        torch.where(better, picture, self.best, out=self.best)
        torch.where(better, step, self.best_step, out=self.best_step)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a snapshot must keep, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

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
        self.variance = torch.zeros((), device=picture.device)
        self.lowest = torch.full_like(self.variance, torch.inf)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, residual: Tensor) -> None:
        change = (output - self.mean).square().mean()
        ema_(self.mean, output, 1 - self.alpha, step)
        variance = (1 - self.alpha) * (self.variance + self.alpha * change)
        self.variance.copy_(torch.where(step == 0, torch.zeros_like(variance), variance))
        better = (self.variance < self.lowest) & (step >= self.min_steps) & ~self.done
        self._keep(better | (step < self.min_steps), step, picture)
        torch.where(better, self.variance, self.lowest, out=self.lowest)
        self.done |= step - self.best_step >= self.patience

    def why(self) -> str:
        if bool(self.done):
            return f"the outputs' moving variance did not fall for {self.patience} steps"
        return "all steps taken; the picture at the lowest moving variance"


class Discrepancy(Fixed):
    """Morozov's principle: the residual of a right answer is the noise, so stop when it has come down to it."""

    def __init__(self, picture: Tensor, config: Mapping[str, Any], noise_std: float) -> None:
        super().__init__(picture)
        self.threshold = config["factor"] * noise_std**2

    def update(self, step: Tensor, output: Tensor, picture: Tensor, residual: Tensor) -> None:
        self._keep(~self.done, step, picture)
        self.done |= residual <= self.threshold

    def why(self) -> str:
        if bool(self.done):
            return f"mean (A x - y)^2 came down to {self.threshold:.3g}"
        return f"all steps taken; mean (A x - y)^2 stayed above {self.threshold:.3g}"


def make_stop(config: Mapping[str, Any], picture: Tensor, noise_std: float | None) -> Fixed:
    """The criterion that ``config`` (the manifest's `fit.stop`) names, for pictures like ``picture`` [1, C, H, W]."""
    if config["type"] == "fixed":
        return Fixed(picture)
    if config["type"] == "ema-variance":
        return EmaVariance(picture, config)
    if noise_std is None:
        raise UsageError("fit.stop is discrepancy, but the task knows no noise level: give task.noise.sigma")
    return Discrepancy(picture, config, noise_std)
