"""Measures of quality against the truth: PSNR, SSIM, and the calibration of a predicted standard deviation.

Only this room and the benchmarks see ground truth, and only after a fit. Deviations are in the unit of the image. Where
a deviation is 0, as at known pixels that are returned unchanged, nothing was predicted, and the pixel is left out.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

BINS = 20  # of the calibration error, with equal numbers of pixels


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB over all channels of images [C, H, W] in [0, 1]; inf if equal."""
    error = float(np.mean((image.astype(np.float64) - reference) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: np.ndarray, reference: np.ndarray) -> float | None:
    """Return the structural similarity of images [C, H, W] in [0, 1], the mean over channels.

    The definition and the Gaussian window are those of Wang et al. (2004). The result is None for an image with a side
    shorter than the window of 11 pixels.
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


def coverage(
    image: np.ndarray,  # [C, H, W] in [0, 1]
    deviation: np.ndarray,  # [C, H, W]
    reference: np.ndarray,  # [C, H, W]
    level: float = 0.9,
) -> float | None:
    """Return the share of values whose truth lies in the central interval of probability ``level``; ideally ``level``.

    The intervals are those of normal distributions. The result is None where nothing was predicted.
    """
    errors, deviations = predicted(image, deviation, reference)
    quantile = NormalDist().inv_cdf((1 + level) / 2)
    return float(np.mean(np.abs(errors) <= quantile * deviations)) if len(errors) else None


def uncertainty_ece(
    image: np.ndarray,  # [C, H, W] in [0, 1]
    deviation: np.ndarray,  # [C, H, W]
    reference: np.ndarray,  # [C, H, W]
) -> float | None:
    """Return the expected calibration error of the deviation, in the unit of the image; 0 is ideal.

    Values are sorted by their deviation into bins of equal size. The error is the mean over the bins of the distance
    between the root mean squares of the errors and of the deviations (Laves et al., MIDL 2020, who take variances). The
    result is None where nothing was predicted.
    """
    errors, deviations = predicted(image, deviation, reference)
    order = np.argsort(deviations, kind="stable")
    bins = [part for part in np.array_split(order, BINS) if len(part)]
    gaps = [len(part) * abs(_rms(errors[part]) - _rms(deviations[part])) for part in bins]
    return float(sum(gaps) / len(order)) if bins else None


def calibration_scale(
    image: np.ndarray,  # [C, H, W] in [0, 1]
    deviation: np.ndarray,  # [C, H, W]
    reference: np.ndarray,  # [C, H, W]
) -> float | None:
    """Return the factor by which the deviations' mean square becomes that of the errors; None if nothing was predicted.

    The maximum-likelihood factor for normal errors, sqrt mean (error / deviation)^2, depends on the few values of the
    smallest deviation, and differs more from image to image (LOG.md, 2026-11-23).
    """
    errors, deviations = predicted(image, deviation, reference)
    return _rms(errors) / _rms(deviations) if len(errors) else None


def predicted(image: np.ndarray, deviation: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return errors and deviations, each [N] float64, of the values for which a deviation was predicted."""
    has_one = deviation > 0
    return (image.astype(np.float64) - reference)[has_one], deviation[has_one].astype(np.float64)


def _rms(values: np.ndarray) -> float:
    """Return the root of the mean square."""
    return math.sqrt(float(np.mean(values**2)))
