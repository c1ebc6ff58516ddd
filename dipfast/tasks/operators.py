"""Forward operators A: what turns the picture that a generator shows into what was observed.

Each works on [1, C, H, W]. But for the clipping, each is linear, keeps a constant image constant (the mask: on its
known pixels), and has its adjoint. None knows a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast import ops
from dipfast.tasks.range import Range

LEAST_STD = 1e-6  # of noise, so that a picture estimated to have none divides by something
ROUNDS = 6  # of conjugate gradients, which leave less than a fifth of an 8-bit level


class Operator(Protocol):
    """A: image [1, C, H, W] to observation [1, C, h, w]."""

    def __call__(self, image: Tensor) -> Tensor: ...


class Linear(Operator, Protocol):
    """One that has an adjoint."""

    def adjoint(self, observation: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """A x = x."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    def adjoint(self, observation: Tensor) -> Tensor:
        return observation


@dataclass(frozen=True)
class Clipping:
    """A x = E clip(x + n, l, u) for white noise n: what is seen of x on the mean where values beyond white were cut.

    With S(z) = z Phi(z) + phi(z), the mean of max(0, z + a normal number), and l, u = 0, 1 in the full range:
    A x = l + std (S((x - l) / std) - S((x - u) / std)). Fitted without it, dark parts come out too light and light
    parts too dark, by 0.4 std at the ends.
    """

    std: Tensor  # 0-D, or [1, C, 1, 1]
    lower: Tensor | float = 0.0
    upper: Tensor | float = 1.0

    def __call__(self, image: Tensor) -> Tensor:
        std = self.std.clamp_min(LEAST_STD)
        seen = std * (_positive_part((image - self.lower) / std) - _positive_part((image - self.upper) / std))
        return seen + self.lower


@dataclass(frozen=True)
class Saturation:
    """A x = E min(x + n, 1) for photon noise n of variance x / peak, taken as normal near white.

    x is in the full range, to which an image of the unit range is taken, and back.
    """

    peak: Tensor  # 0-D, photons at white
    range: Range = field(default_factory=Range.whole)

    def __call__(self, image: Tensor) -> Tensor:
        x = self.range.to_full(image)
        std = (x.clamp_min(LEAST_STD) / self.peak).sqrt()
        cut = std * _positive_part((x - 1) / std)
        return image - cut / self.range.width


def _positive_part(z: Tensor) -> Tensor:
    return F.gelu(z) + normal_density(z)


def normal_density(z: Tensor) -> Tensor:
    return torch.exp(z.square() * -0.5) / math.sqrt(2 * math.pi)


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

    def nearest(
        self,
        image: Tensor,  # [1, C, s h, s w]
        given: Tensor,  # [1, C, h, w]
    ) -> Tensor:  # [1, C, s h, s w]
        """The picture nearest to ``image`` that is reduced to ``given``: x + A^T (A A^T)^-1 (y - A x).

        What was reduced to y is among those, so that none of them is further from it than ``image`` was.
        """
        left = given - self(image)
        weights, direction, square = torch.zeros_like(left), left, left.square().sum()
        for _ in range(ROUNDS):
            product = self(self.adjoint(direction))
            length = square / (direction * product).sum().clamp_min(1e-30)
            weights, left = weights + length * direction, left - length * product
            before, square = square, left.square().sum()
            direction = left + square / before.clamp_min(1e-30) * direction
        return image + self.adjoint(weights)

    def _spread(self, rows: Tensor) -> Tensor:  # [1, C, H, w] -> [1, C, H, s w]
        margin = (self.taps.numel() - self.scale) // 2
        channels = rows.shape[1]
        taps = self.taps.to(rows.dtype).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        wide = F.conv_transpose2d(rows, taps, stride=(1, self.scale), groups=channels)
        inner = wide[..., margin : wide.shape[-1] - margin].clone()
        inner[..., 0] += wide[..., :margin].sum(-1)  # what replication took from the border comes back to it
        inner[..., -1] += wide[..., wide.shape[-1] - margin :].sum(-1)
        return inner
