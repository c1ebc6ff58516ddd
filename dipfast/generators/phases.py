"""What follows a nearest upsampling, computed on the coarse grid: four phases as channels, interleaved at the end.

Of the nine neighbours that a 3x3 convolution takes of a fine pixel, only four differ, so one 2x2 convolution of the
coarse tensor gives all four phases for 4/9 of the products; 1x1 convolutions follow in the phases, and the skip branch
gives phases too. Exact for padding by reflection or replication. A cell k of the grid holds the fine rows 2k - 1 and
2k, half a pixel off the coarse pixel, so that one window serves both; the fine rows -1 and 2H that come with it are cut
off again.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast import ops
from dipfast.generators.architecture import Block, Join, Level

PAD_MODES = {"reflection": "reflect", "replication": "replicate", "zero": "constant"}
# Of three taps along an axis [phase, coarse pixel, tap]: those that fall on each of two coarse pixels.
COARSE = (((1, 1, 0), (0, 0, 1)), ((1, 0, 0), (0, 1, 1)))
# And [phase, coarse pixel, fine pixel in it, tap]: those that fall on each of four fine pixels.
FINE = (
    (((1, 0, 0), (0, 1, 0)), ((0, 0, 1), (0, 0, 0))),
    (((0, 0, 0), (1, 0, 0)), ((0, 1, 0), (0, 0, 1))),
)


def pays(level: Level) -> bool:
    """Return whether a level can be done in phases here, its branch one 1x1 convolution, with fewer products."""
    coarse, kept = level.join.coarse, level.join.kept
    possible = level.in_phases and (level.branch is None or [block.kernel for block in level.branch] == [1])
    return possible and 16 * coarse + 64 * kept < 36 * (coarse + kept)


class Phased(nn.Module):
    """A convolution of the coarse grid and its activation. Its weights have the name of those that it stands for."""

    def __init__(self, inputs: int, outputs: int, size: int, activation: str, **how: int):
        super().__init__()
        self.conv = nn.ModuleDict({"conv": nn.Conv2d(inputs, 4 * outputs, size, **how)})  # type: ignore[arg-type]
        self.activation = activation

    @property
    def convolution(self) -> nn.Conv2d:
        return self.conv["conv"]  # type: ignore[return-value]

    def take(self, kernel: Tensor, bias: Tensor) -> None:
        """Take over the plain convolution that this one stands for."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, 4 O, H', W']
        return ops.activate(self.convolution(x), self.activation)

    def assign(self, kernel: Tensor, bias: Tensor) -> None:
        """``kernel``: of all phases; ``bias`` [O]: of one."""
        self.convolution.weight.copy_(kernel)
        self.convolution.bias.copy_(bias.repeat(4))  # type: ignore[union-attr]


class PhasedSkip(Phased):
    """The skip branch, a 1x1 convolution: [B, I, 2 H, 2 W] -> its four fine pixels [B, 4 S, H + 2, W + 2]."""

    def __init__(self, block: Block):
        super().__init__(block.inputs, block.outputs, 2, block.activation, stride=2, padding=1)
        self.mode = PAD_MODES[block.pad]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.pad(x, (1,) * 4, mode=self.mode))  # the pixel beyond meets only what is cut off

    def take(self, kernel: Tensor, bias: Tensor) -> None:
        """Take over a convolution [S, I, 1, 1] and [S]."""
        one = torch.eye(2, dtype=kernel.dtype)
        self.assign(torch.einsum("pk,ql,si->pqsikl", one, one, kernel[..., 0, 0]).flatten(0, 2), bias)


class PhasedUp(Phased):
    """Nearest upsampling, joining, padding, 3x3 convolution and activation, from the coarse tensor to phases."""

    def __init__(self, block: Block, join: Join):
        super().__init__(join.coarse + 4 * join.kept, block.outputs, 2, block.activation)
        self.skips = join.kept

    def join(
        self,
        x: Tensor,  # [B, C, H, W]
        kept: Tensor | None,  # [B, 4 S, H + 2, W + 2], of `PhasedSkip`
    ) -> Tensor:  # [B, 4 O, H + 1, W + 1]
        x = F.pad(x, (1,) * 4, mode="replicate")
        return self(x if kept is None else torch.cat((kept, x), dim=1))

    def take(self, kernel: Tensor, bias: Tensor) -> None:
        """Take over a convolution of the joined tensor: [O, S + C, 3, 3], the skip branch first, and [O]."""
        coarse, fine = kernel.new_tensor(COARSE), kernel.new_tensor(FINE)
        outer = torch.einsum("pka,qlb,ocab->pqockl", coarse, coarse, kernel[:, self.skips :]).flatten(0, 2)
        inner = torch.einsum("pkua,qlvb,osab->pqouvskl", fine, fine, kernel[:, : self.skips])
        self.assign(torch.cat((inner.flatten(3, 5).flatten(0, 2), outer), dim=1), bias)


class PhasedPointwise(Phased):
    """A 1x1 convolution and its activation, the same on each of four phases: [B, 4 I, H, W] -> [B, 4 O, H, W]."""

    def __init__(self, block: Block):
        super().__init__(4 * block.inputs, block.outputs, 1, block.activation, groups=4)

    def take(self, kernel: Tensor, bias: Tensor) -> None:
        """Take over a convolution [O, I, 1, 1] and [O]."""
        self.assign(kernel.repeat(4, 1, 1, 1), bias)


def phased_head(head: nn.Conv2d, trunks: int) -> nn.Conv2d:
    """Return the head on four phases of each trunk, without groups: fast kernels have none of three channels."""
    phased = nn.Conv2d(4 * head.in_channels, 4 * head.out_channels, 1, dtype=head.weight.dtype)
    parts = head.weight.flatten(1).chunk(trunks, dim=1)
    phased.weight.copy_(torch.cat([torch.block_diag(*[part] * 4) for part in parts], dim=1)[..., None, None])
    phased.bias.copy_(head.bias.repeat(4))  # type: ignore[union-attr]
    return phased


def interleave(x: Tensor) -> Tensor:  # [B, 4 C, H + 1, W + 1] -> [B, C, 2 H, 2 W]
    """Return the picture whose phases these are, without the rows and columns that lie outside.

    Columns first, then rows, each by one transposition: onnxruntime has DepthToSpace and a transposition of both
    move one element at a time, in twice the time.
    """
    batch, channels, (height, width) = x.shape[0], x.shape[1] // 4, x.shape[2:]
    x = x.reshape(batch, 2, 2, channels * height * width).transpose(2, 3)
    x = x.reshape(batch, 2, channels * height, 2 * width).transpose(1, 2)
    return x.reshape(batch, channels, 2 * height, 2 * width)[:, :, 1:-1, 1:-1]
