"""Estimation of a picture's noise: how strong it is, and how far the noise of one value is correlated with others.

Noise is measured where the picture is smooth, because there everything but the lowest frequencies is noise. White noise
is equally strong at all frequencies. Noise that a lens, a demosaicing or a scaling has spread over neighbouring pixels
is weaker at the highest ones. The estimate takes the DCT of blocks of 8×8 pixels, as Ponomarenko et al. (2007) do,
keeps the quarter of the blocks with the least energy at the lowest frequencies, and takes medians of the remaining
coefficients, which the picture's own details hardly move. Clipping at black and white weakens the noise there, so each
block is compared with the deviation that clipping leaves at the block's mean. The measurements are in LOG.md under
2026-11-28.

A camera's own denoising leaves blotches that blocks of 8 pixels hardly hold. They are measured by the variance of
larger blocks, without their slope, in the smoothest hundredth of the picture: no place has less than the noise. Where
even the smoothest places vary the more the larger they are, they hold texture, and only noise of the highest
frequencies is believed (LOG.md, 2026-12-01).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dipfast.tasks.coding import BLOCK, dct, split
from dipfast.tasks.problem import WHITE_NOISE, ClippedGaussian, NoiseCorrelation

NORMAL_QUARTILE = 0.6744897501960817  # the median of |n| for a standard normal n
FEWEST_BLOCKS = 16  # with fewer blocks nothing is estimated
MOST_BLOCKS = 1 << 12  # about so many blocks of a large picture are read
SMOOTH_SHARE = 0.25  # share of the blocks that count as smooth
LEAST_NOISE_LEFT = 0.8  # share of the noise that clipping must leave in a block for the block to be used
# Bands of the 8×8 DCT: the first and the last sum of the vertical and the horizontal frequency.
LOW, MIDDLE, HIGH, HIGHEST = (1, 3), (4, 7), (8, 14), (10, 14)
FIRST_DEVIATION = 0.1  # of the noise, with which the fixed-point iteration begins
MOST_ITERATIONS = 15
CONVERGED = 1e-3  # the iteration ends when the deviation changes by less than this share
LEAST_DEVIATION = 1e-4  # a smaller deviation counts as no noise; rounding to 8 bits alone leaves a deviation of 1e-3
MOST_EQUAL_NEIGHBOURS = 0.5  # share of a block's pixels that equal the next one; noise of half a level leaves as many
QUIETEST_SHARE = 0.05  # quantile of the blocks' noise levels that tells whether all blocks have noise
LEAST_QUIET_LEVEL = 0.4  # that quantile, relative to the level of the smooth blocks, for all blocks to have noise
LEAST_EVENNESS_OF_WHITE = 0.8  # evenness of white noise, at least
LEAST_EVENNESS_OF_RADIUS_1 = 0.3  # evenness of noise that is correlated over a radius of one pixel, at least
LEAST_CHANNEL_CORRELATION = 0.6  # correlation of the noise of two channels from which on they are hidden together
SIDES = (16, 32)  # pixels of the larger blocks
SMOOTHEST = 0.01  # share of the larger blocks that counts as smoothest
FEWEST_LARGE_BLOCKS = 36  # with fewer of them the smoothest are not looked for
MOST_LARGE_BLOCKS = 1 << 12
MOST_EQUAL = 0.8  # share of pixels that equal the next one, from which on a larger block is a frame or clipped
TEXTURE_GROWTH = 1.5  # of the smoothest blocks' deviation from one side to the next: texture; noise has 1.0 to 1.4
BLOTCHED = 1.5  # smoothest blocks' deviation over that of the noise found in small ones: correlated further
BLOTCHED_OVER_HIGH = 3.0  # the same over that of white noise as strong at high frequencies
UNSEEN = (1.15, 1.35)  # deviation of correlated noise over that of the smoothest blocks: it is between these
BLOTCH_RADIUS = 2  # pixels over which such noise counts as correlated
Bounds = tuple[Tensor | float, Tensor | float]  # where values are clipped, below and above: 0-D, or [1, C, 1, 1]


@dataclass(frozen=True)
class NoiseEstimate:
    """The noise that was found. Deviations are in the unit of the picture, as they were before clipping."""

    correlation: NoiseCorrelation = WHITE_NOISE
    evenness: float = 0.0  # deviation at the highest frequencies over that at the middle ones; 0 where unknown
    high: float = 0.0  # deviation of white noise that is as strong at high frequencies
    highest: float = 0.0  # the same for the highest frequencies
    std: float = 0.0  # deviation over all frequencies
    smoothest: float | None = None  # deviation in the smoothest larger blocks; None where there are too few
    is_texture: bool = False  # whether those hold texture

    @property
    def level(self) -> float:
        """Return the deviation that the noise is taken to have."""
        if not self.correlation.radius:
            return self.highest if self.is_texture else self.high
        if self.smoothest is None:
            return self.std
        least, most = (factor * self.smoothest for factor in UNSEEN)
        return min(max(self.std, least), most)

    @property
    def bound(self) -> float:
        """Return the deviation of the noise that explains a change of the picture."""
        least = 0.0 if self.is_texture or self.smoothest is None else self.smoothest
        return max(self.level, least)

    @property
    def facts(self) -> dict[str, float | str]:
        """Return the record's entries about the noise; none where it could not be estimated."""
        if not self.evenness:
            return {}
        neighbours = f"neighbours, {self.correlation.radius} px each way" if self.correlation.radius else ""
        channels = "channels" if self.correlation.across_channels else ""
        shared_by = ", and ".join(filter(None, (neighbours, channels)))
        found: dict[str, float | str] = {"evenness": self.evenness, "noise_shared_by": shared_by or "none"}
        return found | ({"taken_for_texture": "yes"} if self.is_texture else {})

    def with_radius(self, radius: int) -> NoiseEstimate:
        """Return the estimate with another radius of correlation, in pixels."""
        return replace(self, correlation=replace(self.correlation, radius=radius))


