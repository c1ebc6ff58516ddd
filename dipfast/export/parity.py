"""The comparison of an exported model's picture with its generator's: PSNR, and the gate that it must pass."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from dipfast.errors import GateError

MIN_PSNR = 50.0  # dB, where nothing else is asked for
FULL_PRECISION_MIN_PSNR = 80.0  # of fp32, always: less means that another picture is rendered


def agreement(image: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Return PSNR in dB (None for equal pictures) and the largest difference of two pictures in [0, 1].

    Where shapes differ or anything is not finite, the PSNR is given as 0.
    """
    if image.shape != reference.shape or not np.isfinite(image).all():
        return {"psnr_db": 0.0, "max_abs": None}
    error = np.abs(image.astype(np.float64) - reference)
    mean_square = float(np.mean(error**2))
    psnr = None if mean_square == 0 else round(-10 * math.log10(mean_square), 3)
    return {"psnr_db": psnr, "max_abs": float(error.max())}


def required(precision: str, min_psnr: float | None) -> float:
    """Return the gate in dB: what was asked for, and never less than what fp32 must reach."""
    asked = MIN_PSNR if min_psnr is None else min_psnr
    return max(asked, FULL_PRECISION_MIN_PSNR) if precision == "fp32" else asked


def check(found: dict[str, Any], least: float, name: str) -> None:
    """Raises GateError where ``found`` (of `agreement`) is below ``least`` dB."""
    psnr = found["psnr_db"]
    if psnr is not None and psnr < least:
        raise GateError(f"{name}: renders its generator's picture at {psnr:.2f} dB, where {least:g} dB are asked for")
