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
EVEN = 0.8  # of HIGHEST over MIDDLE, at least, for white noise
NEAR = 0.3  # at least, of what only the next pixels share
TOGETHER = 0.6  # correlation of two channels' noise from which on they are one


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


def measure(observed: np.ndarray) -> Measured:
    """Of ``observed`` [C, H, W] in [0, 1]. A picture too small or too flat to tell has none."""
    spectrum, means = _blocks(torch.from_numpy(observed)[None])
    if spectrum.shape[1] < FEWEST:
        return Measured()
    low, high = spectrum[..., _sums(*LOW)].square().sum(2), START
    for _ in range(ROUNDS):
        smooth = _smooth(spectrum, means, low, high)
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


def _blocks(picture: Tensor) -> tuple[Tensor, Tensor]:  # [1, C, H, W] -> [C, N, 8, 8], [C, N]
    """The DCT of its blocks, or of some where there are many, and their means."""
    height, width = (side // BLOCK * BLOCK for side in picture.shape[2:])
    stride = max(1, math.isqrt(height * width // (BLOCK**2 * MOST)))
    blocks = split(picture[..., :height, :width])[:, :, ::stride, :, ::stride]  # [1, C, h, 8, w, 8]
    spectrum = dct(blocks.flatten(4).flatten(2, 3))[0].transpose(2, 3).flatten(1, 2)
    return spectrum, blocks[0].mean((2, 4)).flatten(1)


def _smooth(spectrum: Tensor, means: Tensor, low: Tensor, std: float) -> Smooth:
    """The smooth blocks for noise of deviation ``std`` before clipping; ``low`` [C, N]: squares of `LOW`."""
    left = ClippedGaussian(torch.tensor(std)).deviation(means[None])[0]  # [C, N]
    low, told = low / left.square(), left > TOLD * std
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
