"""Collaborative ridge regression: groups of alike patches of a noisy picture, filtered together with a pilot's help.

After Herbreteau and Kervrann, "A unified view of patch-based denoisers" (NL-Ridge, SIAM J. Imaging Sci. 2025), second
step. The k patches most alike in the pilot are the rows of X, the same patches of the noisy picture those of Z, and D
is diagonal with the noise's energy in each patch. Theta = (X X^T + D)^-1 X X^T has the least expected error of all
Theta^T Z if the pilot is the truth, and overlapping results are averaged by the inverse of the noise that is left.

Three things make it fast. Patches of the pilot are given by r principal components, X = A B with B orthonormal, so
that Theta^T = D^1/2 V U^T D^-1/2, with U = D^-1/2 A and V = U (I + U^T U)^-1, needs systems of r equations, not of k.
Colours are rotated to their mean, which keeps nearly all components, and to differences, which share few (`PARTS`). And
patches are read and added by rows of pixels, which lie side by side in memory. The picture is worked on in bands, so
memory beyond buffers of the picture's size does not grow with its height. The same arguments give the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.refine.matching import nearest_patches
from dipfast.settings.refine import Refine

MEAN_RANK = 40  # principal components of the mean of the channels (LOG.md, 2026-12-01)
REST_RANK = 16  # of their differences
MATCH_RANK = 24  # components by which patches are compared
SAMPLED = 40_000  # patches that principal components are taken from, about
BAND = 24_000_000  # numbers that a band of the picture may hold for each kind of map, about
LEAST_VARIANCE = 1e-8  # of a value's noise, so that places without noise are left as they are
ROUNDING = 3e-7  # of the trace, added to the diagonal: a matrix of float32 whose noise is tiny stays positive definite
CHUNK = {"cpu": 128, "cuda": 8192}  # groups at a time: on a CPU what stays in its cache


@dataclass(frozen=True)
class Refined:
    """A refined picture and what is expected of it."""

    picture: Tensor  # [C, H, W]
    error: Tensor  # [C, H, W], expected squared error of each value, if the pilot were the truth


@dataclass(frozen=True)
class _Part:
    """Rotated channels that share their weights."""

    channels: slice
    components: Tensor  # [R, C' p p], rows orthonormal


def refine(
    noisy: Tensor,  # [C, H, W], y
    pilot: Tensor,  # [C, H, W]
    expected: Tensor,  # [C, H, W], E y if the pilot is the truth; other than the pilot where noise is clipped
    variance: Tensor,  # [C, H, W], of y about that
    settings: Refine | None = None,
) -> Refined:
    """Return ``noisy`` filtered by groups of patches that are alike in ``pilot``.

    Any number of channels and any size. The noise should be independent from value to value. Memory is that of five
    pictures in float32 and of a band. Values are not clamped. Raises ValueError for tensors of different shapes.
    """
    settings = settings or Refine()
    shapes = {tuple(tensor.shape) for tensor in (noisy, pilot, expected, variance)}
    if len(shapes) != 1 or noisy.dim() != 3:
        raise ValueError(f"refine(): all tensors should have one shape [C, H, W], have {sorted(shapes)}")
    channels, *sides = noisy.shape
    padded = [_padded_side(side, settings) for side in sides]
    rotation = opponent_colours(channels).to(noisy)
    y, x = (_rotated(rotation, _pad(image, padded)) for image in (noisy - (expected - pilot), pilot))
    noise = _rotated(rotation.square(), _pad(variance, padded)).clamp_min(LEAST_VARIANCE)
    parts = [_part(x, slice(0, 1), MEAN_RANK, settings.patch)]
    if channels > 1:
        parts.append(_part(x, slice(1, channels), REST_RANK, settings.patch))
    sums, errors, weights = _aggregate(x, y, noise, parts, settings)
    for number, part in enumerate(parts):
        sums[part.channels] /= weights[number]
        errors[number] /= weights[number]
    error = torch.stack([errors[min(number, len(parts) - 1)] for number in range(channels)])
    height, width = sides
    picture, error = _rotated(rotation.T, sums), _rotated(rotation.T.square(), error)
    return Refined(picture[:, :height, :width], error[:, :height, :width])


def opponent_colours(channels: int) -> Tensor:  # [C, C]
    """Return orthonormal rows, the first of which is the mean: a discrete cosine transform of the channels.

    Of red, green and blue they are proportional to (1, 1, 1), (1, 0, -1) and (1, -2, 1).
    """
    order, place = torch.arange(channels)[:, None], torch.arange(channels)[None]
    waves = torch.cos(math.pi * order * (place + 0.5) / channels)
    return waves / waves.norm(dim=1, keepdim=True)


def _rotated(rotation: Tensor, image: Tensor) -> Tensor:
    return torch.einsum("oc,chw->ohw", rotation, image)


def _padded_side(side: int, settings: Refine) -> int:
    """Return the side at which the grid of references ends with the picture."""
    patch, stride = settings.patch, settings.stride
    return max(side, patch) + -(max(side, patch) - patch) % stride


def _pad(image: Tensor, sides: list[int]) -> Tensor:
    """Extend ``image`` below and to the right, mirrored again and again with the border doubled."""
    for dim, side in zip((1, 2), sides, strict=True):
        while image.shape[dim] < side:
            more = min(side - image.shape[dim], image.shape[dim])
            image = torch.cat((image, image.flip(dim).narrow(dim, 0, more)), dim)
    return image


def _part(pilot: Tensor, channels: slice, rank: int, patch: int) -> _Part:
    """Return the principal components of the patches of some channels, from a sample of them."""
    image = pilot[channels]
    size = len(image) * patch**2
    every = max(1, math.isqrt(image[0].numel() // SAMPLED))
    patches = image.unfold(1, patch, every).unfold(2, patch, every).permute(1, 2, 0, 3, 4).reshape(-1, size)
    vectors = torch.linalg.eigh((patches.T @ patches).double()).eigenvectors  # by rising eigenvalues
    return _Part(channels, vectors.flip(1)[:, :rank].T.to(pilot).contiguous())


@dataclass(frozen=True)
class _Band:
    """Some rows of the picture, with what the groups of some rows of references need. Places are numbered by rows."""

    top: int  # first row of the picture
    height: int  # rows of places
    width: int  # places in a row
    pixels: int  # of a row of the picture
    groups: Tensor  # [references, k], places
    own: list[Tensor]  # of each part [places, R], U: the pilot's components over the noise's deviation
    energy: list[Tensor]  # of each part [places], the noise's energy in a patch
    seen: list[Tensor]  # of each part [pixels, p C'], rows of p pixels of the noisy picture from each pixel on


def _aggregate(
    pilot: Tensor,  # [C, H, W], rotated
    noisy: Tensor,  # [C, H, W]
    noise: Tensor,  # [C, H, W], variance
    parts: list[_Part],
    settings: Refine,
) -> tuple[Tensor, Tensor, Tensor]:  # [C, H, W], and [parts, H, W] twice
    """Return sums of weighted estimates of each value, of their weighted expected errors, and of the weights."""
    patch = settings.patch
    sums = torch.zeros_like(noisy)
    errors, weights = (noisy.new_zeros(len(parts), *noisy.shape[1:]) for _ in range(2))
    for band in _bands(pilot, noisy, noise, parts, settings):
        rows = slice(band.top, band.top + band.height + patch - 1)
        totals, places = _filtered(band, parts, patch)
        for part, total in zip(parts, totals, strict=True):
            total = total.view(rows.stop - rows.start, band.pixels, patch, -1)
            for shift in range(patch):
                values = total[:, : band.pixels - shift, shift].permute(2, 0, 1)
                sums[part.channels, rows, shift:] += values
        maps = places.view(band.height, band.width, -1).permute(2, 0, 1)
        covered = _box_sums(F.pad(maps, (patch - 1,) * 4), patch)  # every patch over its pixels
        weights[:, rows] += covered[: len(parts)]
        errors[:, rows] += covered[len(parts) :]
    return sums, errors, weights


def _bands(pilot: Tensor, noisy: Tensor, noise: Tensor, parts: list[_Part], settings: Refine) -> Iterator[_Band]:
    """Yield the picture in bands of several rows of references, from top to bottom."""
    patch, stride, reach = settings.patch, settings.stride, settings.window // 2
    _, height, width = noisy.shape
    rows, columns = height - patch + 1, width - patch + 1  # places of patches
    fewest = min(rows, reach + 1) * min(columns, reach + 1)  # places in a window at a corner
    count = min(settings.neighbours, fewest)
    numbers = width * max(MEAN_RANK, REST_RANK)  # of the largest map, a row
    each = max(4, (BAND // numbers - 2 * reach) // stride)  # rows of references
    for first in range(0, rows, each * stride):
        references = range(first, min(rows, first + each * stride), stride)
        top, bottom = max(0, first - reach), min(rows, references[-1] + reach + 1)
        inside = slice(top, bottom + patch - 1)
        components = [_components(pilot[part.channels, inside], part, patch) for part in parts]
        energy = [_energy(noise[part.channels, inside], patch) for part in parts]
        own = [(a * c.rsqrt()[..., None]).flatten(0, 1) for a, c in zip(components, energy, strict=True)]
        within = range(first - top, references[-1] - top + 1, stride)
        groups = nearest_patches(components[0][..., :MATCH_RANK], within, stride, reach, count)
        seen = [_rows_of_pixels(noisy[part.channels, inside], patch) for part in parts]
        yield _Band(top, bottom - top, columns, width, groups, own, [c.flatten() for c in energy], seen)


def _components(image: Tensor, part: _Part, patch: int) -> Tensor:  # [C', H, W] -> [H - p + 1, W - p + 1, R]
    """Return the principal components of the patch at each place."""
    kernels = part.components.view(-1, len(image), patch, patch)
    return F.conv2d(image[None], kernels)[0].permute(1, 2, 0).contiguous()


def _energy(variance: Tensor, patch: int) -> Tensor:  # [C', H, W] -> [H - p + 1, W - p + 1]
    """Return the sum of ``variance`` over the patch at each place."""
    return _box_sums(variance.sum(0, keepdim=True), patch)[0]


def _box_sums(maps: Tensor, side: int) -> Tensor:  # [M, H, W] -> [M, H - side + 1, W - side + 1]
    """Return the sums over all boxes of ``side`` pixels a side, first over columns, then over rows."""
    _, height, width = maps.shape
    rows = sum(
        (maps[:, :, shift : width - side + 1 + shift] for shift in range(1, side)), maps[..., : width - side + 1]
    )
    last = height - side + 1
    return sum((rows[:, shift : last + shift] for shift in range(1, side)), rows[:, :last])


def _rows_of_pixels(image: Tensor, length: int) -> Tensor:  # [C', H, W] -> [H W, p C'], a view
    """Return ``length`` pixels from each pixel on, channels side by side; beyond the last one there are zeros."""
    channels, pixels = len(image), image[0].numel()
    flat = F.pad(image.permute(1, 2, 0).flatten(), (0, length * channels))
    return flat.as_strided((pixels, length * channels), (channels, 1))


def _filtered(band: _Band, parts: list[_Part], patch: int) -> tuple[list[Tensor], Tensor]:
    """Return what the groups of ``band`` give.

    Those are sums of weighted estimates, of each part [pixels, p C'], as `_rows_of_pixels` has them, and sums over
    patches at each place [places, 2 parts]: of the parts' weights, and of their weighted expected errors.
    """
    totals = [torch.zeros(rows.shape, device=rows.device) for rows in band.seen]
    places = band.seen[0].new_zeros(band.height * band.width, 2 * len(parts))
    shifts = torch.arange(patch, device=places.device) * band.pixels
    for groups in band.groups.split(CHUNK[places.device.type]):
        flat = groups.flatten()
        pixels = ((flat // band.width * band.pixels + flat % band.width)[:, None] + shifts).flatten()
        found = []
        for number, part in enumerate(parts):
            own = band.own[number].index_select(0, flat).view(*groups.shape, -1)  # U [B, k, R]
            energy = band.energy[number].index_select(0, flat).view(groups.shape)
            noisy = band.seen[number].index_select(0, pixels).view(*groups.shape, -1)  # Z [B, k, p p C']
            estimate, weight, error = ridge(own, noisy, energy)
            totals[number].index_add_(0, pixels, estimate.view(len(pixels), -1))
            found.append((weight, error / part.components.shape[1]))
        columns = [weight for weight, _ in found] + [weight * error for weight, error in found]
        places.index_add_(0, flat, torch.stack(columns, -1).view(len(flat), -1))
    return totals, places


def ridge(
    own: Tensor,  # [B, k, R], U: components of the pilot's patches, each over the root of its noise's energy
    noisy: Tensor,  # [B, k, N], Z
    energy: Tensor,  # [B, k], the diagonal of D: the noise's energy in each patch
) -> tuple[Tensor, Tensor, Tensor]:  # [B, k, N], [B, k], [B, k]
    """Return each patch's estimate times its weight, its weight, and its expected squared error, over all its values.

    With M = (I + U^T U)^-1 and V = U M, Theta^T = D^1/2 V U^T D^-1/2. A patch's row of it has the squared norm
    v (U^T U) v^T = v u^T - |v|^2 where D is constant, and leaves the error d v u^T of its energy d. Instead of the
    identity there is a multiple of it where float32 needs one.
    """
    count = own.shape[1]
    gram = own.mT @ own  # [B, R, R]
    diagonal = gram.diagonal(dim1=1, dim2=2)
    shift = 1 + ROUNDING * diagonal.sum(1, keepdim=True)
    diagonal += shift
    solved = torch.cholesky_solve(own.mT, torch.linalg.cholesky_ex(gram).L).mT  # V
    kept = (solved * own).sum(-1)  # of each patch's own noise: the diagonal of Theta
    squares = (kept - shift * solved.square().sum(-1)).clamp_min(1 / count)  # a mean of all patches has 1 / k
    weight = energy.mean(1, keepdim=True) / (energy * squares)
    deviation = energy.sqrt()
    inner = (own / deviation[..., None]).mT @ noisy  # [B, R, N]
    return (solved * (deviation * weight)[..., None]) @ inner, weight, energy * kept
