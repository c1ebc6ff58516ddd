"""`task`: the inverse problem."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from dipfast.settings.section import Section, Sigma, Template

Kernel = Literal["lanczos2", "lanczos3", "bicubic"]

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


class PoissonNoise(Section):
    """Photon noise."""

    type: Literal["poisson"]
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class SaltPepperNoise(Section):
    """Pixels thrown to black or white."""

    type: Literal["salt-pepper"]


Noise = Annotated[GaussianNoise | PoissonNoise | SaltPepperNoise, Field(discriminator="type")]


class Denoise(Section):
    """Remove noise: A is the identity."""

    type: Literal["denoise"] = "denoise"
    noise: Noise = Field(default=GaussianNoise(), description="what the noise is like")


class Jpeg(Section):
    """Remove the blocks and rings of JPEG compression."""

    type: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=100)] | Literal["auto"] | None = Field(
        default="auto",
        description="libjpeg's quality that the picture was coded with: its coefficients are compared by that, and "
        "come out within half a step; auto: measured; null: pixels are compared as they are, as the first paper does",
    )


class Inpaint(Section):
    """Fill what the mask leaves out: A multiplies by the mask."""

    type: Literal["inpaint"]
    mask: Template | None = Field(
        default=None,
        description="mask image of the input's size, black and white; {stem} and the like are filled in",
    )
    known: Literal["auto", "white", "black"] = Field(
        default="auto",
        description="which colour of the mask marks known pixels; auto: white, refused where that looks upside down",
    )
    keep_known: bool = Field(default=True, description="return the known pixels exactly as they were")


class SuperRes(Section):
    """Enlarge: A filters and keeps each scale-th pixel."""

    type: Literal["superres"]
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times larger each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter that made the small image")
    keep_given: bool = Field(
        default=True,
        description="return the picture nearest to the network's that A makes the given one of; false: the network's",
    )


Task = Annotated[Denoise | Jpeg | Inpaint | SuperRes, Field(discriminator="type")]
