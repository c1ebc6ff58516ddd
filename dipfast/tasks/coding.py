"""JPEG's quantisation, as a picture went through it: what it may have been before, and the same done again elsewhere.

A codec turns the picture into luma and two chromas, takes the DCT of blocks of 8×8, and rounds each coefficient to a
multiple of its step. So a coefficient is known to half a step, and coarse steps say less than fine ones. Quantised
again on a grid that lies elsewhere, a picture loses the jumps of the first grid and gets others (Nosratinia 2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.range import Range

BLOCK = 8  # pixels a side
GRAY = 128 / 255  # what a codec takes from the luma before its DCT
CELL = 16  # pixels a side of what a block of halved chroma covers
# ITU-T T.81, annex K: the steps of quality 50, in units of the orthonormal DCT of 8-bit values.
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
# JFIF: RGB to luma and chroma.
OF_RGB = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


@dataclass(frozen=True)
class Coding:
    """How one picture was quantised, and where its blocks begin. Images are [1, C, H, W]; C is 1 or 3.

    Coefficients are those of values of the full range. Images are in the unit range, which lies in ``range``, the same
    for all channels.
    """

    luma: Tensor  # [8, 8], steps of the orthonormal DCT of values in [0, 1]
    chroma: Tensor  # [8, 8]
    corner: Tensor  # [2] int64: rows and columns of the grid's first cell that lie before the picture
    halved: bool  # whether the chroma has half the rows and columns
    known: bool = True  # whether the steps are the picture's own, not assumed
    coded: Tensor | None = None  # [1, 1, h, 8, w, 8], what `of_luma` gives of the picture that was quantised
    range: Range = field(default_factory=Range.whole)
    of_rgb: Tensor = field(default_factory=lambda: torch.tensor(OF_RGB))  # a graph is captured without copies to it
    to_rgb: Tensor = field(default_factory=lambda: torch.linalg.inv(torch.tensor(OF_RGB)))

    def coefficients(self, image: Tensor) -> list[Tensor]:  # each [1, c, h, 8, w, 8]
        """Of the luma, and of both chromas where there are any."""
        return [dct(plane) for plane in self._planes(image, self.corner)]

    @property
    def steps(self) -> list[Tensor]:  # each [1, 1, 1, 8, 1, 8]
        """Of the luma, and of the chromas."""
        return [table[None, None, None, :, None, :] for table in (self.luma, self.chroma)]

    def again(
        self,
        image: Tensor,
        corner: Tensor,  # [2] int64, from 0 to 15
    ) -> Tensor:  # [1, C, H, W]
        """``image`` quantised with the same steps, on a grid whose first cell begins ``corner`` before the picture."""
        planes = self._planes(image, corner)
        rounded = [step * (dct(plane) / step).round() for plane, step in zip(planes, self.steps, strict=False)]
        luma, *chroma = (inverse_dct(c) for c in rounded)
        quantised = self._image([luma + GRAY, *chroma], corner, image)
        return self.range.to_unit(quantised)

    def of_luma(self, image: Tensor) -> Tensor:  # [1, 1, h, 8, w, 8]
        """The luma's coefficients."""
        return dct(self._laid(luma_of(self.range.to_full(image), self.of_rgb), self.corner))

    def remaining(self, image: Tensor) -> Tensor:  # 0-D
        """Mean square of the luma's differences from `coded`, over what rounding leaves: a twelfth of a step squared.

        Where `coded` has a multiple of the step other than 0, for there any place in it is about as likely. Infinite
        where it has none.
        """
        assert self.coded is not None
        found, wanted, step = self.of_luma(image), self.coded, self.steps[0]
        told = wanted.abs() > step / 2
        count = told.sum()
        mean = (((found - wanted) / step).square() * told).sum() / count
        return torch.where(count > 0, 12 * mean, torch.inf)

    def nearest(self, image: Tensor, coded: Tensor) -> Tensor:  # [1, C, H, W]
        """``image``, with each coefficient brought to within half a step of what ``coded`` has."""
        missing = []
        pairs = zip(self.coefficients(image), self.coefficients(coded), self.steps, strict=False)
        for found, centre, step in pairs:
            inside = torch.minimum(torch.maximum(found, centre - step / 2), centre + step / 2)
            missing.append(inverse_dct(inside - found))
        moved = self._image(missing, self.corner, image)
        return image + moved / self.range.width

    def _planes(self, image: Tensor, corner: Tensor) -> list[Tensor]:
        """Luma [1, 1, h, w] and chromas [1, 2, h', w'] of ``image`` on the grid."""
        image = self._laid(self.range.to_full(image), corner)
        luma = luma_of(image, self.of_rgb)
        if image.shape[1] == 1:
            return [luma]
        chroma = chroma_of(image, self.of_rgb)
        return [luma, F.avg_pool2d(chroma, 2) if self.halved else chroma]

    def _laid(self, image: Tensor, corner: Tensor) -> Tensor:  # [1, C, H, W] -> [1, C, H', W']
        """``image``, mirrored to the beginning of the grid's first cell and the end of its last."""
        for axis in (2, 3):
            side = image.shape[axis]
            cells = torch.arange(CELL * -(-(side + CELL - 1) // CELL), device=image.device)
            image = image.index_select(axis, _mirrored(cells - corner[axis - 2], side))
        return image

    def _image(self, planes: list[Tensor], corner: Tensor, like: Tensor) -> Tensor:
        """The way back, cut to the picture's own rows and columns."""
        image = planes[0]
        if len(planes) > 1:
            chroma = F.interpolate(planes[1], scale_factor=2.0, mode="bilinear") if self.halved else planes[1]
            image = torch.einsum("ij,bjhw->bihw", self.to_rgb, torch.cat([image, chroma], 1))
        for axis in (2, 3):
            own = torch.arange(like.shape[axis], device=image.device) + corner[axis - 2]
            image = image.index_select(axis, own)
        return image


@dataclass(frozen=True)
class CodedSquare:
    """Mean square of the differences of the DCT's coefficients, each over its step, times the mean step of the luma.

    A step's rounding leaves an error that grows with the step, so that what was rounded coarsely counts less. The
    weight over the step, not its square, was best of five (LOG.md).
    """

    coding: Coding

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        found, wanted = self.coding.coefficients(prediction), self.coding.coefficients(target)
        weigh = self.coding.luma.mean()
        weighed = [
            ((a - b).square() * (weigh / step)).sum()
            for a, b, step in zip(found, wanted, self.coding.steps, strict=False)
        ]
        mean = torch.stack(weighed).sum() / prediction.numel()
        return mean / self.coding.range.width.square().mean()


def luma_of(
    image: Tensor,  # [1, C, H, W]
    of_rgb: Tensor,  # [3, 3]
) -> Tensor:  # [1, 1, H, W]
    """What is coded of the luma: 0 for middle gray."""
    if image.shape[1] == 1:
        return image - GRAY
    return torch.einsum("j,bjhw->bhw", of_rgb[0], image)[:, None] - GRAY


def chroma_of(
    image: Tensor,  # [1, 3, H, W]
    of_rgb: Tensor,  # [3, 3]
) -> Tensor:  # [1, 2, H, W]
    return torch.einsum("ij,bjhw->bihw", of_rgb[1:], image)


def tables(quality: int) -> tuple[Tensor, Tensor]:  # [8, 8] each
    """Steps of luma and chroma that libjpeg takes for ``quality`` 1 to 100, for values in [0, 1]."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(  # type: ignore[return-value]
        ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255) / 255 for table in (LUMA, CHROMA)
    )


def dct(plane: Tensor) -> Tensor:  # [1, c, H, W] -> [1, c, H / 8, 8, W / 8, 8]
    """Orthonormal DCT of the blocks."""
    basis = _basis(plane)
    return torch.einsum("ki,lj,bchiwj->bchkwl", basis, basis, split(plane))


def split(plane: Tensor) -> Tensor:  # [1, c, H, W] -> [1, c, H / 8, 8, W / 8, 8]
    batch, channels, height, width = plane.shape
    return plane.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)


def inverse_dct(coefficients: Tensor) -> Tensor:  # [1, c, h, 8, w, 8] -> [1, c, 8 h, 8 w]
    basis = _basis(coefficients)
    blocks = torch.einsum("ki,lj,bchkwl->bchiwj", basis, basis, coefficients)
    batch, channels, rows, _, columns, _ = blocks.shape
    return blocks.reshape(batch, channels, rows * BLOCK, columns * BLOCK)


def _basis(like: Tensor) -> Tensor:  # [8, 8], frequency by pixel
    at = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / BLOCK * (at + 0.5) * at[:, None]) / 2
    return torch.where(at[:, None] > 0, waves, math.sqrt(1 / BLOCK))


def _mirrored(at: Tensor, side: int) -> Tensor:
    """Indices into ``side`` pixels, reflected without the edge, again and again."""
    if side == 1:
        return torch.zeros_like(at)
    period = 2 * (side - 1)
    at = at.remainder(period)
    return torch.where(at < side, at, period - at)
