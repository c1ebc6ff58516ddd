"""A fitted generator as a plain network for inference: its own statistics frozen, every normalisation folded away.

The fit normalises with the statistics of its own picture, so they are taken at the fitted latent, in float64, and
multiplied into the convolutions, those over concatenations into the convolution behind them. What comes out equals
the generator at that latent and size, and nowhere else. Two normalisations cannot be folded exactly and stay as a
scale and a shift: one over a concatenation that zeros are padded to, and one behind a maximum.

It rebuilds the network from its configuration and weights, and knows nothing of how the fit computes it. Levels with
a nearest upsampling are then turned into phases (`dipfast.export.phases`), which is exact and takes fewer products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipfast import ops
from dipfast.export.phases import PAD_MODES, PhasedPointwise, PhasedSkip, PhasedUp, interleave, pays, phased_head
from dipfast.generators import parted
from dipfast.settings.shapes import latent_channels, per_scale, trunks

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

    def __init__(self, inputs: int, outputs: int, size: int, config: Mapping[str, Any], *, halve: bool = False):
        super().__init__()
        stride = 2 if halve and config["downsample"] == "stride" else 1
        self.conv = nn.ModuleDict({"conv": nn.Conv2d(inputs, outputs, size, stride=stride)})
        self.pool = config["downsample"] if halve and stride == 1 else None
        self.norm = Affine(outputs) if self.pool == "max" else None
        self.margin, self.pad, self.activation = (size - 1) // 2, config["pad"], config["activation"]
        self.register_buffer("taps", ops.resampling_taps("lanczos2", 2), persistent=False)

    @property
    def convolution(self) -> nn.Conv2d:
        return self.conv["conv"]  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:  # [B, I, H, W] -> [B, O, H or H / 2, W or W / 2]
        x = self._pooled(self.convolution(self._padded(x)))
        return ops.activate(x if self.norm is None else self.norm(x), self.activation)

    def _padded(self, x: Tensor) -> Tensor:
        return F.pad(x, (self.margin,) * 4, mode=PAD_MODES[self.pad]) if self.margin else x

    def _pooled(self, x: Tensor) -> Tensor:
        if self.pool == "avg":
            return F.avg_pool2d(x, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 2)
        if self.pool != "lanczos2":
            return x
        margin = (len(self.taps) - 2) // 2
        return ops.decimate(F.pad(x, (margin,) * 4, mode="replicate"), self.taps, 2)  # as operators of ONNX

    def freeze(
        self,
        x: Tensor,  # [1, I, H, W] float64, as the generator has it, before `first`
        weights: Weights,  # the generator's, float64
        name: str,
        first: tuple[Tensor, Tensor] | None = None,  # scale and shift [I] of `x`, to be folded in
    ) -> Tensor:  # [1, O, H', W'] float64, what the generator has behind this block
        """Take over the generator's weights of the block ``name`` and its statistics at ``x``."""
        kernel = weights[f"{name}.conv.conv.weight"]
        bias = weights.get(f"{name}.conv.conv.bias", kernel.new_zeros(kernel.shape[0]))
        if first is not None:
            bias = bias + (kernel * first[1].view(1, -1, 1, 1)).sum((1, 2, 3))
            kernel = kernel * first[0].view(1, -1, 1, 1)
        y = _convolution(self._padded(x), kernel, self.convolution.stride[0])
        y = self._pooled(y + bias.view(-1, 1, 1))
        scale, shift = statistics(y, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        if self.norm is None:
            kernel, bias = kernel * scale.view(-1, 1, 1, 1), bias * scale + shift
        else:
            _assign(self.norm, scale.view(-1, 1, 1), shift.view(-1, 1, 1))
        _assign(self.convolution, kernel, bias)
        return ops.activate(y * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), self.activation)