def estimate_noise(
    observed: np.ndarray,  # [C, H, W] float32
    valid: np.ndarray | None = None,  # [1, H, W] bool
    bounds: Bounds = (0.0, 1.0),
) -> NoiseEstimate:
    """Estimate the noise of ``observed`` from the pixels where ``valid`` is true, or from all pixels if it is None.

    ``bounds`` are the values at which the picture was clipped. The estimate is empty, with deviations of 0, for a
    picture that is too small or too flat, and for a page or a drawing, in whose blocks most pixels equal the next one.
    """
    spectrum, means, flat, equal = _blocks(torch.from_numpy(observed)[None], valid)
    if spectrum.shape[1] < FEWEST_BLOCKS or float(equal[equal < 1].median()) > MOST_EQUAL_NEIGHBOURS:
        return NoiseEstimate()
    low, high = spectrum[..., _band(*LOW)].square().sum(2), FIRST_DEVIATION
    low = low.masked_fill(flat & _all_blocks_have_noise(spectrum, low, flat), torch.inf)
    for _ in range(MOST_ITERATIONS):
        smooth = _smooth_blocks(spectrum, means, low, high, bounds)
        change = smooth.deviation(HIGH)
        high = min(high * change, 1.0)
        if high < LEAST_DEVIATION:
            return NoiseEstimate()
        if abs(change - 1) < CONVERGED:
            break
    return _with_larger_blocks(_of_bands(smooth, high), observed, valid)


def _of_bands(smooth: SmoothBlocks, high: float) -> NoiseEstimate:
    """Return what the bands of the smooth blocks say of noise of deviation ``high`` at high frequencies."""
    evenness = smooth.deviation(HIGHEST) / max(smooth.deviation(MIDDLE), LEAST_DEVIATION)
    radius = 0 if evenness >= LEAST_EVENNESS_OF_WHITE else 1 if evenness >= LEAST_EVENNESS_OF_RADIUS_1 else 2
    across_channels = smooth.channel_correlation() >= LEAST_CHANNEL_CORRELATION
    correlation = NoiseCorrelation(radius, across_channels=across_channels)
    highest, std = high * smooth.deviation(HIGHEST), high * smooth.deviation_of_all()
    return NoiseEstimate(correlation, round(evenness, 3), high, highest, std)


def _with_larger_blocks(estimate: NoiseEstimate, observed: np.ndarray, valid: np.ndarray | None) -> NoiseEstimate:
    """Return ``estimate`` with what larger blocks say of blotches that were not seen, or of texture."""
    small, large = (_smoothest_deviation(observed, valid, side) for side in SIDES)
    if small is None or large is None:
        return estimate
    if estimate.correlation.radius and large > TEXTURE_GROWTH * small:
        return replace(estimate.with_radius(0), smoothest=small, is_texture=True)
    estimate = replace(estimate, smoothest=small)
    if small <= BLOTCHED * estimate.level and small <= BLOTCHED_OVER_HIGH * estimate.high:
        return estimate
    return replace(estimate.with_radius(BLOTCH_RADIUS), std=max(small, estimate.std))


