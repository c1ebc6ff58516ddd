"""Detection of impulse noise: single pixels of the darkest or the lightest value, such as dust, dead and hot pixels.

Gaussian noise changes every value a little; impulses replace a few values and leave the others. Mistaken for Gaussian
noise they make a picture seem very noisy (a page with 2 % of specks: sigma 113), and smoothing it loses the values that
they left intact. So impulses are detected before the noise is estimated. An impulse has the least or the greatest value
of the picture, and differs from the median of its neighbours (the test of the switching median filter, Sun and Neuvo
1994). At most three such pixels may touch, or more where there are many, because the corners and thin strokes of a
drawing differ from the median too. On a page of two levels every stroke has an extreme value, and there an impulse is a
pixel that equals none of its neighbours.
"""

from __future__ import annotations

import numpy as np

from dipfast.tasks.range import about_medians

LEAST_SHARE = 0.003  # where a smaller share of the pixels seem to be impulses, they are not called noise
MOST_SHARE = 0.3  # where a larger share seem to be impulses, it is a halftone, or noise of another kind
STANDS_OUT = 6.0  # an impulse differs from the median of its neighbours by more than so many deviations
STEPS = (0.2, 0.05, 0.05)  # and by more than this share of the picture's range, in each of three passes
CLUSTERS = ((0.0, 3), (0.04, 8))  # (share of impulses found so far, number of impulses that may touch from then on)
TWO_LEVELS = 0.5  # a page has two levels where a larger share of its pixels has the least or the greatest value


def impulses(observed: np.ndarray) -> np.ndarray | None:  # [C, H, W] in [0, 1] -> [1, H, W] bool
    """Return which pixels of ``observed`` are impulses; None where it has none, or too few to be called noise.

    The impulses of a pass are replaced before the next one, which then finds those that touch them or stand out less.
    """
    if min(observed.shape[1:]) < 3:
        return None
    low, high = (extreme(observed, axis=(1, 2), keepdims=True) for extreme in (np.min, np.max))
    found, mended = np.zeros((1, *observed.shape[1:]), bool), observed
    ends = (observed == low) | (observed == high)
    of_two_levels = ends.mean() > TWO_LEVELS
    for step in STEPS:
        most = 1 if of_two_levels else max(cluster for share, cluster in CLUSTERS if found.mean() >= share)
        found |= _isolated(mended, ends, step * (high - low), most)
        if not LEAST_SHARE <= found.mean() <= MOST_SHARE:
            return None
        mended = without(observed, found)
    return found


def without(observed: np.ndarray, hit: np.ndarray) -> np.ndarray:  # [C, H, W], [1, H, W] bool -> [C, H, W]
    """Replace each pixel that is ``hit`` by the median of those of its neighbours that are not."""
    padded = np.pad(np.where(hit, np.nan, observed), ((0, 0), (1, 1), (1, 1)), mode="edge")
    _, rows, columns = np.nonzero(hit)
    around = np.stack([padded[:, rows + y, columns + x] for y in range(3) for x in range(3)])
    lost = np.isnan(around).all(0)
    around[0][lost] = np.broadcast_to(np.median(observed, axis=(1, 2))[:, None], lost.shape)[lost]
    mended = observed.copy()
    mended[:, rows, columns] = np.nanmedian(around, axis=0)
    return mended


def _isolated(
    observed: np.ndarray,  # [C, H, W]
    extreme: np.ndarray,  # [C, H, W] bool
    step: np.ndarray,  # [C, 1, 1]
    most: int,
) -> np.ndarray:  # [1, H, W] bool
    """Return the pixels that are ``extreme``, stand out by at least ``step``, and touch in groups of up to ``most``."""
    from scipy.ndimage import label

    _, difference, deviation = about_medians(observed)
    hit = (extreme & (difference > np.maximum(STANDS_OUT * deviation, step))).any(0)
    if not hit.any():
        return hit[None]
    hit &= _similar_neighbours(observed, difference.max(0) / 2) < most
    places, _ = label(hit, np.ones((3, 3)))
    return (hit & (np.bincount(places.ravel())[places] <= most))[None]


def _similar_neighbours(observed: np.ndarray, within: np.ndarray) -> np.ndarray:  # [C, H, W], [H, W] -> [H, W]
    """Count the neighbours, of eight, that differ from a pixel by less than ``within``."""
    height, width = within.shape
    padded = np.pad(observed, ((0, 0), (1, 1), (1, 1)), constant_values=np.inf)
    shifts = [(y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    near = (np.abs(padded[:, y : y + height, x : x + width] - observed).max(0) < within for y, x in shifts)
    return sum(near, np.zeros((height, width), int))
