"""`refine`: the step after the fit, in which groups of alike patches are filtered together."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from dipfast.settings.section import Section


class Refine(Section):
    """Collaborative ridge regression of the noisy picture's patches, grouped by the fit's answer.

    After Herbreteau and Kervrann (NL-Ridge, SIAM J. Imaging Sci. 2025).
    """

    patch: Annotated[int, Field(ge=2, le=16)] = Field(default=7, description="pixels a side of a patch")
    neighbours: Annotated[int, Field(ge=2, le=256)] = Field(default=48, description="patches in a group")
    window: Annotated[int, Field(ge=3, le=129)] = Field(
        default=31, description="pixels a side, within which alike patches are looked for"
    )
    stride: Annotated[int, Field(ge=1, le=16)] = Field(
        default=6, description="pixels from one group's own patch to that of the next, at most patch"
    )

    @model_validator(mode="after")
    def _covers(self) -> Refine:
        if self.stride > self.patch:
            raise ValueError(f"stride should be at most patch, {self.patch}, is {self.stride}")
        return self
