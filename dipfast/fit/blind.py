"""Blind spots: values hidden from the network, on which alone it is judged (Noise2Self, Batson and Royer, ICML 2019).

Where the noise of a value says nothing of its neighbours', a network that does not see the value cannot learn its
noise, only what lies beneath. The latent is then the noisy picture itself.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def hide(
    picture: Tensor,  # [1, C, H, W]
    hidden: Tensor,  # [1, C, H, W] bool
) -> Tensor:  # [1, C, H, W]
    """``picture`` with the mean of the eight neighbours that are seen, in place of each value that is hidden.

    A value with no neighbour that is seen becomes 0.
    """
    seen = (~hidden).to(picture.dtype)
    around = [F.avg_pool2d(x, 3, 1, 1) for x in (picture * seen, seen)]  # over nine, zeros beyond the border
    return torch.where(hidden, around[0] / around[1].clamp_min(1 / 18), picture)
