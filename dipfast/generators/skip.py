"""The hourglass with skip connections of Deep Image Prior (Ulyanov et al., CVPR 2018).

Batch statistics are always those of the image at hand: there are no running averages, in the fit and after it.
Convolutions run in the dtype that `forward` is asked for, small ones on a CPU in float32, which is faster there;
normalisation statistics, the head and the sigmoid stay in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dipfast import ops
from dipfast.shapes import per_scale, trunks


class Conv(nn.Module):
    """Padding, convolution and, where stride 2 is asked for with another filter than striding, that filter."""

    taps: Tensor

    def __init__(self, inputs: int, outputs: int, size: int, config: Mapping[str, Any], *, halve: bool, bias: bool):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride=2 if halve and config["downsample"] == "stride" else 1)
        if not bias:
            self.conv.register_parameter("bias", None)
        self.margin, self.pad = (size - 1) // 2, config["pad"]
        self.given = 0  # rows and columns of padding that its input has already: none, or all of the margin
        self.pool = config["downsample"] if halve and config["downsample"] != "stride" else None
        if self.pool == "lanczos2":
            self.register_buffer("taps", ops.resampling_taps("lanczos2", 2).float(), persistent=False)

    def ask(self, before: Norm) -> None:
        """Have ``before``, whose output this convolution takes, pad it; zeros are still padded here."""
        if self.pad != "zero":
            before.margin, before.pad, self.given = self.margin, self.pad, self.margin

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [1, I, H, W] -> [1, O, H or H / 2, W or W / 2]
        weight, bias, stride = self.conv.weight, self.conv.bias, self.conv.stride
        dtype = ops.conv_dtype(dtype, x, weight.numel() * x.shape[2] * x.shape[3] // (stride[0] * stride[1]))
        x = ops.pad(x.to(dtype), self.margin - self.given, self.pad)
        x = F.conv2d(x, weight.to(dtype), None if bias is None else bias.to(dtype), stride=stride)
        if self.pool == "avg":
            return F.avg_pool2d(x, 2)
        if self.pool == "max":
            return F.max_pool2d(x, 2)
        return ops.downsample(x, self.taps, 2) if self.pool == "lanczos2" else x


class Norm(nn.Module):
    """Normalisation by the image's own statistics, with a learned scale and shift, then an activation.

    Where it is `fused`, one kernel does both, and pads by ``margin`` for the convolution that asked for that.
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

    def __init__(self, inputs: int, outputs: int, size: int, config: Mapping[str, Any], *, halve: bool = False):
        super().__init__()
        self.conv = Conv(inputs, outputs, size, config, halve=halve, bias=config["bias"])
        self.norm = Norm(outputs, config["activation"])

    def forward(self, x: Tensor, dtype: torch.dtype) -> Tensor:  # [1, I, H, W] -> [1, O, H or H / 2, W or W / 2]
        return self.norm(self.conv(x, dtype))


