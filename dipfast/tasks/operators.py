"""Forward operators A: what turns the picture that a generator shows into what was observed.

Each is linear, works on [1, C, H, W], keeps a constant image constant (the mask: on its known pixels), and has
its adjoint. None knows a network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F

from dipfast.kernels import ops


class Operator(Protocol):
    """A: image [1, C, H, W] to observation [1, C, h, w]."""

    def __call__(self, image: Tensor) -> Tensor: ...

    def adjoint(self, observation: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """A x = x."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    def adjoint(self, observation: Tensor) -> Tensor:
        return observation


@dataclass(frozen=True)
class Masking:
    """A x = m x, with m = 1 at known pixels and 0 elsewhere. Its own adjoint."""

    mask: Tensor  # [1, 1, H, W], 0 or 1

    def __call__(self, image: Tensor) -> Tensor:
        return image * self.mask

    def adjoint(self, observation: Tensor) -> Tensor:
        return observation * self.mask


@dataclass(frozen=True)
class Downsampling:
    """A x = every `scale`-th pixel of x behind a fixed separable low-pass, borders replicated, centres aligned."""

    scale: int
    taps: Tensor  # [K], symmetric, sums to 1

    @classmethod
    def of(cls, scale: int, kernel: str) -> Downsampling:
        """``kernel``: lanczos2, lanczos3 or bicubic (Keys, a = -1/2), widened by ``scale``."""
        return cls(scale, ops.resampling_taps(kernel, scale).float())

    def __call__(self, image: Tensor) -> Tensor:  # [1, C, s h, s w] -> [1, C, h, w]
        return ops.downsample(image, self.taps, self.scale)

    def adjoint(self, observation: Tensor) -> Tensor:  # [1, C, h, w] -> [1, C, s h, s w]
        return self._spread(self._spread(observation).mT).mT

    def _spread(self, rows: Tensor) -> Tensor:  # [1, C, H, w] -> [1, C, H, s w]
        margin = (self.taps.numel() - self.scale) // 2
        channels = rows.shape[1]
        taps = self.taps.to(rows.dtype).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        wide = F.conv_transpose2d(rows, taps, stride=(1, self.scale), groups=channels)
        inner = wide[..., margin : wide.shape[-1] - margin].clone()
        inner[..., 0] += wide[..., :margin].sum(-1)  # what replication took from the border comes back to it
        inner[..., -1] += wide[..., wide.shape[-1] - margin :].sum(-1)
        return inner
