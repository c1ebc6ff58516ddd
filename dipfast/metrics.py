"""PSNR and SSIM. The only room that sees ground truth, and only after a fit."""

from __future__ import annotations

import math

import numpy as np


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all channels, for images [C, H, W] in [0, 1]; infinite if equal."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: np.ndarray, reference: np.ndarray) -> float | None:
    """Structural similarity of Wang et al. (2004) with their Gaussian window, mean over channels, for [C, H, W].

    None where a side is shorter than the window of 11 pixels.
    """
    from skimage.metrics import structural_similarity

    if min(image.shape[1:]) < 11:
        return None
    return float(
        structural_similarity(
            image.astype(np.float64),
            reference.astype(np.float64),
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )
