"""What stands beside the fits: methods that are none, and the inverse of what clipping does to a mean.

`METHODS` are for noise that was clipped at black and white, `METHODS_UNCLIPPED` for noise that was not.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from dipfast.errors import UsageError
from dipfast.restoration.refinement import refined
from dipfast.settings.presets import REFINE
from dipfast.settings.refine import Refine
from dipfast.tasks.operators import Clipping
from dipfast.tasks.problem import ClippedGaussian

Method = Callable[[np.ndarray, float], np.ndarray]  # observed [C, H, W], sigma of black to white = 1 -> [C, H, W]

GRID = 1025  # grey levels of the inverse's table: steps of a quarter of an 8-bit level


def nlm(observed: np.ndarray, sigma: float) -> np.ndarray:
    """Non-local means (Buades et al., 2005) by scikit-image, with the settings of its own documentation."""
    from skimage.restoration import denoise_nl_means

    settings = {"h": 0.6 * sigma, "sigma": sigma, "patch_size": 5, "patch_distance": 6, "fast_mode": False}
    if len(observed) == 1:  # as a channel axis of length one it comes out wrong
        found = denoise_nl_means(observed[0], **settings)[None]
    else:
        found = denoise_nl_means(observed, **settings, channel_axis=0)
    return np.clip(found, 0, 1)


def bm3d(observed: np.ndarray, sigma: float) -> np.ndarray:
    """BM3D (Dabov et al., 2007) by the package `bm3d`, which is not among dipfast's. Raises UsageError without it."""
    try:
        from bm3d import bm3d as run
        from bm3d import bm3d_rgb as run_rgb
    except ImportError:
        raise UsageError("--contender bm3d needs the package bm3d: pip install bm3d") from None
    pixels = observed.transpose(1, 2, 0)
    found = run_rgb(pixels, sigma) if pixels.shape[2] == 3 else run(pixels[..., 0], sigma)[..., None]
    return np.clip(found, 0, 1).transpose(2, 0, 1).astype(np.float32)


def unclipped(mean: np.ndarray, sigma: float) -> np.ndarray:
    """x of the ``mean`` = E clip(x + n, 0, 1) that a denoiser finds, by a table of `Clipping`, which the fits undo too.

    A mean that no x in [0, 1] has is taken for that of 0 or 1.
    """
    grid = torch.linspace(0, 1, GRID)
    return np.interp(mean, Clipping(torch.tensor(sigma))(grid).numpy(), grid.numpy()).astype(np.float32)


def _with_clipping(method: Method, observed: np.ndarray, sigma: float) -> np.ndarray:
    return unclipped(method(observed, sigma), sigma)


def nlm_ridge(observed: np.ndarray, sigma: float, clipped: bool = True) -> np.ndarray:
    """The chain without a network: `nlm` as the pilot, then the refinement of preset `balanced` twice.

    The second refinement has the answer of the first one as its pilot. What clipping does is undone in all three steps
    where the noise was ``clipped``.
    """
    pilot = torch.from_numpy(_with_clipping(nlm, observed, sigma) if clipped else nlm(observed, sigma)).float()[None]
    noisy, noise = torch.from_numpy(observed).float()[None], ClippedGaussian(torch.tensor(sigma), clipped)
    for _ in range(2):
        pilot = refined(noisy, pilot, noise, Refine.from_json(REFINE["balanced"])).picture[None]
    return pilot[0].clamp(0, 1).numpy()


METHODS_UNCLIPPED: dict[str, Method] = {"nlm": nlm, "bm3d": bm3d, "nlm+ridge": partial(nlm_ridge, clipped=False)}
METHODS: dict[str, Method] = {"nlm": nlm, "bm3d": bm3d, "nlm+ridge": nlm_ridge}
METHODS |= {f"{method.__name__}+clipping": partial(_with_clipping, method) for method in (nlm, bm3d)}
