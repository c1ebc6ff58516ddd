"""An inverse problem as the fit sees it: operator, data term, target, noise model, and the way back to a picture.

The data terms and the noise models that the tasks share are here too. A noise model answers two questions that a stop
criterion asks: which mean square of y - A x the noise leaves on average, and how much each value of y varies.
"""

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
from dipfast.tasks.operators import LEAST_STD, Clipping, Downsampling, Operator, Saturation, normal_density
from dipfast.tasks.range import Range

DataTerm = Callable[[Tensor, Tensor], Tensor]  # prediction, target -> 0-D
DataFunction = Callable[[Tensor], Tensor]  # picture -> 0-D

SUBSAMPLED = 4096  # a subsample of a larger picture holds at least so many values


def mean_square(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean of (A x - y)^2 over all values: the data term of white Gaussian noise."""
    return (prediction - target).square().mean()


@dataclass(frozen=True)
class WeightedSquare:
    """The mean of w (A x - y)^2: the data term of Gaussian noise whose strength may differ between channels."""

    weight: Tensor  # [1, C, 1, 1], with a mean of 1

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        return (self.weight * (prediction - target).square()).mean()


def mean_absolute(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean of |A x - y|: a data term that is robust to the outliers of salt-and-pepper noise."""
    return (prediction - target).abs().mean()


@dataclass(frozen=True)
class PoissonDeviance:
    """The mean Poisson deviance, 2 (y log(y / x) - y + x): the data term of photon noise.

    It is twice the negative log-likelihood ratio (McCullagh and Nelder 1989) divided by the number of photons at white,
    and about (x - y)^2 / x where y is near x. Prediction and target come in the unit range and are compared in the full
    range, where the number of photons is proportional to the value.
    """

    floor: Tensor  # 0-D, full range: smaller values are raised to it, so that the logarithm stays finite at black
    range: Range = field(default_factory=Range.whole)

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        x, y = (torch.maximum(self.range.to_full(image), self.floor) for image in (prediction, target))
        return 2 * ((y * (y / x).log() - y + x) / self.range.width).mean()


@dataclass(frozen=True)
class ClippedGaussian:
    """White Gaussian noise of deviation ``std``, clipped at ``lower`` and ``upper``.

    The moments of y = clip(x + n) are those of the censored normal distribution (Tobin 1958). With a = (x - lower) /
    std, b = (x - upper) / std, z = y - lower, and Phi and phi the distribution and density of a standard normal number,
    E z = (x - lower) (Phi(a) - Phi(b)) + std (phi(a) - phi(b)) + (upper - lower) Phi(b). A stop criterion that expects
    std^2 everywhere would stop late where the picture is dark or light, because clipping leaves less noise there.
    """

    std: Tensor  # 0-D, or [1, C, 1, 1]; of the noise before clipping
    about_mean: bool = True  # whether A is `Clipping`, so that A x is E y; otherwise A x = x, and y has a bias
    over: int = 1  # number of values with independent noise that each y is the mean of
    lower: Tensor | float = 0.0  # 0-D, or [1, C, 1, 1]
    upper: Tensor | float = 1.0

    def __call__(self, picture: Tensor) -> Tensor:
        """Return the expected mean of (y - A x)^2 for x = ``picture`` [1, C, H, W], over a subsample; 0-D."""
        x = subsample(picture).clamp(0, 1)
        mean, squares = self._moments(x)
        variance = (squares - mean.square()) / self.over
        bias = 0.0 if self.about_mean else (mean + self.lower - x).square()
        return (variance + bias).mean().clamp_min(LEAST_STD**2)

    def expected(self, picture: Tensor) -> Tensor:
        """Return E y at each value of x = ``picture`` [1, C, H, W]."""
        return Clipping(self.std, self.lower, self.upper)(picture) if self.about_mean else picture

    def deviation(self, picture: Tensor) -> Tensor:
        """Return the deviation of y at each value of x = ``picture``: [1, C, H, W], or of ``std``'s shape unclipped."""
        if not self.about_mean:
            return self.std.clamp_min(LEAST_STD) / math.sqrt(self.over)
        mean, squares = self._moments(picture.clamp(0, 1))
        return ((squares - mean.square()) / self.over).clamp_min(LEAST_STD**2).sqrt()

    def _moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return E z and E z^2 of z = y - lower, which has the variance of y."""
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
    """Photon noise, of variance x / peak, whose values are cut off at white.

    Near white the noise is taken as normal: with s^2 = x / peak, b = (x - 1) / s, and Phi and phi the distribution and
    density of a standard normal number, E y^2 = x^2 + s^2 - (x^2 + s^2 - 1) Phi(b) - s (x + 1) phi(b), and E y is
    `Saturation`. In these equations x is in the full range; arguments and results are in the unit range.
    """

    peak: Tensor  # 0-D, photons at white
    range: Range = field(default_factory=Range.whole)

    def __call__(self, picture: Tensor) -> Tensor:
        """Return the expected mean of (y - A x)^2 for x = ``picture`` [1, C, H, W], over a subsample; 0-D."""
        variance = self._variance(self.range.to_full(subsample(picture)).clamp(LEAST_STD, 1))
        return (variance / self.range.width.square()).mean()

    def expected(self, picture: Tensor) -> Tensor:
        """Return E y at each value of x = ``picture`` [1, C, H, W]."""
        return Saturation(self.peak, self.range)(picture)

    def deviation(self, picture: Tensor) -> Tensor:  # [1, C, H, W]
        """Return the deviation of y at each value of x = ``picture``, without the cut at white."""
        return (self.range.to_full(picture).clamp(LEAST_STD, 1) / self.peak).sqrt() / self.range.width

    def _variance(self, x: Tensor) -> Tensor:
        """Return the variance of y at each value of x in the full range."""
        std = (x / self.peak).sqrt()
        b = (x - 1) / std
        squares = x.square() + std.square()
        above, cut = torch.special.ndtr(b), normal_density(b)
        left = squares - (squares - 1) * above - std * (x + 1) * cut
        mean = Saturation(self.peak)(x)
        return left - mean.square()


NoiseModel = ClippedGaussian | PoissonVariance  # those that say what to expect of each value


def noise_to_json(noise: NoiseModel) -> dict[str, Any]:
    """Return ``noise`` as JSON that `noise_from_json` reads again, to the bit."""
    parts = {"std": noise.std, "lower": noise.lower, "upper": noise.upper} if isinstance(noise, ClippedGaussian) else {}
    if isinstance(noise, PoissonVariance):
        parts = {"peak": noise.peak, "low": noise.range.low, "width": noise.range.width}
    lists = {name: torch.as_tensor(part).flatten().tolist() for name, part in parts.items()}
    if isinstance(noise, ClippedGaussian):
        return {"type": "gaussian", "clipped": noise.about_mean, **lists}
    return {"type": "poisson", **lists}


def noise_from_json(tree: dict[str, Any]) -> NoiseModel:
    """Return the noise that `noise_to_json` wrote. Raises KeyError, TypeError or ValueError for what it did not."""
    names = ("std", "lower", "upper") if tree["type"] == "gaussian" else ("peak", "low", "width")
    first, second, third = (torch.tensor([float(value) for value in tree[name]]).view(1, -1, 1, 1) for name in names)
    if tree["type"] == "gaussian":
        return ClippedGaussian(first, bool(tree["clipped"]), 1, second, third)
    return PoissonVariance(first.view(()), Range(second, third))


def subsample(picture: Tensor) -> Tensor:  # [1, C, H, W] -> [1, C, h, w], a few thousand values
    """Return every k-th row and column, with the largest k that leaves `SUBSAMPLED` values."""
    stride = max(1, math.isqrt(picture.numel() // SUBSAMPLED))
    return picture[..., ::stride, ::stride]


@dataclass(frozen=True)
class NoiseBound:
    """How much of a change the noise of a picture explains, where nobody told of the noise and it was measured."""

    std: float | None  # deviation of the noise in the unit range, over all channels; None: no change is too large
    is_white: bool  # whether the noise is white; otherwise a fit's residual says more of it than its deviation


@dataclass(frozen=True)
class NoiseCorrelation:
    """With which other values the noise of a value is correlated: with none, where the noise is white."""

    radius: int = 0  # pixels each way
    across_channels: bool = False  # whether the channels of a pixel have correlated noise


WHITE_NOISE = NoiseCorrelation()
HOST = {"host": True}  # metadata of a field that no step of a fit reads: it is no part of the signature


@dataclass(frozen=True)
class Problem:
    """One inverse problem, y = A x + noise, as tensors. All images are [1, C, H, W] float32.

    The images are in the unit range, in which the wanted picture x lies in [0, 1]. ``range`` says where the unit range
    lies in the full range, that of the picture as it was read.
    """

    operator: Operator  # A
    data_term: DataTerm
    target: Tensor  # [1, C, h, w], y
    guide: Tensor  # [1, C, H, W], the best estimate of x before the fit
    expected_residual: DataFunction | None = None  # noise model: x -> mean (A x - y)^2 that the noise leaves
    keep: Tensor | None = None  # [1, 1, H, W], 1 where `finish` returns the values of `guide`
    rough: Tensor | None = None  # [1, C, H, W], what a latent of type `image` shows, where that is not `guide`
    exact: bool = False  # whether `finish` returns a picture of which A makes the target
    block: int | None = None  # side in pixels of the blocks that a codec worked in
    coding: Coding | None = None  # the quantisation from which the target came
    noise_correlation: NoiseCorrelation = WHITE_NOISE
    range: Range = field(default_factory=Range.whole)
    given: Tensor | None = None  # [1, C, h, w], the target with no outlier cut off, where `exact` needs that
    bound: NoiseBound | None = field(default=None, metadata=HOST)  # of a change; None where the noise was told
    outlying: np.ndarray | None = field(default=None, metadata=HOST)  # [C, h, w] bool, outliers to return as given
    facts: dict[str, float | str] = field(default_factory=dict, metadata=HOST)  # what the record says of the problem

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return channels, height and width of x."""
        _, channels, height, width = self.guide.shape
        return channels, height, width

    @property
    def shown(self) -> Tensor:
        """Return the picture [1, C, H, W] that a latent of type `image` shows to the network."""
        return self.guide if self.rough is None else self.rough

    @property
    def noise_known(self) -> bool:
        """Return whether the noise is known, so that `remaining` can be called."""
        return (self.coding is not None and self.coding.known) or self.expected_residual is not None

    def remaining(self, picture: Tensor) -> Tensor:
        """Return the mean square of A x - y over what the noise, or a codec's rounding, leaves on average; 0-D."""
        if self.coding is not None:
            return self.coding.remaining(picture)
        assert self.expected_residual is not None
        return mean_square(self.operator(picture), self.target) / self.expected_residual(picture)

    def finish(self, image: Tensor) -> Tensor:
        """Return the final picture [1, C, H, W], clamped to the full range, from x = ``image`` in the unit range.

        What is known of it is put back: the quantised coefficients, the picture that was enlarged, the known pixels.
        """
        if self.coding is not None and self.coding.known:
            image = self.coding.nearest(image, self.guide)
        if self.exact:
            assert isinstance(self.operator, Downsampling)
            image = self.operator.nearest(image, self.target if self.given is None else self.given)
        if self.keep is not None:
            image = torch.where(self.keep > 0.5, self.guide, image)
        return self.range.to_full(image).clamp(0, 1)

    def halved(self, sides: tuple[int, int]) -> Problem:
        """Return the denoising problem at half the size: means of 2×2 pixels, extended to ``sides`` by reflection.

        ``sides`` are the height and width in pixels that the network needs. Noise correlated over a radius of r pixels
        is then correlated over r / 2, rounded up. Without a `ClippedGaussian`, the noise counts as unknown.
        """
        halved = F.avg_pool2d(self.target, 2)
        rows, columns = (side - had for side, had in zip(sides, halved.shape[2:], strict=True))
        halved = F.pad(halved, (0, columns, 0, rows), "reflect")
        noise = self.expected_residual
        residual = replace(noise, over=4 * noise.over) if isinstance(noise, ClippedGaussian) else None
        correlation = replace(self.noise_correlation, radius=-(-self.noise_correlation.radius // 2))
        return replace(self, target=halved, guide=halved, expected_residual=residual, noise_correlation=correlation)

    def to(self, device: torch.device | str) -> Problem:
        """Return a copy of the problem with copies of its tensors on ``device``."""
        return _copied(self, device)

    def adopt(self, other: Problem) -> None:
        """Copy every tensor of ``other``, a problem of the same signature, into this problem's tensors."""
        for mine, theirs in zip(_tensors(self), _tensors(other), strict=True):
            mine.copy_(theirs)

    @property
    def signature(self) -> tuple:
        """Return what two problems must share for one program to fit both: types, shapes and settings, no numbers."""
        return tuple(_signature(self))


def _copied(value: Any, device: torch.device | str) -> Any:
    """Return ``value`` with every tensor in it, at any depth of dataclasses, copied to ``device``."""
    if isinstance(value, Tensor):
        return value.to(device, copy=True)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _copied(getattr(value, part.name), device) for part in fields(value)})
    return value


def _tensors(value: Any) -> Iterator[Tensor]:
    """Yield every tensor in ``value``, at any depth of dataclasses, in the order of the fields."""
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
