"""Encoders and decoders with skip connections, built from their architecture: the networks of Deep Image Prior.

Batch statistics are always those of the image at hand: there are no running averages, in the fit and after it.
Convolutions run in the dtype that `forward` is asked for, small ones on a CPU in float32, which is faster there;
normalisation statistics, the head and the sigmoid stay in float32. Source: Ulyanov et al., CVPR 2018.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dipfast import ops
from dipfast.generators import architecture
from dipfast.generators.architecture import Architecture, architecture_of
from dipfast.settings.generator import SkipGenerator


class Conv(nn.Module):
    """Padding, convolution and, where one halves the sides, a filter."""

    taps: Tensor

    def __init__(self, block: architecture.Block):
        super().__init__()
        self.conv = nn.Conv2d(block.inputs, block.outputs, block.kernel, stride=block.stride)
        if not block.bias:
            self.conv.register_parameter("bias", None)
        self.margin, self.pad, self.filter = block.margin, block.pad, block.filter
        self.padded = 0  # rows and columns of padding that its input has already: none, or all of the margin
        if self.filter == "lanczos2":
            self.register_buffer("taps", ops.resampling_taps("lanczos2", 2).float(), persistent=False)

    def pad_in(self, before: Norm) -> None:
        """Have ``before``, whose output this convolution takes, pad it; zeros are still padded here."""
        if self.pad != "zero":
            before.margin, before.pad, self.padded = self.margin, self.pad, self.margin

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [1, I, H, W] -> [1, O, H or H / 2, W or W / 2]
        weight, bias, stride = self.conv.weight, self.conv.bias, self.conv.stride
        dtype = ops.conv_dtype(dtype, x, weight.numel() * x.shape[2] * x.shape[3] // (stride[0] * stride[1]))
        x = ops.pad(x.to(dtype), self.margin - self.padded, self.pad)
        x = F.conv2d(x, weight.to(dtype), None if bias is None else bias.to(dtype), stride=stride)
        if self.filter == "avg":
            return F.avg_pool2d(x, 2)
        if self.filter == "max":
            return F.max_pool2d(x, 2)
        return ops.downsample(x, self.taps, 2) if self.filter == "lanczos2" else x


class Norm(nn.Module):
    """Normalisation by the image's own statistics, with a learned scale and shift, then an activation.

    Where it is `fused`, one kernel does both, and pads by ``margin`` for the convolution that takes its output.
    """

    def __init__(self, channels: int, activation: str = "none"):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.activation, self.fused = activation, False
        self.margin, self.pad = 0, "reflection"

    def forward(self, x: Tensor) -> Tensor:  # [1, C, H, W] -> the same, or [1, C, H + 2 margin, W + 2 margin]
        if self.fused:
            return ops.norm_pad(x, self.weight, self.bias, self.activation, self.margin, self.pad)
        return ops.activate(ops.batch_norm(x, self.weight, self.bias), self.activation)


class Block(nn.Module):
    """Convolution, normalisation, activation."""

    def __init__(self, block: architecture.Block):
        super().__init__()
        self.conv = Conv(block)
        self.norm = Norm(block.outputs, block.activation)

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [1, I, H, W] -> [1, O, H or H / 2, W or W / 2]
        return self.norm(self.conv(x, dtype))


class Scale(nn.Module):
    """One level: the branch that is kept, the way down to half the size, and the way back up."""

    taps: Tensor

    def __init__(self, level: architecture.Level):
        super().__init__()
        self.keeps, self.mode = level.branch is not None, level.join.upsample
        parts = {"branch": level.branch or (), "down": level.down, "up": level.up}
        self.names = {part: [block.name for block in blocks] for part, blocks in parts.items()}
        self.in_phases = level.in_phases  # then what follows the upsampling has four phases, each of the coarse size
        if self.in_phases:
            self.register_buffer("taps", ops.phase_taps(), persistent=False)
        self.kept_margin = ops.kept_margin(level.join.kept, level.join.coarse)  # of a branch that is joined in phases
        for block in (*parts["branch"], *level.down):
            self.add_module(block.name, Block(block))
        self.norm = Norm(level.join.channels)
        for block in level.up:
            self.add_module(block.name, Block(block))
        self.recompute = False

    def blocks(self, part: str) -> list[Block]:
        """Return the blocks of a part of the level: branch, down or up."""
        return [getattr(self, name) for name in self.names[part]]

    def fuse(self) -> None:
        """Have one kernel do each normalisation with its activation and the padding of the convolution that follows.

        What the first block down takes is padded by the level above (`Trunk.fuse`).
        """
        for part in self.modules():
            if isinstance(part, Norm):
                part.fused = True
        for blocks in map(self.blocks, self.names):
            for before, after in pairwise(blocks):
                after.conv.pad_in(before.norm)
        conv, branch = self.blocks("up")[0].conv, self.blocks("branch")
        if not self.in_phases:
            conv.pad_in(self.norm)
        elif branch:
            branch[-1].norm.margin, branch[-1].norm.pad = self.kept_margin, conv.pad

    def _run(self, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """``part`` of ``inputs``; with `recompute` only these are kept for the backward, which runs it again."""
        if self.recompute and torch.is_grad_enabled():
            result: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
            return result
        return part(*inputs)

    def _through(self, blocks: Sequence[Block], x: Tensor, dtype: torch.dtype) -> Tensor:
        for block in blocks:
            x = self._run(block, x, dtype)
        return x

    def descend(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        """Return what is kept, [1, S, H, W] or None, and the input of the next level, [1, D, H / 2, W / 2]."""
        down = self.blocks("down")
        kept = None
        if self.keeps:
            kept = self._through(self.blocks("branch"), ops.inside(x, down[0].conv.padded if down else 0), dtype)
        return kept, self._through(down, x, dtype)

    def ascend(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:  # [1, U, H, W]
        x = self.rise(x, kept, dtype)
        return ops.interleave(x) if self.in_phases else x

    def rise(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the finer tensor, [1, U, H, W], or its four phases, [4, U, H / 2, W / 2], where it is `in_phases`."""
        return self._through(self.blocks("up")[1:], self._run(self._join, x, kept, dtype), dtype)

    def _join(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:
        first, branch = self.blocks("up")[0], self.blocks("branch")
        if self.in_phases:
            conv, margin = first.conv, branch[-1].norm.margin if branch else 0
            x = ops.nearest_conv(x, kept, conv.conv.weight, self.norm.weight, conv.pad, self.taps, dtype, margin=margin)
            return first.norm(x)
        x = ops.upsample2x(x if kept is None else x.to(kept.dtype), self.mode)
        return first(self.norm(x if kept is None else torch.cat((kept, x), dim=1)), dtype)


def latent_parts(z: Tensor, depth: int, count: int) -> Sequence[Tensor]:  # [B, D or K D, H, W] -> K of [B, D, H, W]
    """Return the latent of each of ``count`` trunks, which may all share one of ``depth`` channels."""
    return [z] * count if z.shape[1] == depth else z.split(depth, dim=1)


class Trunk(nn.Module):
    """A network without its head: z [1, D, H, W] to features."""

    def __init__(self, levels: Sequence[architecture.Level]):
        super().__init__()
        self.scales = nn.ModuleList(Scale(level) for level in levels)

    def _levels(self) -> list[Scale]:
        return list(self.scales)  # type: ignore[arg-type]

    @property
    def in_phases(self) -> bool:
        """Whether features are the four phases of the picture's size."""
        return self._levels()[0].in_phases

    def fuse(self) -> None:
        """Have every normalisation run as the kernel of `dipfast.kernels` (`Scale.fuse`), from now on."""
        for scale in self._levels():
            scale.fuse()
        for scale, coarser in pairwise(self._levels()):
            if scale.blocks("down") and coarser.blocks("down"):
                coarser.blocks("down")[0].conv.pad_in(scale.blocks("down")[-1].norm)

    def features(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what a head sees: [1, U, H, W], or its phases, [4, U, H / 2, W / 2], where it is `in_phases`."""
        x, kept = z, []
        for scale in self._levels():
            skip, x = scale.descend(x, dtype)
            kept.append(skip)
        finest, *coarser = self._levels()
        for scale in reversed(coarser):
            x = scale.ascend(x, kept.pop(), dtype)
        return finest.rise(x, kept.pop(), dtype)


class SkipNet(Trunk):
    """z [1, D, H, W] to image [1, C, H, W]; H and W are multiples of 2 to the number of scales.

    Parameter names are stable: `scales.<i>.<block>.conv.conv.weight`, `scales.<i>.<block>.norm.weight` with the blocks'
    names in the architecture, `scales.<i>.norm.weight` (over the concatenation), `head.weight`, `head.bias`; scale 0
    is the finest. K - 1 further trunks are `others.<k>.scales.…`, and the head is over the features of all,
    [1, K U, H, W]. Then z has the latents of all as channels, or one that all share. A `ranged` one gives `low` +
    `width` times its picture: it was fitted to a picture in a range of its own.

    Weights are drawn on the CPU from ``seed`` alone, by PyTorch's default initialisation, in the order of the names.
    """

    def __init__(self, architecture: Architecture, seed: int):
        levels, head = architecture.levels, architecture.head
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            super().__init__(levels)
            self.others = nn.ModuleList(Trunk(levels) for _ in range(1, architecture.trunks))
            self.head = nn.Conv2d(head.inputs, head.outputs, 1)
        self.depth, self.sigmoid = architecture.latent, head.sigmoid
        self.fused = False  # whether it runs on Triton's kernels, and the steps of its optimiser too
        own = (torch.zeros(1, head.outputs, 1, 1), torch.ones(1, head.outputs, 1, 1))
        self.low: Tensor | None
        self.width: Tensor | None
        for name, part in zip(("low", "width"), own, strict=True):
            self.register_buffer(name, part if head.ranged else None)

    def fuse(self) -> None:
        """Have all trunks run on the kernels of `dipfast.kernels`, from now on."""
        self.fused = True
        super().fuse()
        for trunk in self.others:
            trunk.fuse()  # type: ignore[operator]

    def recompute(self, on: bool) -> None:
        """Have a backward compute again, or not, what lies between a block's input and its output.

        The bits are the same, in less memory, for a third more operations.
        """
        for scale in self.modules():
            if isinstance(scale, Scale):
                scale.recompute = on

    def forward(self, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = self.picture(self.features(z, dtype))
        x = ops.interleave(x) if self.in_phases else x
        return x if self.low is None or self.width is None else self.low + self.width * x

    def features(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what the head sees: the features of all trunks, as channels."""
        own, *further = latent_parts(z, self.depth, 1 + len(self.others))
        found = [super().features(own, dtype)]
        found += [trunk.features(part, dtype) for trunk, part in zip(self.others, further, strict=True)]  # type: ignore[operator]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def picture(self, x: Tensor) -> Tensor:
        """Return what the head makes of `features`: the image, or its phases."""
        weight = self.head.weight  # a product over channels: oneDNN's 1x1 convolution is slow at three outputs
        x = x.to(weight.dtype).permute(0, 2, 3, 1)
        x = F.linear(x, weight.flatten(1), self.head.bias).permute(0, 3, 1, 2)
        return x.sigmoid() if self.sigmoid else x


def build(generator: SkipGenerator, image_channels: int, seed: int) -> SkipNet:
    """Return the network that ``generator`` describes. The same ``seed`` gives the same weights on every device."""
    return SkipNet(architecture_of(generator, image_channels), seed)


def joined(modules: Sequence[SkipNet], generator: SkipGenerator) -> SkipNet:
    """Return one network with the trunks of all ``modules`` of ``generator``, and the mean of their heads."""
    first, *others = (module.state_dict() for module in modules)
    state = dict(first)
    for number, other in enumerate(others):
        state |= {f"others.{number}.{name}": value for name, value in other.items() if name.startswith("scales.")}
    state["head.weight"] = torch.cat([one["head.weight"] for one in (first, *others)], dim=1) / len(modules)
    state["head.bias"] = torch.stack([one["head.bias"] for one in (first, *others)]).mean(0)
    bias = state["head.bias"]
    module = SkipNet(architecture_of(generator, len(bias), trunks=len(modules)), seed=0).to(bias.device)
    module.load_state_dict(state)
    return module
