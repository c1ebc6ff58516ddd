"""Seeded damage for experiments: simulate what a camera or a codec makes of a clean picture.

NumPy's PCG64 draws the noise, so that the same seed damages a picture equally on every machine.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import torch

from dipfast.errors import ItemError
from dipfast.settings.task import (
    AddGaussian,
    AddPoisson,
    AddSaltPepper,
    CompressJpeg,
    Degradation,
    DropPixels,
    Scratch,
    Shrink,
)
from dipfast.tasks.operators import Downsampling


@dataclass(frozen=True)
class Damaged:
    """A damaged picture and its clean original."""

    clean: np.ndarray  # [C, H, W] float32 in [0, 1]
    observed: np.ndarray  # [C, h, w] float32 in [0, 1], unless its noise was not clipped
    known: np.ndarray | None = None  # [1, H, W] bool, where pixels were removed


def degrade(damage: Degradation, clean: np.ndarray, *, clipped: bool = True) -> Damaged:
    """Damage ``clean`` [C, H, W] in [0, 1] as ``damage`` asks.

    Without ``clipped``, noise may lead beyond [0, 1], as in most published experiments. The clean picture is cropped to
    the part that the observation shows. Raises ItemError where the picture is too small for the crop or the reduction,
    and where no or all pixels would be removed.
    """
    rng = np.random.default_rng(damage.seed)
    if damage.crop is not None:
        clean = _crop(clean, damage.crop)
    if isinstance(damage, Shrink):
        return _shrink(clean, damage)
    if isinstance(damage, DropPixels | Scratch):
        lose = _missing if isinstance(damage, DropPixels) else _scratches
        known = lose(rng, clean, damage.fraction)
        _check_coverage(known, damage.fraction)
        return Damaged(clean, clean * known, known)
    noisy = _noisy(rng, clean, damage)
    return Damaged(clean, (noisy.clip(0, 1) if clipped else noisy).astype(np.float32))


def check_crop(side: int, height: int, width: int) -> None:
    """Raise ItemError where a square of that ``side`` in pixels is larger than the image."""
    if side > min(height, width):
        raise ItemError("degrade", f"degrade.crop is {side}, but the image has only {width}×{height} pixels")


def _crop(clean: np.ndarray, side: int) -> np.ndarray:
    """Return the middle square of ``side`` pixels."""
    check_crop(side, *clean.shape[1:])
    return _middle(clean, side, side)


def _middle(clean: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return the middle [C, height, width] of a picture."""
    top, left = (clean.shape[1] - height) // 2, (clean.shape[2] - width) // 2
    return np.ascontiguousarray(clean[:, top : top + height, left : left + width])


def _noisy(
    rng: np.random.Generator, clean: np.ndarray, damage: AddGaussian | AddPoisson | AddSaltPepper | CompressJpeg
) -> np.ndarray:
    """Return the picture with noise, not clipped, or compressed as JPEG."""
    match damage:
        case AddGaussian():
            noisy = clean + damage.sigma / 255 * _gaussian(rng, clean.shape, damage)
        case AddPoisson():
            noisy = rng.poisson(clean * damage.peak) / damage.peak
        case AddSaltPepper():
            hit, white = rng.random((2, 1, *clean.shape[1:]))
            noisy = np.where(hit < damage.amount, white < 0.5, clean)
        case CompressJpeg():
            return _compress(clean, damage.quality)
    return noisy


def _gaussian(rng: np.random.Generator, shape: tuple[int, ...], damage: AddGaussian) -> np.ndarray:
    """Draw Gaussian noise of deviation 1, [C, H, W] or, where the channels share it, [1, H, W]."""
    noise = rng.normal(size=(1, *shape[1:]) if damage.shared else shape)
    if damage.blur is not None:
        from skimage.filters import gaussian

        noise = gaussian(noise, damage.blur, mode="wrap", channel_axis=0)
        noise /= noise.std()
    return noise


def _compress(clean: np.ndarray, quality: int) -> np.ndarray:
    """Return the picture after compression by libjpeg."""
    from PIL import Image

    pixels = np.rint(clean * 255).astype(np.uint8).transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if len(clean) == 1 else pixels).save(buffer, "JPEG", quality=quality)
    decoded = np.asarray(Image.open(buffer), np.float32) / 255
    return np.ascontiguousarray(decoded.reshape(pixels.shape).transpose(2, 0, 1))


def _missing(rng: np.random.Generator, clean: np.ndarray, fraction: float) -> np.ndarray:
    """Draw which pixels are known, [1, H, W], each independently."""
    return rng.random((1, *clean.shape[1:])) >= fraction


def _scratches(rng: np.random.Generator, clean: np.ndarray, fraction: float) -> np.ndarray:
    """Return the pixels outside of random straight strokes, [1, H, W], which cover ``fraction`` of the picture."""
    from skimage.draw import line
    from skimage.morphology import dilation, disk

    height, width = clean.shape[1:]
    lost = np.zeros((height, width), bool)
    while lost.mean() < fraction:
        rows, columns = rng.integers(0, height, 2), rng.integers(0, width, 2)
        stroke = np.zeros_like(lost)
        stroke[line(rows[0], columns[0], rows[1], columns[1])] = True
        lost |= dilation(stroke, disk(int(rng.integers(1, 4))))
    return ~lost[None]


def _check_coverage(known: np.ndarray, fraction: float) -> None:
    """Raise ItemError where all pixels or none are known."""
    if known.all() or not known.any():
        rest, (height, width) = "all" if known.all() else "none", known.shape[1:]
        raise ItemError(
            "degrade", f"degrade.fraction is {fraction}, and of {width}×{height} pixels {rest} is left known"
        )


def _shrink(clean: np.ndarray, damage: Shrink) -> Damaged:
    """Reduce the largest middle part of ``clean`` whose sides `scale` divides."""
    scale = damage.scale
    height, width = (side // scale * scale for side in clean.shape[1:])
    if not height or not width:
        raise ItemError("degrade", f"degrade.scale is {scale}, more than the image has pixels")
    clean = _middle(clean, height, width)
    small = Downsampling.of(scale, damage.kernel)(torch.from_numpy(clean)[None])[0].clamp(0, 1)
    return Damaged(clean, small.numpy())
