"""The range of values that a picture fills, and its map to the unit range, in which a generator works.

A 16-bit file of a microscope may hold 1000 of 65535 levels, a photograph at night a tenth of them, a linear float file
values of 0.001, and one hot pixel may stretch any of these. A generator ends in a sigmoid, which suits the unit range.
So a picture that fills little of the full range is fitted in its own range, channel by channel where channels differ
much. The range is robust: it covers all but a thousandth at each end of the medians of 3×3 pixels, and all but a
hundredth at each end of the values. Values far outside are outliers, which are returned as they were given. A picture
that fills at least `FULL` of the full range is fitted in the full range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

FULL = 0.5  # share of the full range from which on a picture is fitted in it (LOG.md, 2026-11-30)
TAIL = 0.001  # share of the medians that may lie outside of the range at each end
VALUES_TAIL = 0.01  # the same share of the values
MARGIN = 0.2  # the range exceeds that of the medians by this share at each end, as far as there are values
APART = 0.35  # where a channel fills less of the channels' joint range, each channel has a range of its own
BEYOND = 0.5  # the fit sees no value further outside than this share of the range; such values are clipped
OUTLYING = 6.0  # an outlier differs from the median of its neighbours by more than so many deviations
MEDIANS = 1 << 18  # about so many medians of a channel are taken at most
TO_DEVIATION = 1.4826  # the deviation of normal values over their median absolute deviation


@dataclass(frozen=True)
class Range:
    """The place of the unit range in the full range [0, 1]: 0 lies at ``low`` and 1 at ``low`` + ``width``.

    Values of a picture whose noise was not clipped lie up to ``past`` beyond black and white of the full range.
    """

    low: Tensor  # [1, C, 1, 1]
    width: Tensor  # [1, C, 1, 1]
    past: float = 0.0

    @classmethod
    def whole(cls, channels: int = 1) -> Range:
        """Return the full range itself."""
        return cls(torch.zeros(1, channels, 1, 1), torch.ones(1, channels, 1, 1))

    @classmethod
    def of(cls, low: Tensor | None, width: Tensor | None) -> Range:
        """Return the range that a generator stores as these two, or the full range where it stores none."""
        return cls.whole() if low is None or width is None else cls(low, width)

    @property
    def is_whole(self) -> bool:
        """Return whether this is the full range."""
        return not bool(self.low.any()) and bool((self.width == 1).all())

    def to_unit(self, picture: Tensor) -> Tensor:  # [1, C, H, W] in the full range -> the same in the unit range
        """Map ``picture`` to the unit range, clipped at `lower` and `upper`."""
        return torch.minimum(torch.maximum(self.of_full(picture), self.lower), self.upper)

    def of_full(self, picture: Tensor) -> Tensor:
        """Map ``picture`` [1, C, H, W] from the full range to the unit range without clipping."""
        return (picture - self.low) / self.width

    def to_full(self, picture: Tensor) -> Tensor:  # [1, C, H, W] in the unit range -> the same in the full range
        """Map ``picture`` to the full range."""
        return self.low + self.width * picture

    @property
    def lower(self) -> Tensor:  # [1, C, 1, 1]
        """Return the least value in the unit range: black of the full range, but at least -`BEYOND`; less ``past``."""
        return (-self.low / self.width).clamp_min(-BEYOND) - self.past / self.width

    @property
    def upper(self) -> Tensor:  # [1, C, 1, 1]
        """Return the greatest value in the unit range: white, but at most 1 + `BEYOND`; and ``past`` more."""
        return ((1 - self.low) / self.width).clamp_max(1 + BEYOND) + self.past / self.width

    @property
    def apart(self) -> bool:
        """Return whether the channels have different ranges."""
        return bool((self.low != self.low[:, :1]).any() or (self.width != self.width[:, :1]).any())

    @property
    def text(self) -> str:
        """Return the ends of each channel's range as the record has them, each pair once."""
        ends = zip(self.low.flatten().tolist(), (self.low + self.width).flatten().tolist(), strict=True)
        return ", ".join(dict.fromkeys(f"{low:.4g} to {high:.4g}" for low, high in ends))

    def channel(self, number: int) -> Range:
        """Return the range of one channel."""
        return Range(self.low[:, number : number + 1], self.width[:, number : number + 1], self.past)


