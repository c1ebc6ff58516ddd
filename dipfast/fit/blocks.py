"""When to stop at a picture that a codec worked on in blocks: when the average begins to show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.stop import Fixed
from dipfast.tasks import Problem

REACH = 3  # lines to each side that a border is held against
FLAT = 1e-6  # mean difference of neighbours that counts as none


class Blocks(Fixed):
    """Done when the picture jumps more at the borders of the codec's blocks than beside them, by the factor `ratio`.

    A scene knows nothing of the grid: over its lines, the mean |difference of neighbours| at a border is on the median
    what it is beside it. A fit is smooth at first, and takes the jumps up last. The median, because an edge of the
    scene may lie on a border. No noise level is needed. Where the grid begins is taken from the target, once, for a
    picture that was cut afterwards.
    """

    def __init__(self, picture: Tensor, config: Mapping[str, Any], problem: Problem) -> None:
        super().__init__(picture)
        if problem.block is None:
            raise UsageError("fit.stop is blocks, which needs task jpeg")
        self.limit, self.block, self.problem = config["ratio"], problem.block, problem
        height, width = picture.shape[2:]
        counts = [(side - 1 - 2 * REACH) // self.block for side in (height, width)]
        if min(counts) < 1:
            raise UsageError(f"fit.stop is blocks, which needs a picture of two blocks a side, has {width}×{height}")
        self.rows, self.columns = (torch.zeros(k, dtype=torch.int64, device=picture.device) for k in counts)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        found = [steps_of(picture, axis).index_select(0, at) for axis, at in ((2, self.rows), (3, self.columns))]
        ordered = torch.cat(found).sort().values
        ratio = ordered[len(ordered) // 2]
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.value, ratio, out=self.value)
        self.done |= ratio >= self.limit

    def reset(self, seed: int) -> None:
        super().reset(seed)
        for axis, at in ((2, self.rows), (3, self.columns)):
            first = first_border(steps_of(self.problem.target, axis), self.block)
            at.copy_(first + self.block * torch.arange(len(at)))

    def why(self) -> str:
        shown = f"jumps at the borders of blocks are {float(self.value):.2f} of those beside them"
        return shown if bool(self.done) else f"all steps taken; {shown}, below {self.limit:g}"


def steps_of(picture: Tensor, axis: int) -> Tensor:  # [1, C, H, W] -> [H - 1 - 2 REACH] or [W - 1 - 2 REACH]
    """Between each row (axis 2) or column (axis 3) and the next: mean |difference|, over that of the lines around."""
    jumps = picture.diff(dim=axis).abs().mean(dim=(0, 1, 5 - axis))
    windows = jumps.unfold(0, 2 * REACH + 1, 1)
    around = (windows.sum(1) - windows[:, REACH]) / (2 * REACH)
    return windows[:, REACH] / around.clamp_min(FLAT)


def first_border(found: Tensor, block: int) -> int:
    """Of the phases of a grid of ``block``, the one with the largest mean of the ratios ``found`` [N]."""
    return max(range(block), key=lambda phase: float(found[phase::block].log1p().mean()))
