"""Removal of JPEG's artefacts: the picture sought, quantised as the given one was, is the given one.

How it was quantised is measured on its pixels, so that it does not matter what file they came in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.coding import BLOCK, LUMA, OF_RGB, CodedSquare, Coding, chroma_of, dct, luma_of, split, tables
from dipfast.tasks.grid import REACH, first_border, steps_of
from dipfast.tasks.operators import Identity
from dipfast.tasks.problem import Problem, mean_square
from dipfast.tasks.range import Range

ASSUMED = 50  # where no quantisation is found
BLOCKS_READ = 1024
LARGEST_STEP = 255
ROUNDING = 0.8  # of 255: what the rounding of pixels leaves of a coefficient's distance to its multiple
RESAVING = 3.0  # of 255: what a second, finer quantisation leaves of it
LEAST_SHARE = 0.75  # of the coefficients beyond the first half step that must lie so near
CHANCE = 1e-6  # that so many would lie so near by chance
LEAST_FREQUENCIES = 3
HALF_DETAIL = 1 / 255  # of a chroma, on the median, beyond what half of its rows and columns hold


@dataclass(frozen=True)
class Found:
    """libjpeg's ``quality``, and the rows and columns of the first block that lie before the picture."""

    quality: int
    corner: tuple[int, int]


def jpeg(task: Mapping[str, Any], observed: np.ndarray, range: Range) -> Problem:
    """``observed``: [C, H, W] float32 in [0, 1], the decoded picture; ``range``: that it fills."""
    full = torch.from_numpy(observed)[None]
    y = range.to_unit(full)
    quality, source = task.get("quality", "auto"), "given"
    if quality is None:
        return Problem(Identity(), mean_square, y, y, block=BLOCK, range=range)
    found = quantisation_of(full)
    measured = found or Found(ASSUMED, (0, 0))
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


def quantisation_of(picture: Tensor) -> Found | None:  # [1, C, H, W]
    """What the luma's DCT tells: its coefficients lie on multiples of their steps. None: on none of 5 / 255 or more.

    The steps are told one by one, where enough coefficients are not 0, and the quality whose steps are in the same
    proportion to libjpeg's is taken for all: the coarsest ones leave nothing to tell them by. Of a picture that was
    coded coarsely and saved again, the coarse steps are meant.
    """
    blocks = {corner: _luma_blocks(picture, corner) for corner in {(0, 0), _corner_of(picture)}}
    exact, rough = (max((_scale(blocks[at], apart), at) for at in blocks) for apart in (ROUNDING, RESAVING))
    scale, corner = rough if rough[0] > 2 * exact[0] else exact  # of a grid that is not the codec's it is fine or 0
    if not scale:
        return None
    return Found(round(50 / scale if scale > 1 else 100 - 50 * scale), corner)


def _corner_of(picture: Tensor) -> tuple[int, int]:
    """By where lines differ the most; a picture of less than two blocks a side has none to differ."""
    if min(picture.shape[2:]) < 2 * BLOCK:
        return 0, 0
    first, second = (-1 - REACH - first_border(steps_of(picture, axis), BLOCK) for axis in (2, 3))
    return first % BLOCK, second % BLOCK


def _luma_blocks(picture: Tensor, corner: tuple[int, int]) -> Tensor:  # [N, 8, 8], of values in 8-bit units
    """The coefficients of whole blocks in which nothing was cut off at black or white, of as many as `BLOCKS_READ`."""
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
    """How many times libjpeg's steps of quality 50 the steps are, on the median of the frequencies that tell.

    A coefficient may lie ``apart`` from its multiple. 0: fewer than `LEAST_FREQUENCIES` tell. By Chernoff's bound, of N
    distances that are uniform up to half a step, a share s is below that with a probability of at most
    exp(-N D(s, 2 apart / step)).
    """
    steps = torch.zeros(BLOCK, BLOCK)
    for step in range(math.ceil(4 * apart) + 1, LARGEST_STEP + 1):
        multiple = (blocks / step).round()
        counts = multiple != 0
        near, count = (counts & ((blocks - multiple * step).abs() < apart)).sum(0), counts.sum(0)
        share, expected = near / count, torch.tensor(2 * apart / step)
        surprise = torch.xlogy(share, share / expected) + torch.xlogy(1 - share, (1 - share) / (1 - expected))
        steps[(share >= LEAST_SHARE) & (count * surprise > -math.log(CHANCE))] = step
    steps[0, 0] = 0  # the mean of a block lies where the chromas' rounding puts it
    told = steps > 0
    if int(told.sum()) < LEAST_FREQUENCIES:
        return 0.0
    return float((steps / torch.tensor(LUMA))[told].median())


def chroma_is_halved(picture: Tensor) -> bool:  # [1, C, H, W]
    """Whether the chromas are as smooth as if decoded from half of the rows and columns, which codecs then take."""
    if picture.shape[1] == 1 or min(picture.shape[2:]) < BLOCK:
        return False
    height, width = (side // 2 * 2 for side in picture.shape[2:])
    chroma = chroma_of(picture[..., :height, :width], torch.tensor(OF_RGB))
    smooth = F.interpolate(F.avg_pool2d(chroma, 2), scale_factor=2.0, mode="bilinear")
    return float((chroma - smooth).abs().median()) < HALF_DETAIL
