"""What noise a picture holds: how strong it is, and how far the noise of one value is shared.

Measured where the picture is smooth, for there all but the lowest frequencies are noise. White noise has the same of
each; what a lens, a demosaicing or a scaling has spread over neighbours has less of the highest. So the DCT of blocks
is taken; of the quarter that has the least of the lowest frequencies the rest of the spectrum is looked at, by medians,
which the picture's own details hardly move. Noise that was cut off at black and white is less there: each block is
held against what is left of it at the block's mean. Figures are in LOG.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dipfast.tasks.coding import BLOCK, dct, split
from dipfast.tasks.problem import WHITE, ClippedGaussian, Grain

NORMAL_QUARTILE = 0.6744897501960817  # the median of |n| for a standard normal n
FEWEST, MOST = 16, 1 << 12  # blocks that something can be said of, and that are looked at
SMOOTH = 0.25  # of the blocks
TOLD = 0.8  # of the noise, that clipping must leave a block for it to be looked at
LOW, MIDDLE, HIGH, HIGHEST = (1, 3), (4, 7), (8, 14), (10, 14)  # sums of both frequencies, the first and the last
ROUNDS, START = 15, 0.1  # of the fixed point at most, and the deviation that it begins at
CLOSE = 1e-3  # relative change of the deviation that ends it
LEAST = 1e-4  # deviation; rounding to 8 bits alone leaves 1e-3
MOST_EQUAL = 0.5  # share of pixels that equal the next one, of a block; noise of half a level leaves as many
STILLEST, FLOOR = 0.05, 0.4  # share of the blocks that are not flat, and the least of the smooth ones' level there
EVEN = 0.8  # of HIGHEST over MIDDLE, at least, for white noise
NEAR = 0.3  # at least, of what only the next pixels share
TOGETHER = 0.6  # correlation of two channels' noise from which on they are one
Bounds = tuple[Tensor | float, Tensor | float]  # where values are cut off: 0-D, or [1, C, 1, 1]


@dataclass(frozen=True)
class Measured:
    """What noise was found; deviations are of the full range, as they were before clipping."""

    grain: Grain = WHITE
    evenness: float = 0.0  # deviation of the highest frequencies over that of the middle ones; 0: it cannot be told
    high: float = 0.0  # deviation that the high frequencies tell, where they hold as much as all
    std: float = 0.0  # deviation over all frequencies

    @property
    def facts(self) -> dict[str, float | str]:
        """For the record."""
        if not self.evenness:
            return {}
        shared = f"neighbours, {self.grain.reach} px each way" if self.grain.reach else ""
        channels = "channels" if self.grain.together else ""
        return {"evenness": self.evenness, "noise_shared_by": ", and ".join(filter(None, (shared, channels))) or "none"}

    def within(self, reach: int) -> Measured:
        """The same with another reach."""
        return replace(self, grain=replace(self.grain, reach=reach))


def measure(
    observed: np.ndarray,  # [C, H, W] float32
    counts: np.ndarray | None = None,  # [1, H, W] bool
    bounds: Bounds = (0.0, 1.0),
) -> Measured:
    """The noise of ``observed`` where ``counts`` is true, everywhere unless it is given.

    Values were cut off at the two ``bounds``. A picture too small or too flat to tell has none, and so has a page or a
    drawing, in whose blocks most pixels equal the next one.
    """
    spectrum, means, flat, equal = _blocks(torch.from_numpy(observed)[None], counts)
    if spectrum.shape[1] < FEWEST or float(equal[equal < 1].median()) > MOST_EQUAL:
        return Measured()
    low, high = spectrum[..., _sums(*LOW)].square().sum(2), START
    low = low.masked_fill(flat & _floor_is_noise(spectrum, low, flat), torch.inf)
    for _ in range(ROUNDS):
        smooth = _smooth(spectrum, means, low, high, bounds)
        change = smooth.deviation(HIGH)
        high = min(high * change, 1.0)
        if high < LEAST:
            return Measured()
        if abs(change - 1) < CLOSE:
            break
    evenness = smooth.deviation(HIGHEST) / max(smooth.deviation(MIDDLE), LEAST)
    reach = 0 if evenness >= EVEN else 1 if evenness >= NEAR else 2
    grain = Grain(reach, together=smooth.correlation() >= TOGETHER)
    return Measured(grain, round(evenness, 3), high, high * smooth.deviation_of_all())


@dataclass(frozen=True)
class Smooth:
    """The smooth blocks' DCT over the deviation that is left of the noise there."""

    channels: list[Tensor]  # [n, 8, 8] each
    weights: list[int]  # of the channels: how many blocks tell
    spectrum: Tensor  # [C, N, 8, 8], of all blocks, as it is
    low: Tensor  # [C, N], what of it lies in the lowest frequencies, over the noise
    told: Tensor  # [C, N] bool

    def deviation(self, band: tuple[int, int]) -> float:
        """Mean of the channels'."""
        return self._mean([float(_medians(blocks[:, _sums(*band)].flatten())) for blocks in self.channels])

    def deviation_of_all(self) -> float:
        """The same of every frequency but the mean: root of the mean square."""
        squares = [float(_medians(blocks.flatten(1)[:, 1:].T).square().mean()) for blocks in self.channels]
        return math.sqrt(self._mean(squares))

    def correlation(self) -> float:
        """The largest of any two channels, by the signs of their high frequencies (the sine law of normal values)."""
        joint = self.spectrum[:, _smoothest(self.low.sum(0), self.told.all(0))]
        signs = joint[..., _sums(*HIGH)].flatten(1).sign()
        agree, channels = signs @ signs.mT / signs.shape[1], len(signs)
        return max((math.sin(math.pi / 2 * float(agree[i, j])) for i in range(channels) for j in range(i)), default=0.0)

    def _mean(self, values: list[float]) -> float:
        return sum(v * w for v, w in zip(values, self.weights, strict=True)) / sum(self.weights)


