"""The range of values that a picture fills, and the way into the unit range that a generator works in and back.

A microscope's 16-bit file may hold 1000 of 65535 levels, a night shot a tenth of them, a linear float file values of
0.001, and one hot pixel may stretch any of these. A generator ends in a sigmoid and learns the unit range well, so a
picture that fills little of it is fitted in its own range: channel by channel where channels differ much. The range is
robust: it holds the medians of 3 x 3 pixels, but for a thousandth of them at each end, and all but a hundredth of the
values. Values far outside are outliers, which are returned as they were. A picture that fills at least `FULL` of the
unit range is fitted as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FULL = 0.5  # of the unit range: what fills that much is fitted as it is (LOG.md, 2026-11-30)
TAIL = 0.001  # of the medians, at each end, that do not count
VALUES_TAIL = 0.01  # likewise of the values
MARGIN = 0.2  # of the medians' range, at each end, as far as there are values
APART = 0.35  # of the joint range: a channel that fills less has one of its own
BEYOND = 0.5  # of the range, at each end: values further outside are cut there for the fit
OUTLYING = 6.0  # deviations of the values about the median of their neighbours
MEDIANS = 1 << 18  # at most, of a channel
TO_DEVIATION = 1.4826  # times the median absolute deviation of normal values


@dataclass(frozen=True)
class Range:
    """Where 0 and 1 of the unit range lie in the full range: at ``low``, and ``width`` above it, for each channel."""

    low: Tensor  # [1, C, 1, 1]
    width: Tensor  # [1, C, 1, 1]

    @classmethod
    def whole(cls, channels: int = 1) -> Range:
        """Return the full range itself."""
        return cls(torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1))

    @property
    def is_whole(self) -> bool:
        """Whether it is the full range."""
        return not bool(self.low.any()) and bool((self.width == 1).all())

    def to_unit(self, picture: Tensor) -> Tensor:  # [1, C, H, W] in the full range -> the same in the unit range
        """Values further outside than `BEYOND` are cut off there: `lower` and `upper`."""
        return torch.minimum(torch.maximum(self.of_full(picture), self.lower), self.upper)

    def of_full(self, picture: Tensor) -> Tensor:
        """The same with nothing cut off."""
        return (picture - self.low) / self.width

    def to_full(self, picture: Tensor) -> Tensor:  # [1, C, H, W] in the unit range -> the same in the full range
        return self.low + self.width * picture

    @property
    def lower(self) -> Tensor:  # [1, C, 1, 1]
        """Where values are cut off: at black of the full range, or well below the range."""
        return (-self.low / self.width).clamp_min(-BEYOND)

    @property
    def upper(self) -> Tensor:  # [1, C, 1, 1]
        return ((1 - self.low) / self.width).clamp_max(1 + BEYOND)

    @property
    def apart(self) -> bool:
        """Whether channels have ranges of their own."""
        return bool((self.low != self.low[:, :1]).any() or (self.width != self.width[:, :1]).any())

    @property
    def text(self) -> str:
        """The range of each channel in numbers, for the record."""
        ends = zip(self.low.flatten().tolist(), (self.low + self.width).flatten().tolist(), strict=True)
        return ", ".join(dict.fromkeys(f"{low:.4g} to {high:.4g}" for low, high in ends))

    def channel(self, number: int) -> Range:
        """Return the range of one channel."""
        return Range(self.low[:, number : number + 1], self.width[:, number : number + 1])


def range_of(
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    counts: np.ndarray | None = None,  # [1, H, W] bool, where values count; everywhere unless given
    *,
    joint: bool = False,
) -> Range:
    """The range that ``observed`` fills; the whole where it fills that well enough, or is constant.

    ``joint``: one range for all channels, however much they differ.
    """
    counts = np.ones((1, *observed.shape[1:]), bool) if counts is None else counts
    extremes = [_range_of_channel(channel, counts[0]) for channel in observed]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    width, channels = high - low, len(observed)
    if width <= 0:
        return Range.whole(channels)
    widths = [(top - bottom) or width for bottom, top in extremes]  # a constant channel says nothing
    if min(widths) < APART * width and not joint:
        return Range(*(torch.tensor(part).view(1, -1, 1, 1) for part in ([low for low, _ in extremes], widths)))
    if width >= FULL:
        return Range.whole(channels)
    return Range(torch.full((1, channels, 1, 1), low), torch.full((1, channels, 1, 1), width))


def _range_of_channel(channel: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """The lowest and highest value of [H, W] that the range holds."""
    values = channel[counts]
    if not len(values):
        return 0.0, 0.0
    least, most = float(values.min()), float(values.max())
    medians = _medians(channel, counts)
    low, high = (float(q) for q in np.quantile(medians, (TAIL, 1 - TAIL))) if len(medians) else (least, most)
    if low == high:  # a drawing of a few lines
        return least, most
    margin = MARGIN * (high - low)
    some = values[:: max(1, len(values) // MEDIANS)]
    bottom, top = (float(q) for q in np.quantile(some, (VALUES_TAIL, 1 - VALUES_TAIL)))
    return max(least, min(bottom, low - margin)), min(most, max(top, high + margin))


def _medians(channel: np.ndarray, counts: np.ndarray) -> np.ndarray:  # [N]
    """Medians of 3 x 3 pixels that all count, of some of them in a large picture."""
    height, width = channel.shape
    if min(height, width) < 3:
        return channel[counts]
    step = max(1, math.isqrt(height * width // MEDIANS))
    shifted = [(slice(y, height - 2 + y, step), slice(x, width - 2 + x, step)) for y in range(3) for x in range(3)]
    whole = np.logical_and.reduce([counts[at] for at in shifted])
    return np.median(np.stack([channel[at][whole] for at in shifted]), axis=0)


def outliers(
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    range: Range,
) -> np.ndarray:  # [C, H, W] bool
    """Values that lie far outside of ``range``, by more than noise explains: hot pixels, and lamps in the night.

    A value is one where it would be cut off by `Range.to_unit`, and either stands out from its neighbours by many
    times what values usually do, or its neighbours lie outside as well.
    """
    low, width = (part.numpy()[0] for part in (range.low, range.width))
    unit = (observed - low) / width
    outside = (unit < -BEYOND) | (unit > 1 + BEYOND)
    if not outside.any():
        return outside
    from scipy.ndimage import median_filter

    medians = np.stack([median_filter(channel, 3) for channel in unit])
    about = np.abs(unit - medians)
    deviation = TO_DEVIATION * np.median(about.reshape(len(unit), -1), axis=1)[:, None, None]
    alike = (medians < -BEYOND) | (medians > 1 + BEYOND)
    found: np.ndarray = outside & (alike | (about > OUTLYING * deviation))
    return found
