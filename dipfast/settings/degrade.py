"""`degrade`: a clean image is damaged with a seed, so that a result can be measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from dipfast.settings.section import Section, Sigma
from dipfast.settings.task import Kernel


class Degrade(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="of the damage")
    crop: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="side of the square cut from the middle first"
    )


class AddGaussian(Degrade):
    """Add noise, white unless it is blurred or shared."""

    type: Literal["gaussian"]
    sigma: Sigma = Field(description="standard deviation in 8-bit units")
    blur: Annotated[float, Field(gt=0, le=8)] | None = Field(
        default=None,
        description="pixels, the deviation of a Gaussian that spreads the noise over its neighbours first",
    )
    shared: Literal[True] | None = Field(default=None, description="the channels of a pixel get the same noise")


class AddPoisson(Degrade):
    """Draw photons."""

    type: Literal["poisson"]
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class AddSaltPepper(Degrade):
    """Throw pixels to black or white."""

    type: Literal["salt-pepper"]
    amount: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of pixels that are hit")


class CompressJpeg(Degrade):
    """Save as JPEG and open again."""

    type: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=100)] = Field(description="the encoder's quality")


class DropPixels(Degrade):
    """Lose pixels at random."""

    type: Literal["missing"]
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="fraction of pixels that are lost")


class Scratch(Degrade):
    """Random strokes, thick and thin: the generated stand-in for text and scratches."""

    type: Literal["scratches"]
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.15, description="fraction of pixels that are lost")


class Shrink(Degrade):
    """Filter and keep each scale-th pixel."""

    type: Literal["downsample"]
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times smaller each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter")


Degradation = Annotated[
    AddGaussian | AddPoisson | AddSaltPepper | CompressJpeg | DropPixels | Scratch | Shrink,
    Field(discriminator="type"),
]
