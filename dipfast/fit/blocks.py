"""When to stop at a picture that a codec worked on in blocks: when the average begins to show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.stop import Fixed
from dipfast.tasks import Problem


class Blocks(Fixed):
    """Done when the picture jumps more at the borders of the blocks than inside them, by the factor `ratio`.

    A scene knows nothing of the codec's grid, so its mean |difference of neighbours| is the same on the grid and off
    it: the ratio is 1. A fit is smooth at first, and takes the jumps up last. No noise level is needed. Where the grid
    begins is taken from the target, once, for a picture that was cut afterwards.
    """

    def __init__(self, picture: Tensor, config: Mapping[str, Any], problem: Problem) -> None:
        super().__init__(picture)
        if problem.block is None:
            raise UsageError("fit.stop is blocks, which needs task jpeg")
        self.limit, self.block, self.problem = config["ratio"], problem.block, problem
        self.rows, self.columns = torch.zeros_like(jumps(picture, 2)), torch.zeros_like(jumps(picture, 3))

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        on, off = torch.zeros_like(self.value), torch.zeros_like(self.value)
        for axis, border in ((2, self.rows), (3, self.columns)):
            found = jumps(picture, axis)
            on, off = on + (found * border).sum(), off + (found * (1 - border)).sum()
        borders = self.rows.sum() + self.columns.sum()
        inside = self.rows.numel() + self.columns.numel() - borders
        ratio = (on / borders) / (off / inside).clamp_min(torch.finfo(off.dtype).tiny)
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.value, ratio, out=self.value)
        self.done |= ratio >= self.limit

    def reset(self, seed: int) -> None:
        super().reset(seed)
        for axis, border in ((2, self.rows), (3, self.columns)):
            border[first_border(jumps(self.problem.target, axis), self.block) :: self.block] = 1

    def why(self) -> str:
        shown = f"jumps at the borders of blocks are {float(self.value):.2f} of those inside"
        return shown if bool(self.done) else f"all steps taken; {shown}, below {self.limit:g}"


def jumps(picture: Tensor, axis: int) -> Tensor:  # [1, C, H, W] -> [H - 1] or [W - 1]
    """Mean |difference| between each row (axis 2) or column (axis 3) and the next."""
    return picture.diff(dim=axis).abs().mean(dim=(0, 1, 5 - axis))


def first_border(found: Tensor, block: int) -> int:
    """Of the phases of a grid of ``block``, the one with the largest mean of the jumps ``found`` [N]."""
    phases = min(block, len(found))
    return max(range(phases), key=lambda phase: float(found[phase::block].mean()))
