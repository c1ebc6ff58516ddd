"""Where the borders of a codec's blocks show in a picture."""

from __future__ import annotations

from torch import Tensor

REACH = 3  # lines to each side that a border is held against
FLAT = 1e-6  # mean difference of neighbours that counts as none


def steps_of(picture: Tensor, axis: int) -> Tensor:  # [1, C, H, W] -> [H - 1 - 2 REACH] or [W - 1 - 2 REACH]
    """Between each row (axis 2) or column (axis 3) and the next: mean |difference|, over that of the lines around."""
    jumps = picture.diff(dim=axis).abs().mean(dim=(0, 1, 5 - axis))
    windows = jumps.unfold(0, 2 * REACH + 1, 1)
    around = (windows.sum(1) - windows[:, REACH]) / (2 * REACH)
    return windows[:, REACH] / around.clamp_min(FLAT)


def first_border(found: Tensor, block: int) -> int:
    """Of the phases of a grid of ``block``, the one with the largest mean of the ratios ``found`` [N]."""
    return max(range(block), key=lambda phase: float(found[phase::block].log1p().mean()))
