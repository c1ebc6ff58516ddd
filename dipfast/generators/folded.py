"""A fitted generator as a plain network for inference, with its normalisations folded into its convolutions.

The fit normalises with the statistics of its own picture. So these are computed at the fitted latent, in float64, and
multiplied into the convolutions, those over concatenations into the convolution that follows. The result equals the
generator at that latent and size, and nowhere else. Two normalisations cannot be folded exactly and stay as a scale
and a shift: one over a concatenation that is padded with zeros, and one after a maximum.

The network is rebuilt from its architecture and weights, independently of how the fit computes it. Levels with a
nearest upsampling are then turned into phases (`dipfast.generators.phases`), which is exact and takes fewer products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast import ops
from dipfast.generators import architecture
from dipfast.generators.architecture import Architecture, Level
from dipfast.generators.phases import (
    PAD_MODES,
    Phased,
    PhasedPointwise,
    PhasedSkip,
    PhasedUp,
    interleave,
    pays,
    phased_head,
)
from dipfast.generators.skip import latent_parts

EPS = 1e-5  # of the generator's normalisations
BAND = 1 << 22  # output elements of a float64 convolution at a time: it unfolds its input
Weights = Mapping[str, Tensor]


class Affine(nn.Module):
    """A scale and a shift for each channel."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:  # [B, C, H, W] -> the same
        return x * self.weight + self.bias


class Block(nn.Module):
    """Padding, convolution with a bias, pooling where asked for, activation."""

    taps: Tensor

    def __init__(self, block: architecture.Block):
        super().__init__()
        self.conv = nn.ModuleDict({"conv": nn.Conv2d(block.inputs, block.outputs, block.kernel, stride=block.stride)})
        self.norm = Affine(block.outputs) if block.filter == "max" else None
        self.margin, self.pad, self.activation = block.margin, block.pad, block.activation
        self.filter = block.filter
        self.register_buffer("taps", ops.resampling_taps("lanczos2", 2), persistent=False)

    @property
    def convolution(self) -> nn.Conv2d:
        return self.conv["conv"]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, H or H / 2, W or W / 2]
        x = self._filtered(self.convolution(self._padded(x)))
        return ops.activate(x if self.norm is None else self.norm(x), self.activation)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.margin,) * 4, mode=PAD_MODES[self.pad]) if self.margin else x

    def _filtered(self, x: Tensor) -> Tensor:
        if self.filter == "avg":
            return F.avg_pool2d(x, 2)
        if self.filter == "max":
            return F.max_pool2d(x, 2)
        if self.filter != "lanczos2":
            return x
        margin = (len(self.taps) - 2) // 2
        return ops.decimate(F.pad(x, (margin,) * 4, mode="replicate"), self.taps, 2)  # as operators of ONNX

    def fold(
        self,
        x: Tensor,  # [1, I, H, W], as the generator has it, before `first`
        weights: Weights,  # the generator's
        name: str,
        first: tuple[Tensor, Tensor] | None = None,  # scale and shift [I] of `x`, to be folded in
    ) -> Tensor:  # [1, O, H', W'], what the generator has after this block
        """Take over the generator's weights of the block ``name`` with its statistics at ``x`` folded in."""
        kernel = weights[f"{name}.conv.conv.weight"]
        bias = weights.get(f"{name}.conv.conv.bias", kernel.new_zeros(kernel.shape[0]))
        if first is not None:
            bias = bias + (kernel * first[1].view(1, -1, 1, 1)).sum((1, 2, 3))
            kernel = kernel * first[0].view(1, -1, 1, 1)
        y = _convolution(self._padded(x), kernel, self.convolution.stride[0])
        y = self._filtered(y + bias.view(-1, 1, 1))
        scale, shift = statistics(y, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        if self.norm is None:
            kernel, bias = kernel * scale.view(-1, 1, 1, 1), bias * scale + shift
        else:
            _assign(self.norm, scale.view(-1, 1, 1), shift.view(-1, 1, 1))
        _assign(self.convolution, kernel, bias)
        return ops.activate(y * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), self.activation)


