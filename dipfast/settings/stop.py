"""`fit.stop`: when a fit ends before its last step."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from dipfast.settings.section import Section


class AutoStop(Section):
    """What suits the task: `discrepancy` where its noise or a JPEG's quantisation is known, `ema-variance` where the
    network has blind spots, `blocks` for jpeg by pixels, else `fixed`. The record says which, and why.
    """

    type: Literal["auto"] = "auto"


class FixedStop(Section):
    """All the steps, and no choice among the iterates. For every task."""

    type: Literal["fixed"] = "fixed"


Patience = Annotated[float, Field(gt=0)]
MinSteps = Annotated[int, Field(ge=0)]


class ValleyStop(Section):
    """What the criteria that wait for a minimum share."""

    patience: Patience = Field(
        default=0.5, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    min_steps: MinSteps = Field(default=10, description="steps before the first minimum")


class EmaVarianceStop(ValleyStop):
    """ES-EMV (Wang et al., TMLR 2023): stop when the outputs' moving variance has not fallen for a while.

    For every task.
    """

    type: Literal["ema-variance"] = "ema-variance"
    patience: Patience = Field(
        default=0.2, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        default="auto", description="weight of the newest output; auto: falls as the fit goes on"
    )


class WindowedVarianceStop(ValleyStop):
    """ES-WMV (Wang et al., TMLR 2023): likewise, with the variance over a window of the last outputs.

    For every task.
    """

    type: Literal["windowed-variance"] = "windowed-variance"
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.6, description="length of the window as a share of the steps so far"
    )


class HeldOutStop(ValleyStop):
    """Keep some observed pixels from the fit and stop when the error there rises. For every task but jpeg."""

    type: Literal["held-out"] = "held-out"
    patience: Patience = Field(
        default=0.1, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="of the observed pixels")


class SureStop(Section):
    """Fit Stein's unbiased risk estimate (Jo et al., ICCV 2021), and stop when it falls below zero.

    For task denoise with gaussian or poisson noise, generator.input image and one seed.
    """

    type: Literal["sure"] = "sure"


class DiscrepancyStop(Section):
    """Morozov: stop when the residual has fallen to the noise, mean (A x - y)^2 <= factor * what the noise leaves.

    For task denoise with gaussian or poisson noise.
    """

    type: Literal["discrepancy"] = "discrepancy"
    factor: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto",
        description="residual over noise at the stop; auto: 1 - 0.075 / channels, with blind spots 0.92 (LOG.md)",
    )


class BlocksStop(Section):
    """Stop when the picture begins to show the codec's blocks. For task jpeg."""

    type: Literal["blocks"] = "blocks"
    ratio: Annotated[float, Field(gt=0)] = Field(
        default=1.05, description="jump between neighbours at the blocks' borders over that beside them, at the stop"
    )


Stop = Annotated[
    AutoStop
    | FixedStop
    | EmaVarianceStop
    | WindowedVarianceStop
    | HeldOutStop
    | SureStop
    | DiscrepancyStop
    | BlocksStop,
    Field(discriminator="type"),
]
