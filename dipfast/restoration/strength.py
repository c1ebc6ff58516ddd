"""How much of the change to a picture is applied: all of it, none, or a share."""

from __future__ import annotations

import numpy as np


def with_strength(
    observed: np.ndarray, answer: np.ndarray, strength: float, known: np.ndarray | None = None
) -> np.ndarray:  # [C, H, W], [C, H, W], [1, H, W] bool -> [C, H, W]
    """Return ``observed + strength * (answer - observed)``, and the answer where a pixel is not ``known``.

    Strength 1 gives the bits of the answer, and strength 0 those of the observed picture.
    """
    if strength == 1:
        return answer
    mixed = observed if strength == 0 else observed + np.float32(strength) * (answer - observed)
    return mixed if known is None else np.where(known, mixed, answer)
