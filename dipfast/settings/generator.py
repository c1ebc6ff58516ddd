"""`generator`: the network and its latent."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
    field_validator,
    model_validator,
)

from dipfast.settings.section import MAX_SIDE_CHANNELS, KernelSize, Section, Width


class NoiseInput(Section):
    """Random numbers, drawn once from the seed."""

    type: Literal["noise"] = "noise"
    depth: Width = Field(default=32, description="channels of the latent")
    distribution: Literal["uniform", "normal"] = Field(default="uniform", description="what is drawn, before scale")
    scale: Annotated[float, Field(gt=0)] = Field(default=0.1, description="factor on what is drawn")


class MeshgridInput(Section):
    """The pixel coordinates, two channels."""

    type: Literal["meshgrid"] = "meshgrid"


class ImageInput(Section):
    """The degraded image itself."""

    type: Literal["image"] = "image"
    blind: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="task denoise: share of the values that is hidden from the network, another at each step, and on "
        "which it is judged; for noise that is independent from pixel to pixel, or with reach; null: it sees all",
    )
    reach: Annotated[int, Field(ge=0, le=4)] | Literal["auto"] | None = Field(
        default=None,
        description="with blind, for noise that neighbours share: pixels around each value, both ways, that are hidden "
        "with it; auto: as measured, and all channels of a pixel where they share theirs; null: none",
    )
    recorrupt: Annotated[float, Field(gt=0, le=4)] | None = Field(
        default=None,
        description="with blind, for gaussian noise: what is not hidden is shown with more noise, this many times its "
        "own and anew at each step, and judged against the picture less that noise over this; with reach auto only "
        "where the noise is measured to be white; null: it is not judged",
    )
    noise: NoiseInput | None = Field(
        default=None, description="random numbers beside the image, in channels of their own; null: the image alone"
    )
    recompress: Literal[True] | None = Field(
        default=None,
        description="task jpeg: the network is shown the image quantised again, on a grid that lies elsewhere at each "
        "step; null: it is shown as it is",
    )


class FourierInput(Section):
    """Sines and cosines of the pixel coordinates."""

    type: Literal["fourier"] = "fourier"
    frequencies: Annotated[int, Field(gt=0, le=64)] = Field(default=8, description="octaves for each axis")


Latent = Annotated[NoiseInput | MeshgridInput | ImageInput | FourierInput, Field(discriminator="type")]
Upsample = Literal["nearest", "bilinear"]


class SkipGenerator(Section):
    """The hourglass with skip connections of Ulyanov et al. (CVPR 2018). Lists start at the finest scale."""

    type: Literal["skip"] = "skip"
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=1, max_length=8)] = Field(
        default=(128,) * 5,
        description="channels of each scale on the way down; their number is the number of scales",
    )
    up_channels: Annotated[tuple[Width, ...], Field(strict=False)] | None = Field(
        default=None, description="channels of each scale on the way up; null: as on the way down"
    )
    skip_channels: Annotated[int, Field(ge=0)] | Annotated[tuple[int, ...], Field(strict=False)] = Field(
        default=4, description="channels of the skip connections; 0: none"
    )
    kernel_down: KernelSize | Annotated[tuple[KernelSize, ...], Field(strict=False)] = Field(
        default=3, description="kernel size on the way down, odd"
    )
    kernel_up: KernelSize | Annotated[tuple[KernelSize, ...], Field(strict=False)] = Field(
        default=3, description="kernel size on the way up, odd"
    )
    kernel_skip: KernelSize = Field(default=1, description="kernel size of the skip connections, odd")
    upsample: Upsample | Annotated[tuple[Upsample, ...], Field(strict=False)] = Field(
        default="bilinear", description="how a coarse scale becomes a finer one"
    )
    downsample: Literal["stride", "avg", "max", "lanczos2"] = Field(
        default="stride", description="how a fine scale becomes a coarser one"
    )
    pad: Literal["reflection", "replication", "zero"] = Field(
        default="reflection", description="padding of convolutions"
    )
    activation: Literal["leaky_relu", "relu", "elu", "swish", "none"] = Field(
        default="leaky_relu", description="non-linearity after each normalisation"
    )
    pointwise_up: bool = Field(default=True, description="a 1x1 convolution after each scale's upward convolution")
    bias: bool = Field(default=False, description="biases before normalisations too; their gradient is zero")
    sigmoid: bool = Field(default=True, description="end in a sigmoid, so that the image stays in [0, 1]")
    input: Latent = Field(default=NoiseInput(), description="the latent: the network's fixed input")

    @field_validator("kernel_down", "kernel_up", "kernel_skip")
    @classmethod
    def _odd(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if any(size % 2 == 0 for size in (value if isinstance(value, tuple) else (value,))):
            raise ValueError("should be odd: an even kernel has no centre")
        return value

    @model_validator(mode="after")
    def _same_length(self) -> SkipGenerator:
        for name in ("up_channels", "skip_channels", "kernel_down", "kernel_up", "upsample"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.channels):
                raise ValueError(f"{name} has {len(value)} entries where channels has {len(self.channels)} scales")
        skips = self.skip_channels if isinstance(self.skip_channels, tuple) else (self.skip_channels,)
        if not all(0 <= width <= MAX_SIDE_CHANNELS for width in skips):
            raise ValueError(f"skip_channels should be between 0 and {MAX_SIDE_CHANNELS}")
        return self


Generator = SkipGenerator
