"""Running averages of a fit's outputs, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor


def ema_(
    average: Tensor,  # [1, C, H, W], updated in place
    value: Tensor,  # [1, C, H, W]
    constant: float,
    step: Tensor,  # 0-D, 0 at the first value
) -> None:
    """average <- constant * average + (1 - constant) * value, and the first value as it is (Ulyanov et al.)."""
    average.lerp_(value, torch.where(step == 0, 1.0, 1.0 - constant))