class Scale(nn.Module):
    """One level of the hourglass."""

    def __init__(self, index: int, inputs: int, config: Mapping[str, Any]):
        super().__init__()
        entries = per_scale(config)
        down, up, skip, size_down, size_up, self.mode = (entry[index] for entry in entries)
        deeper = down if index + 1 == len(config["channels"]) else entries[1][index + 1]
        self.skip: Block | PhasedSkip | None = Block(inputs, skip, config["kernel_skip"], config) if skip else None
        self.down1 = Block(inputs, down, size_down, config, halve=True)
        self.down2 = Block(down, down, size_down, config)
        self.norm = Affine(deeper + skip) if config["pad"] == "zero" and size_up > 1 else None
        self.up: Block | PhasedUp = Block(deeper + skip, up, size_up, config)
        self.pointwise: Block | PhasedPointwise | None = Block(up, up, 1, config) if config["pointwise_up"] else None
        self.phased = pays(self.mode, (size_up, config["kernel_skip"]), config["pad"], deeper, skip)
        self.widths = inputs, deeper, skip, up

    def in_phases(self, config: Mapping[str, Any]) -> None:
        """Turn the skip branch and the way up into phases, exactly, where that pays."""
        if not self.phased:
            return
        inputs, deeper, skip, up = self.widths
        self.up = _taken(PhasedUp(deeper, skip, up, config), self.up)
        if self.skip is not None:
            self.skip = _taken(PhasedSkip(inputs, skip, config), self.skip)
        if self.pointwise is not None:
            self.pointwise = _taken(PhasedPointwise(up, up, config), self.pointwise)

    def joined(self, x: Tensor, kept: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode=self.mode)
        return x if kept is None else torch.cat((kept, x), dim=1)

    def ascend(self, x: Tensor, kept: Tensor | None) -> Tensor:
        """The finer tensor, [B, U, 2 H, 2 W], or where it is `phased`, its phases [B, 4 U, H + 1, W + 1]."""
        if isinstance(self.up, PhasedUp):
            x = self.up.join(x, kept)
        else:
            x = self.joined(x, kept)
            x = self.up(x if self.norm is None else self.norm(x))
        return x if self.pointwise is None else self.pointwise(x)

    def freeze_ascent(self, x: Tensor, kept: Tensor | None, weights: Weights, name: str) -> Tensor:
        x = self.joined(x, kept)
        scale, shift = statistics(x, weights[f"{name}.norm.weight"], weights[f"{name}.norm.bias"])
        if self.norm is None:
            x = _plain(self.up).freeze(x, weights, f"{name}.up", (scale, shift))
        else:
            _assign(self.norm, scale.view(-1, 1, 1), shift.view(-1, 1, 1))
            x = _plain(self.up).freeze(x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1), weights, f"{name}.up")
        return x if self.pointwise is None else _plain(self.pointwise).freeze(x, weights, f"{name}.pointwise")


class Trunk(nn.Module):
    """The hourglass without its head: z [B, D, H, W] to features."""

    def __init__(self, config: Mapping[str, Any], latent_channels: int):
        super().__init__()
        inputs = (latent_channels, *config["channels"][:-1])
        self.scales = nn.ModuleList(Scale(i, inputs[i], config) for i in range(len(inputs)))

    def levels(self) -> list[Scale]:
        return list(self.scales)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:  # [B, U, H, W], or where the finest level is `phased`, its phases
        kept = []
        for scale in self.levels():
            kept.append(None if scale.skip is None else scale.skip(x))
            x = scale.down2(scale.down1(x))
        finest, *coarser = self.levels()
        for scale in reversed(coarser):
            x = scale.ascend(x, kept.pop())
            x = interleave(x) if scale.phased else x
        return finest.ascend(x, kept.pop())

    def freeze(
        self,
        x: Tensor,  # [1, D, H, W] float64, its latent
        weights: Weights,  # the generator's, float64
        prefix: str,  # of this trunk's names
    ) -> None:
        """Take over the generator's weights and its statistics at ``x``."""
        kept = []
        for i, scale in enumerate(self.levels()):
            name = f"{prefix}scales.{i}"
            kept.append(None if scale.skip is None else _plain(scale.skip).freeze(x, weights, f"{name}.skip"))
            x = scale.down2.freeze(scale.down1.freeze(x, weights, f"{name}.down1"), weights, f"{name}.down2")
        for i, scale in reversed(list(enumerate(self.levels()))):
            x = scale.freeze_ascent(x, kept[i], weights, f"{prefix}scales.{i}")