def _blocks(picture: Tensor, counts: np.ndarray | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The DCT of its blocks [C, N, 8, 8], or of some where there are many; and [C, N] each, their means, which are
    flat, and the share of their pixels that equal the next one.

    Blocks in which a pixel does not count are left out.
    """
    height, width = (side // BLOCK * BLOCK for side in picture.shape[2:])
    stride = max(1, math.isqrt(height * width // (BLOCK**2 * MOST)))
    blocks = split(picture[..., :height, :width])[:, :, ::stride, :, ::stride]  # [1, C, h, 8, w, 8]
    spectrum = dct(blocks.flatten(4).flatten(2, 3))[0].transpose(2, 3).flatten(1, 2)
    blocks = blocks[0].transpose(2, 3).flatten(1, 2)  # [C, N, 8, 8]
    means, flat = blocks.mean((2, 3)), _has_flat_line(blocks)
    equal = (blocks.diff(dim=3) == 0).float().mean((2, 3))
    if counts is None:
        return spectrum, means, flat, equal
    whole = split(torch.from_numpy(counts)[None, :, :height, :width])[:, :, ::stride, :, ::stride]
    kept = whole.all(3).all(4).flatten()
    return spectrum[:, kept], means[:, kept], flat[:, kept], equal[:, kept]


def _has_flat_line(blocks: Tensor) -> Tensor:  # [C, N, 8, 8] -> [C, N] bool
    """Whether a row or a column of a block has one value only, as a frame around a picture leaves it."""
    rows, columns = (blocks.amax(axis) == blocks.amin(axis) for axis in (3, 2))
    return rows.any(2) | columns.any(2)


def _floor_is_noise(spectrum: Tensor, low: Tensor, flat: Tensor) -> Tensor:  # -> [C, 1] bool
    """Whether the blocks that are not ``flat`` have noise: even the stillest of them vary as the smooth ones do.

    Then a flat block is a frame, or a field outside of the picture. A clean picture has blocks of every stillness.
    """
    level = spectrum[..., _sums(*HIGH)].square().mean(2).sqrt()  # [C, N]
    found = []
    for levels, lows, flats in zip(level, low, flat, strict=True):
        levels, lows = levels[~flats], lows[~flats]
        if len(levels) < FEWEST:
            found.append(False)
            continue
        smooth = levels[lows.argsort(stable=True)[: max(FEWEST, math.floor(SMOOTH * len(lows)))]]
        found.append(bool(levels.quantile(STILLEST) >= FLOOR * smooth.median()))
    return torch.tensor(found)[:, None]


def _smooth(spectrum: Tensor, means: Tensor, low: Tensor, std: float, bounds: Bounds) -> Smooth:
    """The smooth blocks for noise of deviation ``std`` before clipping; ``low`` [C, N]: squares of `LOW`."""
    noise = ClippedGaussian(torch.tensor(std), True, 1, *bounds)
    left = noise.deviation(means[None, ..., None])[0, ..., 0]  # [C, N]
    low, told = low / left.square(), (left > TOLD * std) & low.isfinite()
    channels = []
    for number, pair in enumerate(zip(low, told, strict=True)):
        chosen = _smoothest(*pair)
        channels.append(spectrum[number, chosen] / left[number, chosen, None, None])
    return Smooth(channels, [max(1, int(one.sum())) for one in told], spectrum, low, told)


def _smoothest(low: Tensor, told: Tensor) -> Tensor:  # [N] each -> [n], their places
    """Of the blocks that are ``told``, or of all where those are too few."""
    if int(told.sum()) < FEWEST:
        told = torch.ones_like(told)
    count = max(FEWEST, math.floor(SMOOTH * int(told.sum())))
    return torch.where(told, low, torch.inf).argsort(stable=True)[:count]


def _sums(least: int, most: int) -> Tensor:  # [8, 8] bool
    """Where the two frequencies of a coefficient come to that much."""
    found = torch.arange(BLOCK)[:, None] + torch.arange(BLOCK)
    return (found >= least) & (found <= most)


def _medians(values: Tensor) -> Tensor:  # [..., N] -> [...]
    """Deviations of normal values, by the median of their sizes."""
    return values.abs().median(-1).values / NORMAL_QUARTILE
