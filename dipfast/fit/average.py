"""Running averages of a fit's outputs, kept on the device."""

from __future__ import annotations

import torch
from torch import Tensor

MEMORY = 0.25  # LOG.md


def newest_weight(
    kind: float | str,
    count: Tensor,  # 0-D, values taken so far
    memory: float = MEMORY,
) -> Tensor:  # 0-D
    """The weight of the next value. A number is the constant of an EMA (Ulyanov et al.); the first value counts fully.

    `auto` is an average whose memory grows with the fit, about ``memory`` of all values so far, so that it is long in a
    slow fit and short in a fast one (polynomial-decay averaging, Shamir and Zhang, ICML 2013).
    """
    if kind == "auto":
        return 1 / (1 + memory * count)
    return torch.where(count == 0, 1.0, 1.0 - float(kind))