class FrozenNet(Trunk):
    """z [B, D, H, W] float32 to pictures [B, C, H, W] float32, each of a batch by itself; several trunks as `SkipNet`.

    Parameters have the names of the generator's own: `scales.0.down1.conv.conv.weight` … `head.bias`; in phases they
    have other shapes. Convolutions run in the dtype of the weights (`half` makes them float16); the head and the
    sigmoid stay in float32.
    """

    def __init__(self, config: Mapping[str, Any], image_channels: int):
        depth, count = latent_channels(config["input"], image_channels), trunks(config)
        super().__init__(config, depth)
        self.others = nn.ModuleList(Trunk(config, depth) for _ in range(1, count))
        self.head = nn.Conv2d(count * per_scale(config)[1][0], image_channels, 1)
        self.config, self.depth, self.sigmoid = config, depth, config["sigmoid"]
        self.low, self.width = (
            nn.Parameter(torch.ones(1, image_channels, 1, 1)) if config.get("ranged") else None for _ in range(2)
        )
        self.dtype = torch.float32

    def trunks(self) -> list[Trunk]:
        return [self, *self.others]

    @torch.no_grad()
    def in_phases(self) -> FrozenNet:
        """Itself, with the levels that have a nearest upsampling in phases, and the head where the finest has."""
        for scale in (scale for trunk in self.trunks() for scale in trunk.levels()):
            scale.in_phases(self.config)
        if self.levels()[0].phased:
            self.head = phased_head(self.head, len(self.trunks()))
        return self

    def half_precision(self) -> FrozenNet:
        """Itself, with convolutions in float16."""
        for trunk in self.trunks():
            trunk.scales.half()
        self.dtype = torch.float16
        return self

    def latents(self, latent: Tensor) -> Sequence[Tensor]:
        """Of each trunk."""
        return parted(latent, self.depth, len(self.trunks()))

    def forward(self, latent: Tensor) -> Tensor:
        own, *further = self.latents(latent.to(self.dtype))
        found = [super().forward(own), *(trunk(part) for trunk, part in zip(self.others, further, strict=True))]
        x = self.head((found[0] if len(found) == 1 else torch.cat(found, dim=1)).float())
        x = interleave(x) if self.levels()[0].phased else x
        x = x.sigmoid() if self.sigmoid else x
        return x if self.low is None or self.width is None else self.low + self.width * x


def freeze(
    config: Mapping[str, Any],
    weights: Weights,  # the generator's state
    latent: Tensor,  # [1, D, H, W], or [1, K D, H, W] of K trunks
) -> FrozenNet:
    """The generator with ``weights`` as it renders at ``latent``: float32, in evaluation mode, without gradients."""
    exact = {name: value.detach().cpu().double() for name, value in weights.items()}
    net = FrozenNet(config, exact["head.weight"].shape[0]).double()
    with torch.no_grad():
        for number, (trunk, part) in enumerate(zip(net.trunks(), net.latents(latent.cpu().double()), strict=True)):
            trunk.freeze(part, exact, f"others.{number - 1}." if number else "")
        _assign(net.head, exact["head.weight"], exact["head.bias"])
        if net.low is not None and net.width is not None:
            net.low.copy_(exact["low"])
            net.width.copy_(exact["width"])
    return net.in_phases().float().eval().requires_grad_(False)


def statistics(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift [C] that normalise ``x`` [1, C, H, W] as the generator does, with its biased variance."""
    variance, mean = torch.var_mean(x, (0, 2, 3), correction=0)
    scale = weight / (variance + EPS).sqrt()
    return scale, bias - mean * scale


def _convolution(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """`F.conv2d`, a band of rows at a time."""
    outputs, _, size, _ = kernel.shape
    rows, width = ((side - size) // stride + 1 for side in x.shape[2:])
    band = max(1, BAND // (outputs * width))
    bands = (x[:, :, first * stride : (min(first + band, rows) - 1) * stride + size] for first in range(0, rows, band))
    return torch.cat([F.conv2d(part, kernel, stride=stride) for part in bands], dim=2)


def _plain(module: nn.Module) -> Block:
    """A part that is not in phases yet."""
    assert isinstance(module, Block)
    return module


def _taken(phased: Any, block: Any) -> Any:
    """``phased`` with the weights of ``block``."""
    phased.to(block.convolution.weight).take(block.convolution.weight, block.convolution.bias)
    return phased


def _assign(module: nn.Module, weight: Tensor, bias: Tensor) -> None:
    module.weight.copy_(weight)  # type: ignore[operator]
    module.bias.copy_(bias)  # type: ignore[operator]
