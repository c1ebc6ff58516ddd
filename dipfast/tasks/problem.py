"""What every task hands to the fit: an operator, a data term, a target, and the way back to a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.coding import Coding
from dipfast.tasks.operators import LEAST_STD, Downsampling, Operator, Saturation, normal_density
from dipfast.tasks.range import Range

DataTerm = Callable[[Tensor, Tensor], Tensor]  # prediction, target -> 0-D
DataFunction = Callable[[Tensor], Tensor]  # picture -> 0-D

SUBSAMPLED = 4096  # values at least, of a larger picture


def mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean over all pixels of (A x - y)^2."""
    return (prediction - target).square().mean()


@dataclass(frozen=True)
class WeightedSquare:
    """Mean of w (A x - y)^2: Gaussian noise whose strength may differ from channel to channel."""

    weight: Tensor  # [1, C, 1, 1], 1 on the mean

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (self.weight * (prediction - target).square()).mean()


def mean_absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of |A x - y|: robust to pixels that say nothing, as salt and pepper leaves them."""
    return (prediction - target).abs().mean()


@dataclass(frozen=True)
class PoissonDeviance:
    """Mean Poisson deviance, 2 (y log(y / x) - y + x), in units where it is about (x - y)^2 / x; y in [0, 1].

    Twice the negative log-likelihood ratio over the photons at white. ``floor`` keeps the logarithm finite where the
    picture is black: a tenth of one photon. Pictures of the unit range are compared in the full one.
    """

    floor: Tensor  # 0-D
    range: Range = field(default_factory=Range.whole)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, y = (torch.maximum(self.range.to_full(image), self.floor) for image in (prediction, target))
        return 2 * ((y * (y / x).log() - y + x) / self.range.width).mean()


@dataclass(frozen=True)
class ClippedGaussian:
    """Mean (y - A x)^2 that white noise of deviation ``std`` leaves when y is clipped, given x.

    About the mean of what is seen, A x = `Clipping`, it is the variance of y; about x itself the squared bias comes to
    it. With a = x / std, b = (1 - x) / std, and Phi and phi of the normal distribution, E y^2 = Phi(a) x^2 + std x
    phi(a) + std^2 Phi(a) - (the same of y > 1, less one). Without it, a rule that waits for sigma^2 stops late wherever
    the picture is dark or light. The mean is taken over a subsample, which tells it to a part in a thousand.
    """

    std: Tensor  # 0-D, or [1, C, 1, 1]
    about_mean: bool = True
    over: int = 1  # values that each y is the mean of, with noise of their own
    lower: Tensor | float = 0.0  # where values are cut off
    upper: Tensor | float = 1.0

    def __call__(self, picture: Tensor) -> Tensor:
        x = subsample(picture).clamp(0, 1)
        mean, squares = self._moments(x)
        variance = (squares - mean.square()) / self.over
        bias = 0.0 if self.about_mean else (mean + self.lower - x).square()
        return (variance + bias).mean().clamp_min(LEAST_STD**2)

    def deviation(self, picture: Tensor) -> Tensor:
        """Of y at each value of x = ``picture``: [1, C, H, W], or 0-D where nothing is cut off."""
        if not self.about_mean:
            return self.std.clamp_min(LEAST_STD) / math.sqrt(self.over)
        mean, squares = self._moments(picture.clamp(0, 1))
        return ((squares - mean.square()) / self.over).clamp_min(LEAST_STD**2).sqrt()

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """E z and E z^2 of z = y - lower, whose variance is that of y."""
        std, x, full = self.std.clamp_min(LEAST_STD), x - self.lower, self.upper - self.lower
        a, b = x / std, (x - full) / std
        inside = (torch.erf(a * math.sqrt(0.5)) - torch.erf(b * math.sqrt(0.5))) / 2
        density, cut = normal_density(a), normal_density(b)
        above = (1 + torch.erf(b * math.sqrt(0.5))) / 2 * full
        mean = x * inside + std * (density - cut) + above
        squares = (x.square() + std.square()) * inside + std * (x * density - (x + full) * cut) + above * full
        return mean, squares


@dataclass(frozen=True)
class PoissonVariance:
    """Mean (y - A x)^2 that photon noise leaves: x over the photons at white, less what `Saturation` cuts off there.

    With s^2 = x / peak and b = (x - 1) / s: E y^2 = x^2 + s^2 - (x^2 + s^2 - 1) Phi(b) - s (x + 1) phi(b). x is in the
    full range, pictures and the result are in the unit range.
    """

    peak: Tensor  # 0-D
    range: Range = field(default_factory=Range.whole)

    def __call__(self, picture: Tensor) -> Tensor:
        left = self._left(self.range.to_full(subsample(picture)).clamp(LEAST_STD, 1))
        return (left / self.range.width.square()).mean()

    def deviation(self, picture: Tensor) -> Tensor:  # [1, C, H, W]
        """Of y at each value of x = ``picture``."""
        return (self.range.to_full(picture).clamp(LEAST_STD, 1) / self.peak).sqrt() / self.range.width

    def _left(self, x: Tensor) -> Tensor:
        std = (x / self.peak).sqrt()
        b = (x - 1) / std
        squares = x.square() + std.square()
        above, cut = torch.special.ndtr(b), normal_density(b)
        left = squares - (squares - 1) * above - std * (x + 1) * cut
        mean = Saturation(self.peak)(x)
        return left - mean.square()


def subsample(picture: Tensor) -> Tensor:  # [1, C, H, W] -> [1, C, h, w], a few thousand values
    """Every k-th pixel both ways."""
    stride = max(1, math.isqrt(picture.numel() // SUBSAMPLED))
    return picture[..., ::stride, ::stride]


@dataclass(frozen=True)
class Grain:
    """How far the noise of one value is shared: not at all, unless something else was measured."""

    reach: int = 0  # pixels each way
    together: bool = False  # the channels of a pixel share it


WHITE = Grain()
HOST = {"host": True}  # metadata of what no step looks at


@dataclass(frozen=True)
class Problem:
    """One inverse problem, y = A x + noise, on tensors. All images are [1, C, H, W] float32.

    They are in the unit range, in which the picture sought lies in [0, 1]; ``range`` says which part of the full range
    that is.
    """

    operator: Operator
    data_term: DataTerm
    target: Tensor  # [1, C, h, w], y
    guide: Tensor  # [1, C, H, W], the best picture known before the fit
    expected_residual: DataFunction | None = None  # of x: mean (A x - y)^2 that the noise leaves
    keep: Tensor | None = None  # [1, 1, H, W], 1 where `guide` is returned as it is
    rough: Tensor | None = None  # [1, C, H, W], what a latent of type `image` shows, where that is not `guide`
    exact: bool = False  # whether A is to make `target` of the picture returned
    block: int | None = None  # side of the blocks that a codec worked in
    coding: Coding | None = None  # the quantisation that the picture sought and `guide` have in common
    grain: Grain = WHITE  # how far the noise of a value is shared
    range: Range = field(default_factory=Range.whole)  # where the unit range lies in the full one
    given: Tensor | None = None  # [1, C, h, w], what `exact` means where some of `target` was cut off
    outlying: np.ndarray | None = field(default=None, metadata=HOST)  # [C, h, w] bool, values that are kept as given
    facts: dict[str, float | str] = field(default_factory=dict, metadata=HOST)  # for the record

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the picture sought."""
        _, channels, height, width = self.guide.shape
        return channels, height, width

    @property
    def shown(self) -> Tensor:
        """What a latent of type `image` shows, [1, C, H, W]."""
        return self.guide if self.rough is None else self.rough

    @property
    def noise_known(self) -> bool:
        """Whether `remaining` can tell."""
        return (self.coding is not None and self.coding.known) or self.expected_residual is not None

    def remaining(self, picture: Tensor) -> Tensor:
        """What parts A x from y, over what the noise, or a codec's rounding, leaves on the mean; 0-D."""
        if self.coding is not None:
            return self.coding.remaining(picture)
        assert self.expected_residual is not None
        return mean_square(self.operator(picture), self.target) / self.expected_residual(picture)

    def finish(self, image: Tensor) -> Tensor:
        """The picture to return, [1, C, H, W] in the full range: in range, and with what was known put back."""
        if self.coding is not None and self.coding.known:
            image = self.coding.nearest(image, self.guide)
        if self.exact:
            assert isinstance(self.operator, Downsampling)
            image = self.operator.nearest(image, self.target if self.given is None else self.given)
        if self.keep is not None:
            image = torch.where(self.keep > 0.5, self.guide, image)
        return self.range.to_full(image).clamp(0, 1)

    def halved(self, sides: tuple[int, int]) -> Problem:
        """A denoising at half of the size: means of 2×2 pixels, grown to ``sides`` by reflection."""
        halved = F.avg_pool2d(self.target, 2)
        rows, columns = (side - had for side, had in zip(sides, halved.shape[2:], strict=True))
        halved = F.pad(halved, (0, columns, 0, rows), "reflect")
        noise = self.expected_residual
        residual = replace(noise, over=4 * noise.over) if isinstance(noise, ClippedGaussian) else None
        grain = replace(self.grain, reach=-(-self.grain.reach // 2))
        return replace(self, target=halved, guide=halved, expected_residual=residual, grain=grain)

    def to(self, device: torch.device | str) -> Problem:
        """A copy of the problem with its tensors on ``device``."""
        return _copied(self, device)

    def adopt(self, other: Problem) -> None:
        """Take over every number of ``other``, a problem of the same signature, in place."""
        for mine, theirs in zip(_tensors(self), _tensors(other), strict=True):
            mine.copy_(theirs)

    @property
    def signature(self) -> tuple:
        """Equal for two problems that the same program can fit: same operator, data term and shapes."""
        return tuple(_signature(self))


def _copied(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _copied(getattr(value, part.name), device) for part in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for part in fields(value):
            yield from _tensors(getattr(value, part.name))


def _signature(value: Any) -> Iterator[Any]:
    if isinstance(value, Tensor):
        yield tuple(value.shape)
    elif is_dataclass(value):
        yield type(value).__name__
        for part in fields(value):
            if not part.metadata.get("host"):
                yield from _signature(getattr(value, part.name))
    else:
        yield value
