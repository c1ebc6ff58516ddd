"""A fitted generator → its picture. In this version on torch, in the precision of the fit or another.

The picture rendered is that of one set of weights. The one that a fit returns is an average over many, so the two
differ; a record's `metrics` speak of the average.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.generators import Card, SkipNet, from_file
from dipfast.image import cut

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class FittedGenerator:
    """A generator with its weights and latent [1, D, H, W], and what they were fitted to."""

    module: SkipNet
    latent: Tensor
    card: Card

    def render(self, precision: str | None = None) -> np.ndarray:
        """The generator's picture as float32 [H, W] or [H, W, C] in [0, 1], at the size of the restored image.

        ``precision``: fp32, bf16, or None for that of the fit. Raises UsageError for another.
        """
        name = precision or self.card.precision
        if name not in DTYPES:
            raise UsageError(f"precision should be one of {', '.join(DTYPES)}, is {name!r}")
        with torch.no_grad():
            picture = self.module(self.latent, DTYPES[name])[0].clamp(0, 1).numpy()
        pixels = cut(picture, *self.card.size).transpose(1, 2, 0)
        return np.ascontiguousarray(pixels[..., 0] if self.card.channels == 1 else pixels)


def load(path: Path | str) -> FittedGenerator:
    """A generator from a run's `generators/<id>.safetensors`. Raises UsageError for a file that is not one."""
    return FittedGenerator(*from_file(path))
