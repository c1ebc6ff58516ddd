"""PSNR, SSIM, and how far a predicted deviation is borne out. The only room that sees ground truth, after a fit.

Deviations are [C, H, W], in the unit of the image. Where a pixel has none, as one that is returned as it was known
has, nothing was predicted, and it does not count.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

BINS = 20  # of the calibration error, each of as many pixels


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


def coverage(
    image: np.ndarray,  # [C, H, W] in [0, 1]
    deviation: np.ndarray,  # [C, H, W]
    reference: np.ndarray,  # [C, H, W]
    level: float = 0.9,
) -> float | None:
    """The share of pixels whose truth lies in the central interval of ``level`` around them; ideally ``level``.

    The interval is that of a normal distribution. None where no pixel has a deviation.
    """
    errors, deviations = predicted(image, deviation, reference)
    reach = NormalDist().inv_cdf((1 + level) / 2)
    return float(np.mean(np.abs(errors) <= reach * deviations)) if len(errors) else None


def uncertainty_ece(
    image: np.ndarray,  # [C, H, W] in [0, 1]
    deviation: np.ndarray,  # [C, H, W]
    reference: np.ndarray,  # [C, H, W]
) -> float | None:
    """Expected calibration error of the deviation, in the unit of the image: 0 is ideal.

    Pixels are sorted by their deviation into bins of as many; the error is the mean over the bins of the distance
    between the error's root mean square and the deviation's (after Laves et al., MIDL 2020, in roots). None where no
    pixel has a deviation.
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
    """The factor on the deviation that makes its mean square that of the errors. None where no pixel has a deviation.

    The most likely factor were errors normal, sqrt mean (error / deviation)^2, follows the few pixels of the smallest
    deviation and differs more from image to image (LOG.md).
    """
    errors, deviations = predicted(image, deviation, reference)
    return _rms(errors) / _rms(deviations) if len(errors) else None


def predicted(image: np.ndarray, deviation: np.ndarray, reference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The errors and the deviations, each [N] float64, of the pixels that have a deviation."""
    counts = deviation > 0
    return (image.astype(np.float64) - reference)[counts], deviation[counts].astype(np.float64)


def _rms(values: np.ndarray) -> float:
    return math.sqrt(float(np.mean(values**2)))