def _smoothest_deviation(observed: np.ndarray, valid: np.ndarray | None, side: int) -> float | None:
    """Return the deviation about their planes of the smoothest blocks, over all channels; None with too few blocks.

    A block of a frame, of clipped values, or with a pixel that does not count is left out.
    """
    picture = torch.from_numpy(observed)
    places = math.prod(max(0, 2 * length // side - 1) for length in picture.shape[1:])
    step = side // 2 * max(1, math.isqrt(places // MOST_LARGE_BLOCKS))
    if min(picture.shape[1:]) < side:
        return None
    blocks = picture.unfold(1, side, step).unfold(2, side, step).flatten(1, 2)  # [C, N, side, side]
    kept = ((blocks.diff(dim=3) == 0).float().mean((2, 3)) <= MOST_EQUAL).all(0)
    if valid is not None:
        kept &= torch.from_numpy(valid).unfold(1, side, step).unfold(2, side, step).flatten(3).all(3).flatten()
    blocks = blocks[:, kept]
    if blocks.shape[1] < FEWEST_LARGE_BLOCKS:
        return None
    variance = torch.stack([_variance_about_plane(channel) for channel in blocks]).mean(0)
    return math.sqrt(max(0.0, float(variance.quantile(SMOOTHEST))))


def _variance_about_plane(blocks: Tensor) -> Tensor:  # [N, side, side] -> [N]
    """Return the variance of each block about the plane that fits it best."""
    side = blocks.shape[-1]
    ramp = torch.linspace(-1, 1, side)
    about = blocks - blocks.mean((1, 2), keepdim=True)
    squares = about.square().sum((1, 2))
    for slope in (ramp[:, None], ramp[None]):
        squares -= (about * slope).sum((1, 2)).square() / (side * ramp.square().sum())
    return squares / (side**2 - 3)


@dataclass(frozen=True)
class SmoothBlocks:
    """The DCT of the smooth blocks, divided by the deviation that clipping leaves of the assumed noise."""

    channels: list[Tensor]  # [n, 8, 8] each
    weights: list[int]  # of the channels: their numbers of usable blocks
    spectrum: Tensor  # [C, N, 8, 8], of all blocks, not divided
    low: Tensor  # [C, N], energy at the lowest frequencies over the noise's variance
    usable: Tensor  # [C, N] bool, blocks in which clipping leaves enough of the noise

    def deviation(self, band: tuple[int, int]) -> float:
        """Return the deviation of the coefficients in ``band``, averaged over the channels; 1 if the noise is right."""
        return self._mean([float(_robust_deviation(blocks[:, _band(*band)].flatten())) for blocks in self.channels])

    def deviation_of_all(self) -> float:
        """Return the root mean square of the deviations of all frequencies but the mean, over the channels."""
        squares = [float(_robust_deviation(blocks.flatten(1)[:, 1:].T).square().mean()) for blocks in self.channels]
        return math.sqrt(self._mean(squares))

    def channel_correlation(self) -> float:
        """Return the largest correlation of two channels' high frequencies; 0 for one channel.

        It follows from how often their signs agree: for normal values of correlation r, the mean product of the signs
        is 2 / pi arcsin r.
        """
        joint = self.spectrum[:, _smoothest(self.low.sum(0), self.usable.all(0))]
        signs = joint[..., _band(*HIGH)].flatten(1).sign()
        agree, channels = signs @ signs.mT / signs.shape[1], len(signs)
        return max((math.sin(math.pi / 2 * float(agree[i, j])) for i in range(channels) for j in range(i)), default=0.0)

    def _mean(self, values: list[float]) -> float:
        return sum(v * w for v, w in zip(values, self.weights, strict=True)) / sum(self.weights)


def _blocks(picture: Tensor, valid: np.ndarray | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the DCT of blocks [C, N, 8, 8], and of each block, [C, N], its mean, whether it has a flat line, and the
    share of its pixels that equal the next one.

    A large picture gives an evenly spread part of its blocks. A block with a pixel that does not count is left out.
    """
    height, width = (side // BLOCK * BLOCK for side in picture.shape[2:])
    stride = max(1, math.isqrt(height * width // (BLOCK**2 * MOST_BLOCKS)))
    blocks = split(picture[..., :height, :width])[:, :, ::stride, :, ::stride]  # [1, C, h, 8, w, 8]
    spectrum = dct(blocks.flatten(4).flatten(2, 3))[0].transpose(2, 3).flatten(1, 2)
    blocks = blocks[0].transpose(2, 3).flatten(1, 2)  # [C, N, 8, 8]
    means, flat = blocks.mean((2, 3)), _has_flat_line(blocks)
    equal = (blocks.diff(dim=3) == 0).float().mean((2, 3))
    if valid is None:
        return spectrum, means, flat, equal
    whole = split(torch.from_numpy(valid)[None, :, :height, :width])[:, :, ::stride, :, ::stride]
    kept = whole.all(3).all(4).flatten()
    return spectrum[:, kept], means[:, kept], flat[:, kept], equal[:, kept]


def _has_flat_line(blocks: Tensor) -> Tensor:  # [C, N, 8, 8] -> [C, N] bool
    """Return which blocks have a row or a column of a single value, as a frame around a picture leaves it."""
    rows, columns = (blocks.amax(axis) == blocks.amin(axis) for axis in (3, 2))
    return rows.any(2) | columns.any(2)


def _all_blocks_have_noise(spectrum: Tensor, low: Tensor, flat: Tensor) -> Tensor:  # -> [C, 1] bool
    """Return for which channels even the quietest of the blocks that are not ``flat`` vary about as the smooth ones do.

    There, a flat block can only be a frame, or a field outside of the picture, and must not count as smooth. A clean
    picture, in contrast, has blocks of every level.
    """
    level = spectrum[..., _band(*HIGH)].square().mean(2).sqrt()  # [C, N]
    found = []
    for levels, lows, flats in zip(level, low, flat, strict=True):
        levels, lows = levels[~flats], lows[~flats]
        if len(levels) < FEWEST_BLOCKS:
            found.append(False)
            continue
        smooth = levels[lows.argsort(stable=True)[: max(FEWEST_BLOCKS, math.floor(SMOOTH_SHARE * len(lows)))]]
        found.append(bool(levels.quantile(QUIETEST_SHARE) >= LEAST_QUIET_LEVEL * smooth.median()))
    return torch.tensor(found)[:, None]


def _smooth_blocks(spectrum: Tensor, means: Tensor, low: Tensor, std: float, bounds: Bounds) -> SmoothBlocks:
    """Choose the smooth blocks for noise of deviation ``std`` before clipping; ``low`` [C, N]: energies in `LOW`."""
    noise = ClippedGaussian(torch.tensor(std), True, 1, *bounds)
    left = noise.deviation(means[None, ..., None])[0, ..., 0]  # [C, N]
    low, usable = low / left.square(), (left > LEAST_NOISE_LEFT * std) & low.isfinite()
    channels = []
    for number, pair in enumerate(zip(low, usable, strict=True)):
        chosen = _smoothest(*pair)
        channels.append(spectrum[number, chosen] / left[number, chosen, None, None])
    return SmoothBlocks(channels, [max(1, int(one.sum())) for one in usable], spectrum, low, usable)


def _smoothest(low: Tensor, usable: Tensor) -> Tensor:  # [N] each -> [n] indices
    """Return the blocks with the least energy in ``low`` among the ``usable`` ones, or among all if those are few."""
    if int(usable.sum()) < FEWEST_BLOCKS:
        usable = torch.ones_like(usable)
    count = max(FEWEST_BLOCKS, math.floor(SMOOTH_SHARE * int(usable.sum())))
    return torch.where(usable, low, torch.inf).argsort(stable=True)[:count]


def _band(least: int, most: int) -> Tensor:  # [8, 8] bool
    """Return where the sum of a coefficient's vertical and horizontal frequency lies from ``least`` to ``most``."""
    found = torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)
    return (found >= least) & (found <= most)


def _robust_deviation(values: Tensor) -> Tensor:  # [..., N] -> [...]
    """Return the deviation of normal values from the median of their magnitudes."""
    return values.abs().median(-1).values / NORMAL_QUARTILE