def range_of(
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1], unless its noise was not clipped
    valid: np.ndarray | None = None,  # [1, H, W] bool, the pixels to look at; all where it is None
    *,
    joint: bool = False,
) -> Range:
    """Return the range that ``observed`` fills, or the full range where it fills that well enough or is constant.

    With ``joint`` all channels get one range, however much they differ.
    """
    past = max(0.0, -float(observed.min()), float(observed.max()) - 1)
    return replace(_filled(observed, valid, joint), past=past)


def _filled(observed: np.ndarray, valid: np.ndarray | None, joint: bool) -> Range:
    """Return the range of `range_of` for a picture in [0, 1]."""
    valid = np.ones((1, *observed.shape[1:]), bool) if valid is None else valid
    extremes = [_range_of_channel(channel, valid[0]) for channel in observed]
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    width, channels = high - low, len(observed)
    if width <= 0:
        return Range.whole(channels)
    widths = [(top - bottom) or width for bottom, top in extremes]  # a constant channel tells no width
    if min(widths) < APART * width and not joint:
        bottoms = torch.tensor([bottom for bottom, _ in extremes]).view(1, -1, 1, 1)
        return Range(bottoms, torch.tensor(widths).view(1, -1, 1, 1))
    if width >= FULL:
        return Range.whole(channels)
    return Range(torch.full((1, channels, 1, 1), low), torch.full((1, channels, 1, 1), width))


def _range_of_channel(channel: np.ndarray, valid: np.ndarray) -> tuple[float, float]:
    """Return the lower and the upper end of the range of a channel [H, W]."""
    values = channel[valid]
    if not len(values):
        return 0.0, 0.0
    least, most = float(values.min()), float(values.max())
    medians = _medians(channel, valid)
    low, high = (float(q) for q in np.quantile(medians, (TAIL, 1 - TAIL))) if len(medians) else (least, most)
    if low == high:  # a drawing of a few lines
        return least, most
    margin = MARGIN * (high - low)
    some = values[:: max(1, len(values) // MEDIANS)]
    bottom, top = (float(q) for q in np.quantile(some, (VALUES_TAIL, 1 - VALUES_TAIL)))
    return max(least, min(bottom, low - margin)), min(most, max(top, high + margin))


def _medians(channel: np.ndarray, valid: np.ndarray) -> np.ndarray:  # [N]
    """Return medians of 3×3 pixels that all count, on a coarser grid in a large picture."""
    height, width = channel.shape
    if min(height, width) < 3:
        return channel[valid]
    step = max(1, math.isqrt(height * width // MEDIANS))
    shifted = [(slice(y, height - 2 + y, step), slice(x, width - 2 + x, step)) for y in range(3) for x in range(3)]
    whole = np.logical_and.reduce([valid[at] for at in shifted])
    return np.median(np.stack([channel[at][whole] for at in shifted]), axis=0)


def outliers(
    observed: np.ndarray,  # [C, H, W] float32 in [0, 1]
    range: Range,
) -> np.ndarray:  # [C, H, W] bool
    """Return which values lie far outside of ``range``, by more than noise explains: hot pixels, or lamps at night.

    An outlier is a value that `Range.to_unit` would clip, and that either differs from the median of its neighbours by
    many times the usual deviation, or has a median that would be clipped as well.
    """
    low, width = (part.numpy()[0] for part in (range.low, range.width))
    unit, beyond = (observed - low) / width, BEYOND + range.past / width
    outside = (unit < -beyond) | (unit > 1 + beyond)
    if not outside.any():
        return outside
    medians, difference, deviation = about_medians(unit)
    alike = (medians < -beyond) | (medians > 1 + beyond)
    found: np.ndarray = outside & (alike | (difference > OUTLYING * deviation))
    return found


def about_medians(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # [C, H, W], twice, [C, 1, 1]
    """Return the medians of 3×3 pixels, the absolute differences from them, and each channel's robust deviation.

    The deviation is the median of the differences, scaled to the standard deviation of normal values.
    """
    from scipy.ndimage import median_filter

    medians = np.stack([median_filter(channel, 3) for channel in picture])
    difference = np.abs(picture - medians)
    return medians, difference, TO_DEVIATION * np.median(difference, axis=(1, 2), keepdims=True)
