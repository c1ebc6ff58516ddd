"""What a generator consists of, as data: levels of convolutions, the latent that enters them, and the head.

An architecture is derived once from the settings (`architecture_of`). The modules, the export and the predictions of
operations and bytes walk over its levels and blocks and know no family of networks: a family is a function that gives
levels. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from dipfast.settings.generator import SkipGenerator
from dipfast.settings.shapes import latent_channels, per_scale


@dataclass(frozen=True)
class Block:
    """A padded convolution, perhaps a filter that halves the sides, then normalisation and activation."""

    name: str  # of its parameters, within its level
    inputs: int  # channels
    outputs: int
    kernel: int  # pixels a side, odd
    halvings: int  # of the picture's sides, where the convolution gives its output
    pad: str  # reflection, replication or zero
    activation: str
    bias: bool
    downsample: str | None = None  # how the sides are halved: stride, avg, max or lanczos2; None: they stay

    @property
    def margin(self) -> int:
        """Rows and columns of padding on each side."""
        return (self.kernel - 1) // 2

    @property
    def stride(self) -> int:
        return 2 if self.downsample == "stride" else 1

    @property
    def filter(self) -> str | None:
        """The filter after the convolution that halves the sides, where no stride does."""
        return None if self.downsample == "stride" else self.downsample

    @property
    def weights(self) -> int:
        """Numbers in the kernel."""
        return self.inputs * self.outputs * self.kernel**2


@dataclass(frozen=True)
class Join:
    """The coarse tensor at twice its size, concatenated after the branch's channels, and normalised."""

    upsample: str  # nearest or bilinear
    coarse: int  # channels that come from the coarser level
    kept: int  # channels of the branch; 0 where there is none

    @property
    def channels(self) -> int:
        return self.coarse + self.kept


@dataclass(frozen=True)
class Level:
    """One size of an encoder and decoder: what is kept of its input, the way down, the join, and the way up."""

    halvings: int  # of the picture's sides
    branch: tuple[Block, ...] | None  # of the input, on the way to the join; (): the input itself; None: nothing
    down: tuple[Block, ...]  # to the next coarser level; (): a decoder, whose latent has the coarsest size
    join: Join
    up: tuple[Block, ...]  # of the joined tensor; one block at least

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (*(self.branch or ()), *self.down, *self.up)

    @property
    def in_phases(self) -> bool:
        """Whether the way up can be computed as four phases of the coarse size, exactly (`ops.nearest_conv`)."""
        first, *further = self.up
        nearest = self.join.upsample == "nearest" and first.kernel == 3 and first.pad != "zero"
        return nearest and all(block.kernel == 1 for block in further)


@dataclass(frozen=True)
class Head:
    """The 1x1 convolution with a bias from the features of all trunks to the picture."""

    inputs: int  # channels
    outputs: int
    sigmoid: bool
    ranged: bool  # whether `low` + `width` times its output is the picture


@dataclass(frozen=True)
class Architecture:
    """A generator: ``trunks`` networks of the same ``levels``, finest first, under one head."""

    latent: int  # channels that enter each trunk
    trunks: int
    levels: tuple[Level, ...]
    head: Head


def architecture_of(
    generator: SkipGenerator, image_channels: int, *, trunks: int = 1, ranged: bool = False
) -> Architecture:
    """Return the architecture of a generator for pictures of ``image_channels``.

    ``trunks`` and ``ranged`` are those of `Architecture` and `Head`, as a stored generator's card has them.
    """
    latent = latent_channels(generator.input, image_channels)
    levels = tuple(_hourglass(generator, latent))
    head = Head(trunks * levels[0].up[-1].outputs, image_channels, generator.sigmoid, ranged)
    return Architecture(latent, trunks, levels, head)


def _hourglass(generator: SkipGenerator, latent: int) -> Iterator[Level]:
    """Yield the levels of the hourglass with skip connections of Ulyanov et al. (CVPR 2018), finest first."""
    down, up, skip, kernel_down, kernel_up, upsample = per_scale(generator)
    inputs, coarse = (latent, *down[:-1]), (*up[1:], down[-1])
    block = partial(Block, pad=generator.pad, activation=generator.activation, bias=generator.bias)
    pooled = generator.downsample != "stride"  # then the first convolution still runs at full size
    for i, width in enumerate(down):
        halve = partial(block, halvings=i if pooled else i + 1, downsample=generator.downsample)
        pointwise = (block("pointwise", up[i], up[i], 1, i),) if generator.pointwise_up else ()
        yield Level(
            halvings=i,
            branch=(block("skip", inputs[i], skip[i], generator.kernel_skip, i),) if skip[i] else None,
            down=(
                halve("down1", inputs[i], width, kernel_down[i]),
                block("down2", width, width, kernel_down[i], i + 1),
            ),
            join=Join(upsample[i], coarse[i], skip[i]),
            up=(block("up", coarse[i] + skip[i], up[i], kernel_up[i], i), *pointwise),
        )
