"""When to stop at a picture that a codec worked on in blocks: when the average begins to show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.stop import Fixed
from dipfast.tasks import Problem
from dipfast.tasks.coding import LINES_AROUND, border_strength, first_border


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
        counts = [(side - 1 - 2 * LINES_AROUND) // self.block for side in (height, width)]
        if min(counts) < 1:
            raise UsageError(f"fit.stop is blocks, which needs a picture of two blocks a side, has {width}×{height}")
        self.rows, self.columns = (torch.zeros(k, dtype=torch.int64, device=picture.device) for k in counts)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        found = [border_strength(picture, axis).index_select(0, at) for axis, at in ((2, self.rows), (3, self.columns))]
        ordered = torch.cat(found).sort().values
        ratio = ordered[len(ordered) // 2]
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.value, ratio, out=self.value)
        self.done |= ratio >= self.limit

    def reset(self, seed: int) -> None:
        super().reset(seed)
        for axis, at in ((2, self.rows), (3, self.columns)):
            first = first_border(border_strength(self.problem.target, axis), self.block)
            at.copy_(first + self.block * torch.arange(len(at)))

    def why(self) -> str:
        shown = f"jumps at the borders of blocks are {float(self.value):.2f} of those beside them"
        return shown if bool(self.done) else f"all steps taken; {shown}, below {self.limit:g}"