class Scale(nn.Module):
    """One level of the hourglass: the way down to half the size, the skip branch, and the way back up."""

    taps: Tensor

    def __init__(self, index: int, inputs: int, config: Mapping[str, Any]):
        super().__init__()
        down, up, skip, size_down, size_up, mode = (entry[index] for entry in per_scale(config))
        deeper = down if index + 1 == len(config["channels"]) else per_scale(config)[1][index + 1]
        self.mode = mode
        # What follows the upsampling is then done on four phases, each of the coarse size.
        self.in_phases = mode == "nearest" and size_up == 3 and config["pad"] != "zero"
        if self.in_phases:
            self.register_buffer("taps", ops.phase_taps(), persistent=False)
        self.kept_margin = ops.kept_margin(skip, deeper)  # of the skip branch where it is joined in phases
        self.skip = Block(inputs, skip, config["kernel_skip"], config) if skip else None
        self.down1 = Block(inputs, down, size_down, config, halve=True)
        self.down2 = Block(down, down, size_down, config)
        self.norm = Norm(deeper + skip)
        self.up = Block(deeper + skip, up, size_up, config)
        self.pointwise = Block(up, up, 1, config) if config["pointwise_up"] else None
        self.recompute = False

    def fuse(self, below: Scale | None) -> None:
        """Have one kernel do each normalisation with its activation and the padding of the convolution that follows.

        ``below`` is the next coarser scale, which takes what this one's way down gives.
        """
        for part in self.modules():
            if isinstance(part, Norm):
                part.fused = True
        self.down2.conv.ask(self.down1.norm)
        if below is not None:
            below.down1.conv.ask(self.down2.norm)
        if not self.in_phases:
            self.up.conv.ask(self.norm)
        elif self.skip is not None:
            self.skip.norm.margin, self.skip.norm.pad = self.kept_margin, self.up.conv.pad

    def _run(self, part: Callable[..., Tensor], *inputs: Any) -> Tensor:
        """``part`` of ``inputs``; with `recompute` only these are kept for the backward, which runs it again."""
        if self.recompute and torch.is_grad_enabled():
            result: Tensor = checkpoint(part, *inputs, use_reentrant=False, preserve_rng_state=False)
            return result
        return part(*inputs)

    def descend(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, Tensor]:
        bare = ops.inside(x, self.down1.conv.given)
        kept = None if self.skip is None else self._run(self.skip, bare, dtype)  # [1, S, H, W]
        return kept, self._run(self.down2, self._run(self.down1, x, dtype), dtype)  # [1, D, H / 2, W / 2]

    def ascend(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:  # [1, U, H, W]
        x = self.rise(x, kept, dtype)
        return ops.interleave(x) if self.in_phases else x

    def rise(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:
        """The finer tensor, [1, U, H, W], or its four phases, [4, U, H / 2, W / 2], where `in_phases` says so."""
        x = self._run(self._join, x, kept, dtype)
        return x if self.pointwise is None else self._run(self.pointwise, x, dtype)

    def _join(self, x: Tensor, kept: Tensor | None, dtype: torch.dtype) -> Tensor:
        if self.in_phases:
            conv = self.up.conv
            margin = 0 if self.skip is None else self.skip.norm.margin
            x = ops.nearest_conv(x, kept, conv.conv.weight, self.norm.weight, conv.pad, self.taps, dtype, margin=margin)
            return self.up.norm(x)
        x = ops.upsample2x(x if kept is None else x.to(kept.dtype), self.mode)
        return self.up(self.norm(x if kept is None else torch.cat((kept, x), dim=1)), dtype)


def parted(z: Tensor, depth: int, count: int) -> Sequence[Tensor]:  # [B, D or K D, H, W] -> K of [B, D, H, W]
    """The latent of each of ``count`` trunks: all share one of ``depth`` channels."""
    return [z] * count if z.shape[1] == depth else z.split(depth, dim=1)


class Trunk(nn.Module):
    """The hourglass without its head: z [1, D, H, W] to features."""

    def __init__(self, config: Mapping[str, Any], latent_channels: int):
        super().__init__()
        inputs = (latent_channels, *config["channels"][:-1])
        self.scales = nn.ModuleList(Scale(i, inputs[i], config) for i in range(len(inputs)))

    def _levels(self) -> list[Scale]:
        return list(self.scales)  # type: ignore[arg-type]

    @property
    def in_phases(self) -> bool:
        """Whether features are the four phases of the picture's size."""
        return self._levels()[0].in_phases

    def fuse(self) -> None:
        """Have every normalisation run as the kernel of `dipfast.kernels` (`Scale.fuse`), from now on."""
        levels = self._levels()
        for scale, below in zip(levels, [*levels[1:], None], strict=True):
            scale.fuse(below)

    def features(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """What a head sees: [1, U, H, W], or its phases, [4, U, H / 2, W / 2], where `in_phases` says so."""
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

    Parameter names are stable: `scales.<i>.<skip|down1|down2|up|pointwise>.conv.conv.weight`, `….norm.weight`,
    `scales.<i>.norm.weight` (over the concatenation), `head.weight`, `head.bias`; scale 0 is the finest. With
    `trunks: K` in ``config`` there are K - 1 further trunks, `others.<k>.scales.…`, and the head is over the features
    of all, [1, K U, H, W]. Then z has the latents of all, one behind the other, or one that all share. With `ranged:
    true` it gives `low` + `width` times its picture: it was fitted to a picture in a range of its own.
    """

    def __init__(self, config: Mapping[str, Any], latent_channels: int, image_channels: int, seed: int):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            super().__init__(config, latent_channels)
            self.others = nn.ModuleList(Trunk(config, latent_channels) for _ in range(1, trunks(config)))
            self.head = nn.Conv2d(trunks(config) * per_scale(config)[1][0], image_channels, 1)
        self.depth, self.sigmoid = latent_channels, config["sigmoid"]
        self.fused = False  # whether it runs on Triton's kernels, and the steps of its optimiser too
        own = (torch.zeros(1, image_channels, 1, 1), torch.ones(1, image_channels, 1, 1))
        self.low: Tensor | None
        self.width: Tensor | None
        for name, part in zip(("low", "width"), own, strict=True):
            self.register_buffer(name, part if config.get("ranged") else None)

    def fuse(self) -> None:
        """Have all trunks run on the kernels of `dipfast.kernels`, from now on."""
        self.fused = True
        super().fuse()
        for trunk in self.others:
            trunk.fuse()  # type: ignore[operator]

    def recompute(self, on: bool) -> None:
        """Whether a backward works out again what lies between a block's input and its output: the same bits in less
        memory, for a third more operations.
        """
        for scale in self.modules():
            if isinstance(scale, Scale):
                scale.recompute = on

    def forward(self, z: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        x = self.picture(self.features(z, dtype))
        x = ops.interleave(x) if self.in_phases else x
        return x if self.low is None or self.width is None else self.low + self.width * x

    def features(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        """What the head sees: the features of all trunks, as channels."""
        own, *further = parted(z, self.depth, 1 + len(self.others))
        found = [super().features(own, dtype)]
        found += [trunk.features(part, dtype) for trunk, part in zip(self.others, further, strict=True)]  # type: ignore[operator]
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)

    def picture(self, x: Tensor) -> Tensor:
        """What the head makes of `features`: the image, or its phases."""
        weight = self.head.weight
        x = x.to(weight.dtype).permute(
            0, 2, 3, 1
        )  # a product over channels: oneDNN's 1x1 convolution is slow at three outputs
        x = F.linear(x, weight.flatten(1), self.head.bias).permute(0, 3, 1, 2)
        return x.sigmoid() if self.sigmoid else x
