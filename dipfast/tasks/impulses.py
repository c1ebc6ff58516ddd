"""Impulse noise: single pixels of the darkest or lightest value, as dust on a fax or dead and hot pixels leave them.

Gaussian noise moves every value a little; impulses replace a few and leave the others. Taken for Gaussian noise they
make a picture seem very noisy (a page with 2 % of specks: sigma 113), and smoothing removes what they left alone. So
they are looked for before the noise is measured: an impulse has the least or the greatest value of the picture, stands
out from the median of its neighbours (the switching median filter's test, Sun and Neuvo 1994), and is alone or nearly
so: at most three such pixels touch, more where there are many, for the corners and thin strokes of a drawing stand out
too. On a page of two levels every stroke has such a value, and an impulse is a pixel that none of its neighbours
equals.
"""

from __future__ import annotations

import numpy as np

LEAST_SHARE = 0.003  # of the pixels: fewer are left as they are
MOST_SHARE = 0.3  # of the pixels: where more stand out, it is a halftone, or noise of another kind
STANDS_OUT = 6.0  # deviations of the values about their neighbours' median
STEPS = (0.2, 0.05, 0.05)  # of the picture's range, at least: to find the first ones, and then the others
CLUSTERS = ((0.0, 3), (0.04, 8))  # pixels that may touch, by the share of the pixels that were found so far
TWO_LEVELS = 0.5  # share of the pixels that have the least or the greatest value, above which a page has two levels
TO_DEVIATION = 1.4826  # times the median absolute deviation of normal values


def impulses(observed: np.ndarray) -> np.ndarray | None:  # [C, H, W] in [0, 1] -> [1, H, W] bool
    """Where ``observed`` has impulse noise, or None where it has none, or too little to be called noise.

    Once some are found, they are replaced, and those that touched them or stand out less are looked for again.
    """
    if min(observed.shape[1:]) < 3:
        return None
    low, high = (extreme(observed, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    found, mended = np.zeros((1, *observed.shape[1:]), bool), observed
    ends = (observed == low) | (observed == high)
    of_two_levels = ends.mean() > TWO_LEVELS
    for step in STEPS:
        most = 1 if of_two_levels else max(cluster for share, cluster in CLUSTERS if found.mean() >= share)
        found |= _alone(mended, ends, step * (high - low), most)
        if not LEAST_SHARE <= found.mean() <= MOST_SHARE:
            return None
        mended = without(observed, found)
    return found


def without(observed: np.ndarray, hit: np.ndarray) -> np.ndarray:  # [C, H, W], [1, H, W] bool -> [C, H, W]
    """``observed`` with the median of the neighbours that were not hit in place of each pixel that was."""
    padded = np.pad(np.where(hit, np.nan, observed), ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, rows, columns = np.nonzero(hit)
    around = np.stack([padded[:, rows + y, columns + x] for y in range(3) for x in range(3)])
    lost = np.isnan(around).all(0)
    around[0][lost] = np.broadcast_to(np.median(observed, axis=(1, 2))[:, None], lost.shape)[lost]
    mended = observed.copy()
    mended[:, rows, columns] = np.nanmedian(around, axis=0)
    return mended


def _alone(
    observed: np.ndarray,  # [C, H, W]
    extreme: np.ndarray,  # [C, H, W] bool
    step: np.ndarray,  # [C, 1, 1]
    most: int,
) -> np.ndarray:  # [1, H, W] bool
    """The pixels that are ``extreme``, stand out by at least ``step``, and are ``most`` at most that touch."""
    from scipy.ndimage import label, median_filter

    medians = np.stack([median_filter(channel, 3) for channel in observed])
    about = np.abs(observed - medians)
    deviation = TO_DEVIATION * np.median(about, axis=(1, 2), keepdims=True)
    hit = (extreme & (about > np.maximum(STANDS_OUT * deviation, step))).any(0)
    if not hit.any():
        return hit[None]
    hit &= _alike(observed, about.max(0) / 2) < most
    places, _ = label(hit, np.ones((3, 3)))
    return (hit & (np.bincount(places.ravel())[places] <= most))[None]


def _alike(observed: np.ndarray, within: np.ndarray) -> np.ndarray:  # [C, H, W], [H, W] -> [H, W]
    """How many of its eight neighbours differ from a pixel by less than ``within``."""
    height, width = within.shape
    padded = np.pad(observed, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    near = (np.abs(padded[:, y : y + height, x : x + width] - observed).max(0) < within for y, x in shifts)
    return sum(near, np.zeros((height, width), int))
