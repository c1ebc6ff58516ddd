"""JPEG's quantisation of a picture (ITU-T T.81), the way back from it, and the borders that its blocks leave.

A codec turns the picture into luma and two chromas, takes the DCT of blocks of 8×8 pixels, and rounds each coefficient
to a multiple of its quantisation step. So each original coefficient is known to half a step. A picture that is
quantised again on a shifted grid loses the discontinuities of the first grid and gets others (Nosratinia 2001).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.tasks.range import Range

BLOCK = 8  # side of a block in pixels
GRAY = 128 / 255  # a codec subtracts it from the luma before the DCT
CELL = 16  # side in pixels of the area that a block of halved chroma covers
LINES_AROUND = 3  # rows or columns on each side with which a possible border of blocks is compared
FLAT = 1e-6  # least mean difference of neighbouring lines that anything is divided by
# The steps of libjpeg's quality 50 (ITU-T T.81, annex K), in units of the orthonormal DCT of 8-bit values.
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
# The matrix of JFIF from RGB to luma and the two chromas.
OF_RGB = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


@dataclass(frozen=True)
class Coding:
    """The quantisation of one picture, and the place of its blocks.

    Images are [1, C, H, W] with 1 or 3 channels, in the unit range, which lies in ``range``, the same for all channels.
    Coefficients are those of values in the full range [0, 1].
    """

    luma: Tensor  # [8, 8], steps of the orthonormal DCT of values in [0, 1]
    chroma: Tensor  # [8, 8], the same for both chromas
    corner: Tensor  # [2] int64, rows and columns of the grid's first cell that lie before the picture
    halved: bool  # whether the chromas have half the rows and columns
    known: bool = True  # whether the steps are the picture's own, not assumed
    coded: Tensor | None = None  # [1, 1, h, 8, w, 8], the luma's coefficients of the picture that was quantised
    range: Range = field(default_factory=Range.whole)
    # The matrices are fields so that they move to the device with the problem: a captured graph allows no copy to it.
    of_rgb: Tensor = field(default_factory=lambda: torch.tensor(OF_RGB))
    to_rgb: Tensor = field(default_factory=lambda: torch.linalg.inv(torch.tensor(OF_RGB)))

    def coefficients(self, image: Tensor) -> list[Tensor]:  # each [1, c, h, 8, w, 8]
        """Return the coefficients of the luma, c = 1, and in a picture of three channels of the chromas, c = 2."""
        return [dct(plane) for plane in self._planes(image, self.corner)]

    @property
    def steps(self) -> list[Tensor]:  # each [1, 1, 1, 8, 1, 8]
        """Return the steps of the luma and of the chromas, to broadcast against `coefficients`."""
        return [table[None, None, None, :, None, :] for table in (self.luma, self.chroma)]

    def again(
        self,
        image: Tensor,
        corner: Tensor,  # [2] int64, from 0 to 15
    ) -> Tensor:  # [1, C, H, W]
        """Quantise ``image`` with the same steps on a grid whose first cell begins ``corner`` before the picture."""
        planes = self._planes(image, corner)
        rounded = [step * (dct(plane) / step).round() for plane, step in zip(planes, self.steps, strict=False)]
        luma, *chroma = (inverse_dct(c) for c in rounded)
        quantised = self._image([luma + GRAY, *chroma], corner, image)
        return self.range.to_unit(quantised)

    def of_luma(self, image: Tensor) -> Tensor:  # [1, 1, h, 8, w, 8]
        """Return the luma's coefficients."""
        return dct(self._on_grid(luma_of(self.range.to_full(image), self.of_rgb), self.corner))

    def remaining(self, image: Tensor) -> Tensor:  # 0-D
        """Return the mean square of the luma's differences from `coded` over that of rounding, step^2 / 12.

        Only coefficients that were not rounded to 0 count, because only their rounding errors are about uniform. The
        ratio is infinite where there are none.
        """
        assert self.coded is not None
        found, wanted, step = self.of_luma(image), self.coded, self.steps[0]
        counts = wanted.abs() > step / 2
        count = counts.sum()
        mean = (((found - wanted) / step).square() * counts).sum() / count
        return torch.where(count > 0, 12 * mean, torch.inf)

    def nearest(self, image: Tensor, coded: Tensor) -> Tensor:  # [1, C, H, W]
        """Return ``image`` with each coefficient moved to within half a step of that of the picture ``coded``.

        This is the projection onto the quantisation constraint set (Zakhor 1992), exact where the chroma is not halved.
        """
        missing = []
        pairs = zip(self.coefficients(image), self.coefficients(coded), self.steps, strict=False)
        for found, centre, step in pairs:
            inside = torch.minimum(torch.maximum(found, centre - step / 2), centre + step / 2)
            missing.append(inverse_dct(inside - found))
        moved = self._image(missing, self.corner, image)
        return image + moved / self.range.width

    def _planes(self, image: Tensor, corner: Tensor) -> list[Tensor]:
        """Return luma [1, 1, h, w] and chromas [1, 2, h', w'] of ``image``, extended to the grid."""
        image = self._on_grid(self.range.to_full(image), corner)
        luma = luma_of(image, self.of_rgb)
        if image.shape[1] == 1:
            return [luma]
        chroma = chroma_of(image, self.of_rgb)
        return [luma, F.avg_pool2d(chroma, 2) if self.halved else chroma]

    def _on_grid(self, image: Tensor, corner: Tensor) -> Tensor:  # [1, C, H, W] -> [1, C, H', W']
        """Extend ``image`` by reflection from the beginning of the grid's first cell to the end of its last."""
        for axis in (2, 3):
            side = image.shape[axis]
            cells = torch.arange(CELL * -(-(side + CELL - 1) // CELL), device=image.device)
            image = image.index_select(axis, _mirrored(cells - corner[axis - 2], side))
        return image

    def _image(self, planes: list[Tensor], corner: Tensor, like: Tensor) -> Tensor:
        """Invert `_planes`: return the image of ``planes``, cut to the rows and columns of ``like``."""
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
    """The mean of w (C A x - C y)^2 with the DCT's coefficients C, and w the luma's mean step over each one's own step.

    Rounding leaves an error that grows with the step, so that coarsely rounded coefficients count less. A weight of one
    over the step, not over its square, was the best of five (LOG.md, 2026-11-24).
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
    """Return the luma as a codec transforms it: 0 for middle gray."""
    if image.shape[1] == 1:
        return image - GRAY
    return torch.einsum("j,bjhw->bhw", of_rgb[0], image)[:, None] - GRAY


def chroma_of(
    image: Tensor,  # [1, 3, H, W]
    of_rgb: Tensor,  # [3, 3]
) -> Tensor:  # [1, 2, H, W]
    """Return both chromas: 0 for gray."""
    return torch.einsum("ij,bjhw->bihw", of_rgb[1:], image)


def tables(quality: int) -> tuple[Tensor, Tensor]:  # [8, 8] each
    """Return libjpeg's steps of luma and chroma at a ``quality`` of 1 to 100, for values in [0, 1]."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return tuple(  # type: ignore[return-value]
        ((torch.tensor(table) * percent + 50) // 100).clamp(1, 255) / 255 for table in (LUMA, CHROMA)
    )


def dct(plane: Tensor) -> Tensor:  # [1, c, H, W] -> [1, c, H / 8, 8, W / 8, 8]
    """Return the orthonormal DCT-II of each block of 8×8 pixels."""
    basis = _basis(plane)
    return torch.einsum("ki,lj,bchiwj->bchkwl", basis, basis, split(plane))


def split(plane: Tensor) -> Tensor:  # [1, c, H, W] -> [1, c, H / 8, 8, W / 8, 8]
    """Split each channel into blocks of 8×8 pixels, as a view where that is possible."""
    batch, channels, height, width = plane.shape
    return plane.reshape(batch, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK)


def inverse_dct(coefficients: Tensor) -> Tensor:  # [1, c, h, 8, w, 8] -> [1, c, 8 h, 8 w]
    """Invert `dct` and join the blocks."""
    basis = _basis(coefficients)
    blocks = torch.einsum("ki,lj,bchkwl->bchiwj", basis, basis, coefficients)
    batch, channels, rows, _, columns, _ = blocks.shape
    return blocks.reshape(batch, channels, rows * BLOCK, columns * BLOCK)


def _basis(like: Tensor) -> Tensor:  # [8, 8], frequency by pixel
    """Return the matrix of the DCT-II of eight values, in the dtype and on the device of ``like``."""
    at = torch.arange(BLOCK, device=like.device, dtype=like.dtype)
    waves = torch.cos(math.pi / BLOCK * (at + 0.5) * at[:, None]) / 2
    return torch.where(at[:, None] > 0, waves, math.sqrt(1 / BLOCK))


def _mirrored(at: Tensor, side: int) -> Tensor:
    """Return indices into ``side`` pixels for positions ``at``, reflected at both edges as often as needed."""
    if side == 1:
        return torch.zeros_like(at)
    period = 2 * (side - 1)
    at = at.remainder(period)
    return torch.where(at < side, at, period - at)


def border_strength(picture: Tensor, axis: int) -> Tensor:  # [1, C, H, W] -> [N], N = side - 1 - 2 LINES_AROUND
    """Return how much more each line differs from the next one than the lines around do; 1 where there is no border.

    Lines are rows for ``axis`` 2 and columns for ``axis`` 3; differences are means of absolute values. Borders of a
    codec's blocks stand out. The first and the last `LINES_AROUND` differences have no result.
    """
    jumps = picture.diff(dim=axis).abs().mean(dim=(0, 1, 5 - axis))
    windows = jumps.unfold(0, 2 * LINES_AROUND + 1, 1)
    around = (windows.sum(1) - windows[:, LINES_AROUND]) / (2 * LINES_AROUND)
    return windows[:, LINES_AROUND] / around.clamp_min(FLAT)


def first_border(strengths: Tensor, block: int) -> int:
    """Return the index of the first border of a grid of ``block`` lines, from the `border_strength` [N] of a picture.

    It is the one of the grid's ``block`` possible places at which the borders are strongest on average.
    """
    return max(range(block), key=lambda phase: float(strengths[phase::block].log1p().mean()))
