"""`task`: the inverse problem; `degrade`: a clean image is damaged with a seed, so that a result can be measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from dipfast.settings.section import SHORT, Section, Sigma, Template

Kernel = Literal["lanczos2", "lanczos3", "bicubic"]

ALPHA = "alpha"  # a mask that the picture itself holds: what is fully transparent is to be filled in
LATER_TASKS = ("flash", "invert", "maximize")  # words of the manifest that this version does not do


class GaussianNoise(Section):
    """White noise of one standard deviation."""

    type: Literal["gaussian"] = "gaussian"
    sigma: Sigma | Literal["auto"] = Field(
        default="auto", description="standard deviation in 8-bit units; auto: estimated"
    )
    clipped: bool = Field(
        default=True,
        description="the noise was cut off at black and white, as any file of 8 bits has it, and the fit reckons with "
        "it; false: fitted as it is, as the papers do",
    )
    force: Literal[True] | None = Field(
        default=None,
        description="with sigma auto: fit a picture even where no noise is found, and do not limit the change to what "
        "the noise that was found explains",
    )


class PoissonNoise(Section):
    """Photon noise."""

    type: Literal["poisson"] = "poisson"
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class SaltPepperNoise(Section):
    """Pixels thrown to black or white."""

    type: Literal["salt-pepper"] = "salt-pepper"


Noise = Annotated[GaussianNoise | PoissonNoise | SaltPepperNoise, Field(discriminator="type")]


class Denoise(Section):
    """Remove noise: A is the identity."""

    type: Literal["denoise"] = "denoise"
    noise: Noise = Field(
        default=GaussianNoise(),
        description="what the noise is like; a number: Gaussian noise of that sigma",
        json_schema_extra={SHORT: [{"type": "number", "exclusiveMinimum": 0, "maximum": 255}, {"const": "auto"}]},
    )


class Jpeg(Section):
    """Remove the blocks and rings of JPEG compression."""

    type: Literal["jpeg"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["auto"] | None = Field(
        default="auto",
        description="libjpeg's quality that the picture was coded with: its coefficients are compared by that, and "
        "come out within half a step; auto: measured; null: pixels are compared as they are, as the first paper does",
    )


class Inpaint(Section):
    """Fill what the mask leaves out: A multiplies by the mask."""

    type: Literal["inpaint"] = "inpaint"
    mask: Template | None = Field(
        default=None,
        description="mask image of the input's size, black and white; {stem} and the like are filled in; alpha: the "
        "picture's own alpha, whose fully transparent pixels are filled in",
    )
    known: Literal["auto", "white", "black"] = Field(
        default="auto",
        description="which colour of the mask marks known pixels; auto: white, refused where that looks upside down",
    )
    keep_known: bool = Field(default=True, description="return the known pixels exactly as they were")


class SuperRes(Section):
    """Enlarge: A filters and keeps each scale-th pixel."""

    type: Literal["superres"] = "superres"
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times larger each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter that made the small image")
    keep_given: bool = Field(
        default=True,
        description="return the picture nearest to the network's that A makes the given one of; false: the network's",
    )


Task = Annotated[Denoise | Jpeg | Inpaint | SuperRes, Field(discriminator="type")]


class Degrade(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="of the damage")
    crop: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="side of the square cut from the middle first"
    )


class AddGaussian(Degrade):
    """Add noise, white unless it is blurred or shared."""

    type: Literal["gaussian"] = "gaussian"
    sigma: Sigma = Field(description="standard deviation in 8-bit units")
    blur: Annotated[float, Field(gt=0, le=8)] | None = Field(
        default=None,
        description="pixels, the deviation of a Gaussian that spreads the noise over its neighbours first",
    )
    shared: Literal[True] | None = Field(default=None, description="the channels of a pixel get the same noise")


class AddPoisson(Degrade):
    """Draw photons."""

    type: Literal["poisson"] = "poisson"
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class AddSaltPepper(Degrade):
    """Throw pixels to black or white."""

    type: Literal["salt-pepper"] = "salt-pepper"
    amount: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of pixels that are hit")


class CompressJpeg(Degrade):
    """Save as JPEG and open again."""

    type: Literal["jpeg"] = "jpeg"
    quality: Annotated[int, Field(ge=1, le=100)] = Field(description="the encoder's quality")


class DropPixels(Degrade):
    """Lose pixels at random."""

    type: Literal["missing"] = "missing"
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="fraction of pixels that are lost")


class Scratch(Degrade):
    """Random strokes, thick and thin: the generated stand-in for text and scratches."""

    type: Literal["scratches"] = "scratches"
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.15, description="fraction of pixels that are lost")


class Shrink(Degrade):
    """Filter and keep each scale-th pixel."""

    type: Literal["downsample"] = "downsample"
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times smaller each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter")


Degradation = Annotated[
    AddGaussian | AddPoisson | AddSaltPepper | CompressJpeg | DropPixels | Scratch | Shrink,
    Field(discriminator="type"),
]
