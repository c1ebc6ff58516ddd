"""Forward operators A: from the wanted picture x to the expected observation y = A x.

All take images [1, C, H, W]. Except for `Clipping` and `Saturation` they are linear, map a constant image to itself
(`Masking`: on its known pixels), and have an adjoint.
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

LEAST_STD = 1e-6  # least deviation of the noise, so that nothing is divided by 0 where it was estimated to be 0
ITERATIONS = 6  # of the conjugate gradients; their error is below a fifth of an 8-bit level


class Operator(Protocol):
    """A forward operator, from an image [1, C, H, W] to an observation [1, C, h, w]."""

    def __call__(self, image: Tensor) -> Tensor: ...


class Linear(Operator, Protocol):
    """A linear forward operator, which has an adjoint."""

    def adjoint(self, observation: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Identity:
    """A x = x, for a picture that is observed directly."""

    def __call__(self, image: Tensor) -> Tensor:
        return image

    def adjoint(self, observation: Tensor) -> Tensor:
        return observation


@dataclass(frozen=True)
class Clipping:
    """A x = E clip(x + n, l, u), the mean of a picture with white Gaussian noise n that was clipped at l and u.

    With S(z) = z Phi(z) + phi(z), the mean of max(0, z + n) for a standard normal n of distribution Phi and density
    phi, A x = l + std (S((x - l) / std) - S((x - u) / std)) (Foi 2009). A fit without it makes dark parts too light and
    light parts too dark, by 0.4 std at black and white.
    """

    std: Tensor  # 0-D, or [1, C, 1, 1]; of the noise
    lower: Tensor | float = 0.0  # l: 0-D, or [1, C, 1, 1]
    upper: Tensor | float = 1.0  # u

    def __call__(self, image: Tensor) -> Tensor:
        std = self.std.clamp_min(LEAST_STD)
        seen = std * (_positive_part((image - self.lower) / std) - _positive_part((image - self.upper) / std))
        return seen + self.lower


@dataclass(frozen=True)
class Saturation:
    """A x = E min(x + n, 1), the mean of a picture with photon noise n of variance x / peak that was cut off at white.

    The noise is taken as normal near white. In this equation x is in the full range; arguments and results are in the
    unit range.
    """

    peak: Tensor  # 0-D, photons at white
    range: Range = field(default_factory=Range.whole)

    def __call__(self, image: Tensor) -> Tensor:
        x = self.range.to_full(image)
        std = (x.clamp_min(LEAST_STD) / self.peak).sqrt()
        cut = std * _positive_part((x - 1) / std)
        return image - cut / self.range.width


def _positive_part(z: Tensor) -> Tensor:
    """Return the mean of max(0, z + n) for a standard normal number n: z Phi(z) + phi(z)."""
    return F.gelu(z) + normal_density(z)


def normal_density(z: Tensor) -> Tensor:
    """Return the density of the standard normal distribution."""
    return torch.exp(z.square() * -0.5) / math.sqrt(2 * math.pi)


@dataclass(frozen=True)
class Masking:
    """A x = m x, with m = 1 at known pixels and 0 elsewhere; it is its own adjoint."""

    mask: Tensor  # [1, 1, H, W], 0 or 1

    def __call__(self, image: Tensor) -> Tensor:
        return image * self.mask

    def adjoint(self, observation: Tensor) -> Tensor:
        return observation * self.mask


@dataclass(frozen=True)
class Downsampling:
    """Reduction by an integer ``scale``: a separable low-pass with replicated borders, then every scale-th pixel.

    The centres of the small pixels are those of the blocks of large ones that they stand for.
    """

    scale: int
    taps: Tensor  # [K], symmetric, sums to 1

    @classmethod
    def of(cls, scale: int, kernel: str) -> Downsampling:
        """Return the reduction by ``scale`` with a ``kernel`` of `dipfast.ops.resampling_taps`."""
        return cls(scale, ops.resampling_taps(kernel, scale).float())

    def __call__(self, image: Tensor) -> Tensor:  # [1, C, s h, s w] -> [1, C, h, w]
        """Reduce ``image``."""
        return ops.downsample(image, self.taps, self.scale)

    def adjoint(self, observation: Tensor) -> Tensor:  # [1, C, h, w] -> [1, C, s h, s w]
        """Apply A^T."""
        return self._spread(self._spread(observation).mT).mT

    def nearest(
        self,
        image: Tensor,  # [1, C, s h, s w]
        given: Tensor,  # [1, C, h, w]
    ) -> Tensor:  # [1, C, s h, s w]
        """Return the projection of ``image`` onto the pictures that are reduced to ``given``.

        It is x + A^T (A A^T)^-1 (y - A x), by conjugate gradients (Hestenes and Stiefel 1952). The picture that was
        reduced to y is in that set, so the projection cannot be further from it than ``image`` is.
        """
        left = given - self(image)
        weights, direction, square = torch.zeros_like(left), left, left.square().sum()
        for _ in range(ITERATIONS):
            product = self(self.adjoint(direction))
            length = square / (direction * product).sum().clamp_min(1e-30)
            weights, left = weights + length * direction, left - length * product
            before, square = square, left.square().sum()
            direction = left + square / before.clamp_min(1e-30) * direction
        return image + self.adjoint(weights)

    def _spread(self, rows: Tensor) -> Tensor:  # [1, C, H, w] -> [1, C, H, s w]
        """Apply the adjoint along the rows."""
        margin = (self.taps.numel() - self.scale) // 2
        channels = rows.shape[1]
        taps = self.taps.to(rows.dtype).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        wide = F.conv_transpose2d(rows, taps, stride=(1, self.scale), groups=channels)
        inner = wide[..., margin : wide.shape[-1] - margin].clone()
        inner[..., 0] += wide[..., :margin].sum(-1)  # the adjoint of replication adds the padding to the border
        inner[..., -1] += wide[..., wide.shape[-1] - margin :].sum(-1)
        return inner