class Scale(nn.Module):
    """One level of the network."""

    def __init__(self, level: Level):
        super().__init__()
        self.level = level
        for block in (*(level.branch or ()), *level.down):
            self.add_module(block.name, Block(block))
        first = level.up[0]
        self.norm = Affine(level.join.channels) if first.pad == "zero" and first.margin else None
        for block in level.up:
            self.add_module(block.name, Block(block))
        self.phased = pays(level)

    def blocks(self, part: Sequence[architecture.Block]) -> list[Any]:  # of Block and Phased
        return [getattr(self, block.name) for block in part]

    def in_phases(self) -> None:
        """Turn the branch and the way up into phases, exactly, where that pays."""
        if not self.phased:
            return
        first, *further = self.level.up
        phased: list[Phased] = [PhasedUp(first, self.level.join)]
        phased += [PhasedPointwise(block) for block in further]
        phased += [PhasedSkip(block) for block in self.level.branch or ()]
        for block, part in zip((first, *further, *(self.level.branch or ())), phased, strict=True):
            plain = getattr(self, block.name).convolution
            part.to(plain.weight).take(plain.weight, plain.bias)
            setattr(self, block.name, part)

    def descend(self, x: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return what is kept, where anything is, and the input of the next level."""
        kept = None if self.level.branch is None else _through(self.blocks(self.level.branch), x)
        return kept, _through(self.blocks(self.level.down), x)

    def ascend(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """Return the finer tensor, [B, U, 2 H, 2 W], or where it is `phased`, its phases [B, 4 U, H + 1, W + 1]."""
        first, *further = self.blocks(self.level.up)
        if isinstance(first, PhasedUp):
            x = first.join(x, kept)
        else:
            x = self.joined(x, kept)
            x = first(x if self.norm is None else self.norm(x))
        return _through(further, x)

    def joined(self, x: Tensor, kept: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode=self.level.join.upsample)
        return x if kept is None else torch.cat((kept, x), dim=1)

    def fold_descent(self, x: Tensor, weights: Weights, name: str) -> tuple[Tensor | None, Tensor]:
        """Fold what `descend` runs, and return what it returns."""
        kept = None if self.level.branch is None else self._fold(self.level.branch, x, weights, name)
        return kept, self._fold(self.level.down, x, weights, name)

    def fold_ascent(self, x: Tensor, kept: Tensor | None, weights: Weights, name: str) -> Tensor:
        """Fold what `ascend` runs, and return what it returns."""
        x = self.joined(x, kept)
        scale, shift = statistics(x, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        first, *further = self.level.up
        if self.norm is None:
            x = getattr(self, first.name).fold(x, weights, f"{name}.{first.name}", (scale, shift))
            return self._fold(further, x, weights, name)
        _assign(self.norm, scale.view(-1, 1, 1), shift.view(-1, 1, 1))
        return self._fold(self.level.up, x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), weights, name)

    def _fold(self, part: Sequence[architecture.Block], x: Tensor, weights: Weights, name: str) -> Tensor:
        for block in part:
            x = getattr(self, block.name).fold(x, weights, f"{name}.{block.name}")
        return x


class Trunk(nn.Module):
    """A network without its head: z [B, D, H, W] to features."""

    def __init__(self, levels: Sequence[Level]):
        super().__init__()
        self.scales = nn.ModuleList(Scale(level) for level in levels)

    def levels(self) -> list[Scale]:
        return list(self.scales)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:  # [B, U, H, W], or where the finest level is `phased`, its phases
        kept = []
        for scale in self.levels():
            skip, x = scale.descend(x)
            kept.append(skip)
        finest, *coarser = self.levels()
        for scale in reversed(coarser):
            x = scale.ascend(x, kept.pop())
            x = interleave(x) if scale.phased else x
        return finest.ascend(x, kept.pop())

    def fold(
        self,
        x: Tensor,  # [1, D, H, W], its latent
        weights: Weights,  # the generator's
        prefix: str,  # of this trunk's names
    ) -> None:
        """Take over the generator's weights with its statistics at ``x`` folded in."""
        kept = []
        for i, scale in enumerate(self.levels()):
            skip, x = scale.fold_descent(x, weights, f"{prefix}scales.{i}")
            kept.append(skip)
        for i, scale in reversed(list(enumerate(self.levels()))):
            x = scale.fold_ascent(x, kept.pop(), weights, f"{prefix}scales.{i}")


class FoldedNet(Trunk):
    """z [B, D, H, W] float32 to pictures [B, C, H, W] float32, each of a batch by itself; several trunks as `SkipNet`.

    Parameters have the names of the generator's own: `scales.0.down1.conv.conv.weight` … `head.bias`; in phases they
    have other shapes. Convolutions run in the dtype of the weights (`half_precision` makes them float16); the head and
    the sigmoid stay in float32.
    """

    def __init__(self, architecture: Architecture):
        head = architecture.head
        super().__init__(architecture.levels)
        self.others = nn.ModuleList(Trunk(architecture.levels) for _ in range(1, architecture.trunks))
        self.head = nn.Conv2d(head.inputs, head.outputs, 1)
        self.depth, self.sigmoid = architecture.latent, head.sigmoid
        self.low, self.width = (
            nn.Parameter(torch.ones(1, head.outputs, 1, 1)) if head.ranged else None for _ in range(2)
        )
        self.dtype = torch.float32

    def trunks(self) -> list[Trunk]:
        return [self, *self.others]

    @torch.no_grad()
    def in_phases(self) -> FoldedNet:
        """Turn the levels with a nearest upsampling into phases, and the head where the finest is; return itself."""
        for scale in (scale for trunk in self.trunks() for scale in trunk.levels()):
            scale.in_phases()
        if self.levels()[0].phased:
            self.head = phased_head(self.head, len(self.trunks()))
        return self

    def half_precision(self) -> FoldedNet:
        """Turn convolutions into float16; return itself."""
        for trunk in self.trunks():
            trunk.scales.half()
        self.dtype = torch.float16
        return self

    def latents(self, latent: Tensor) -> Sequence[Tensor]:
        """Return the latent of each trunk."""
        return latent_parts(latent, self.depth, len(self.trunks()))

    def forward(self, latent: Tensor) -> Tensor:
        own, *further = self.latents(latent.to(self.dtype))
        found = [super().forward(own), *(trunk(part) for trunk, part in zip(self.others, further, strict=True))]
        x = self.head((found[0] if len(found) == 1 else torch.cat(found, dim=1)).float())
        x = interleave(x) if self.levels()[0].phased else x
        x = x.sigmoid() if self.sigmoid else x
        return x if self.low is None or self.width is None else self.low + self.width * x


def fold(
    architecture: Architecture,
    weights: Weights,  # the generator's state
    latent: Tensor,  # [1, D, H, W], or [1, K D, H, W] of K trunks
    dtype: torch.dtype = torch.float64,  # in which the statistics' tensors are computed
) -> FoldedNet:
    """Return the generator with ``weights`` as it renders at ``latent``, in float32 and without gradients."""
    exact = {name: value.detach().cpu().to(dtype) for name, value in weights.items()}
    net = FoldedNet(architecture).to(dtype)
    with torch.no_grad():
        for number, (trunk, part) in enumerate(zip(net.trunks(), net.latents(latent.cpu().to(dtype)), strict=True)):
            trunk.fold(part, exact, f"others.{number - 1}." if number else "")
        _assign(net.head, exact["head.weight"], exact["head.bias"])
        if net.low is not None and net.width is not None:
            net.low.copy_(exact["low"])
            net.width.copy_(exact["width"])
    return net.in_phases().float().eval().requires_grad_(False)


def statistics(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and shift, [C] each, that normalise ``x`` [1, C, H, W] as the generator does (biased variance)."""
    variance, mean = (moment.to(x.dtype) for moment in torch.var_mean(x.double(), (0, 2, 3), correction=0))
    scale = weight / (variance + EPS).sqrt()
    return scale, bias - mean * scale


def _convolution(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """`F.conv2d`, in float64 a band of rows at a time."""
    if x.dtype != torch.float64:
        return F.conv2d(x, kernel, stride=stride)
    outputs, _, size, _ = kernel.shape
    rows, width = ((side - size) // stride + 1 for side in x.shape[2:])
    band = max(1, BAND // (outputs * width))
    bands = (x[:, :, first * stride : (min(first + band, rows) - 1) * stride + size] for first in range(0, rows, band))
    return torch.cat([F.conv2d(part, kernel, stride=stride) for part in bands], dim=2)


def _through(blocks: Sequence[nn.Module], x: Tensor) -> Tensor:
    for block in blocks:
        x = block(x)
    return x


def _assign(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)  # type: ignore[operator]
    module.bias.copy_(bias)  # type: ignore[operator]
