"""Removal of JPEG artefacts: the wanted picture, quantised as the given one was, is the given one.

The quantisation is estimated from the decoded pixels, so the picture may have been saved in any format since.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.settings.task import Jpeg
from dipfast.tasks.coding import (
    BLOCK,
    LINES_AROUND,
    LUMA,
    OF_RGB,
    CodedSquare,
    Coding,
    border_strength,
    chroma_of,
    dct,
    first_border,
    luma_of,
    split,
    tables,
)
from dipfast.tasks.operators import Identity
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range

ASSUMED_QUALITY = 50  # where no quantisation is found
BLOCKS_READ = 1024  # about so many blocks of a large picture are read
LARGEST_STEP = 255  # in 8-bit units
ROUNDING = 0.8  # largest distance of a coefficient from its multiple after rounding to 8-bit pixels, in 8-bit units
RESAVING = 3.0  # the same after a second, finer quantisation
LEAST_SHARE = 0.75  # share of the coefficients not rounded to 0 that must lie so near to a multiple
CHANCE = 1e-6  # largest probability of so many near ones by chance
LEAST_FREQUENCIES = 3  # fewer frequencies with a known step tell no quality
HALF_DETAIL = 1 / 255  # least median detail beyond half of the rows and columns in a chroma that has all of them


@dataclass(frozen=True)
class Quantisation:
    """libjpeg's ``quality``, and in ``corner`` the rows and columns of the first block that lie before the picture."""

    quality: int
    corner: tuple[int, int]


def jpeg(task: Jpeg, observed: np.ndarray, range: Range) -> Problem:
    """Return the problem of a decoded picture, ``observed`` [C, H, W] float32 in [0, 1], which fills ``range``.

    With a `quality` of None the data term is a plain mean square over pixels.
    """
    full = torch.from_numpy(observed)[None]
    y = range.to_unit(full)
    quality, source = task.quality, "given"
    if quality is None:
        return Problem(Identity(), mean_square, y, y, block=BLOCK, range=range)
    found = quantisation_of(full)
    measured = found or Quantisation(ASSUMED_QUALITY, (0, 0))
    if quality == "auto":
        quality, source = measured.quality, "measured" if found else "assumed"
    coding = Coding(
        *tables(quality),
        torch.tensor(measured.corner),
        halved=chroma_is_halved(full),
        known=source != "assumed",
        range=range,
    )
    guide = range.of_full(full)
    coding = replace(coding, coded=coding.of_luma(guide))
    facts: dict[str, float | str] = {"quality": quality, "quality_source": source}
    return Problem(Identity(), CodedSquare(coding), y, guide, block=BLOCK, coding=coding, range=range, facts=facts)


def quantisation_of(picture: Tensor) -> Quantisation | None:  # [1, C, H, W] in [0, 1]
    """Estimate the quantisation from the luma's DCT, whose coefficients lie near multiples of their steps.

    The step of each frequency is estimated where enough coefficients are not 0; the coarsest steps leave none. The
    quality is that of libjpeg's table in the same proportion. For a picture that was quantised coarsely and saved again
    with finer steps, the coarse steps are returned. The result is None where no step of 5 / 255 or more is found.
    """
    blocks = {corner: _luma_blocks(picture, corner) for corner in {(0, 0), _corner_of(picture)}}
    exact, rough = (max((_scale(blocks[at], apart), at) for at in blocks) for apart in (ROUNDING, RESAVING))
    scale, corner = rough if rough[0] > 2 * exact[0] else exact  # on another grid than the codec's it is small or 0
    if not scale:
        return None
    return Quantisation(_quality(scale), corner)


def quality_of(steps: np.ndarray) -> int:  # [8, 8], of the luma, as a file's header has them
    """Return the quality at which libjpeg's steps are in the median as large as ``steps``, less those at the limit."""
    below = steps < LARGEST_STEP
    return _quality(float(np.median(steps[below] / np.array(LUMA)[below]))) if below.any() else 1


def _quality(scale: float) -> int:
    """Return libjpeg's quality for steps that are ``scale`` times those of quality 50."""
    return round(50 / scale if scale > 1 else 100 - 50 * scale)


def _corner_of(picture: Tensor) -> tuple[int, int]:
    """Find the grid by the strongest borders; a picture of less than two blocks a side is taken to begin with one."""
    if min(picture.shape[2:]) < 2 * BLOCK:
        return 0, 0
    first, second = (-1 - LINES_AROUND - first_border(border_strength(picture, axis), BLOCK) for axis in (2, 3))
    return first % BLOCK, second % BLOCK


def _luma_blocks(picture: Tensor, corner: tuple[int, int]) -> Tensor:  # [N, 8, 8], in 8-bit units
    """Return the luma's coefficients of about `BLOCKS_READ` whole blocks without a value at black or white.

    Where a decoder has clipped values, the coefficients are no multiples of their steps any more.
    """
    top, left = (-at % BLOCK for at in corner)
    height, width = ((side - at) // BLOCK * BLOCK for side, at in zip(picture.shape[2:], (top, left), strict=True))
    whole = picture[..., top : top + height, left : left + width]
    inside = ((whole > 0) & (whole < 1)).all(1, keepdim=True)
    blocks, kept = (
        x.permute(0, 1, 2, 4, 3, 5).reshape(-1, BLOCK, BLOCK)
        for x in (dct(luma_of(whole, torch.tensor(OF_RGB)) * 255), split(inside))
    )
    blocks = blocks[kept.all(2).all(1)]
    return blocks[:: max(1, len(blocks) // BLOCKS_READ)]


def _scale(blocks: Tensor, apart: float) -> float:  # [N, 8, 8]
    """Return the median ratio of the steps to libjpeg's at quality 50; 0 where too few frequencies have a known step.

    A coefficient may lie up to ``apart`` from its multiple. If the distances of N coefficients were uniform up to half
    a step, a share s of them would lie so near with a probability of at most exp(-N D(s, 2 apart / step)), with the
    Kullback-Leibler divergence D of two Bernoulli distributions (Chernoff's bound).
    """
    steps = torch.zeros(BLOCK, BLOCK)
    for step in range(math.ceil(4 * apart) + 1, LARGEST_STEP + 1):
        multiple = (blocks / step).round()
        nonzero = multiple != 0
        near, count = (nonzero & ((blocks - multiple * step).abs() < apart)).sum(0), nonzero.sum(0)
        share, expected = near / count, torch.tensor(2 * apart / step)
        surprise = torch.xlogy(share, share / expected) + torch.xlogy(1 - share, (1 - share) / (1 - expected))
        steps[(share >= LEAST_SHARE) & (count * surprise > -math.log(CHANCE))] = step
    steps[0, 0] = 0  # the rounding of the chromas moves the mean of a block
    known = steps > 0
    if int(known.sum()) < LEAST_FREQUENCIES:
        return 0.0
    return float((steps / torch.tensor(LUMA))[known].median())


def chroma_is_halved(picture: Tensor) -> bool:  # [1, C, H, W]
    """Return whether the chromas are so smooth that a codec seems to have stored half of their rows and columns."""
    if picture.shape[1] == 1 or min(picture.shape[2:]) < BLOCK:
        return False
    height, width = (side // 2 * 2 for side in picture.shape[2:])
    chroma = chroma_of(picture[..., :height, :width], torch.tensor(OF_RGB))
    smooth = F.interpolate(F.avg_pool2d(chroma, 2), scale_factor=2.0, mode="bilinear")
    return float((chroma - smooth).abs().median()) < HALF_DETAIL
