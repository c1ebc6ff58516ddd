"""The ridge step: what it removes, what it leaves, borders, odd sizes, bands, and its expected error."""

from __future__ import annotations

import math

import pytest
import skimage.data
import torch
from torch import Tensor

from dipfast.refine import refine
from dipfast.refine import ridge as module
from dipfast.refine.matching import nearest_patches
from dipfast.refine.ridge import opponent_colours, ridge
from dipfast.settings.refine import Refine

SMALL = Refine(neighbours=16, window=11)


def psnr(a: Tensor, b: Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


@pytest.fixture(scope="module")
def scene() -> tuple[Tensor, Tensor, Tensor]:
    """A picture, the same with noise of sigma 0.1, and a pilot: a local mean of it."""
    torch.set_num_threads(1)
    truth = torch.from_numpy(skimage.data.astronaut()[60:156, 180:276].copy()).permute(2, 0, 1) / 255
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0))
    return truth, noisy, torch.nn.functional.avg_pool2d(noisy, 3, 1, 1, count_include_pad=False)


def same(image: Tensor, variance: float) -> Tensor:
    return torch.full_like(image, variance)


def test_answer_is_better_than_picture_and_pilot(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    truth, noisy, pilot = scene
    found = refine(noisy, pilot, pilot, same(noisy, 0.01)).picture
    assert psnr(found, truth) > psnr(noisy, truth) + 7
    assert psnr(found, truth) > psnr(pilot, truth) + 0.5


def test_same_arguments_give_same_bits(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    _, noisy, pilot = scene
    first, second = (refine(noisy, pilot, pilot, same(noisy, 0.01), SMALL) for _ in range(2))
    assert torch.equal(first.picture, second.picture)
    assert torch.equal(first.error, second.error)


def test_expected_error_is_near_the_error_with_the_truth_as_pilot(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    truth, noisy, _ = scene
    found = refine(noisy, truth, truth, same(noisy, 0.01))
    error = float((found.picture - truth).square().mean())
    assert 0.3 < error / float(found.error.mean()) < 1.0  # overlapping patches do better than one


def test_no_noise_leaves_the_picture(scene: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    truth, _, pilot = scene
    monkeypatch.setattr(module, "MEAN_RANK", 49)  # all of them
    monkeypatch.setattr(module, "REST_RANK", 98)
    found = refine(truth, pilot, pilot, same(truth, 0.0), SMALL)
    assert float((found.picture - truth).abs().max()) < 0.02


def test_bias_of_clipping_is_undone(scene: tuple[Tensor, Tensor, Tensor]) -> None:
    _, noisy, pilot = scene
    plain = refine(noisy, pilot, pilot, same(noisy, 0.01), SMALL).picture
    shifted = refine(noisy + 0.05, pilot, pilot + 0.05, same(noisy, 0.01), SMALL).picture
    torch.testing.assert_close(plain, shifted, atol=1e-4, rtol=0)


def test_bands_meet_without_a_seam(scene: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    _, noisy, pilot = scene
    whole = refine(noisy, pilot, pilot, same(noisy, 0.01), SMALL)
    monkeypatch.setattr(module, "BAND", 1)  # four rows of references each
    banded = refine(noisy, pilot, pilot, same(noisy, 0.01), SMALL)
    torch.testing.assert_close(banded.picture, whole.picture, atol=1e-4, rtol=0)
    torch.testing.assert_close(banded.error, whole.error, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 40), (2, 3, 5), (3, 33, 8), (5, 20, 21)])
def test_any_size_and_number_of_channels(shape: tuple[int, int, int]) -> None:
    noisy = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    found = refine(noisy, noisy, noisy, same(noisy, 0.01))
    assert found.picture.shape == found.error.shape == shape
    assert bool(found.picture.isfinite().all())
    assert bool((found.error >= 0).all())


def test_constant_picture_stays_constant() -> None:
    picture = torch.full((3, 40, 40), 0.25)
    found = refine(picture, picture, picture, same(picture, 0.01)).picture
    torch.testing.assert_close(found, picture, atol=1e-3, rtol=0)


def test_noisier_values_count_for_less() -> None:
    generator = torch.Generator().manual_seed(2)
    truth = torch.full((1, 64, 64), 0.5)
    variance = same(truth, 1e-4)
    variance[:, :, ::16] = variance[:, :, 1::16] = 0.04
    noisy = truth + variance.sqrt() * torch.randn(truth.shape, generator=generator)
    told = refine(noisy, truth, truth, variance, SMALL).picture
    untold = refine(noisy, truth, truth, same(truth, 0.02), SMALL).picture
    assert psnr(told, truth) > psnr(untold, truth) + 1


def test_shapes_that_differ_are_refused() -> None:
    a, b = torch.zeros(3, 8, 8), torch.zeros(3, 8, 9)
    with pytest.raises(ValueError, match=r"all tensors should have one shape"):
        refine(a, b, a, a)


def test_solution_is_that_of_the_dense_equations() -> None:
    generator = torch.Generator().manual_seed(3)
    x, z = (torch.randn(2, 12, 20, generator=generator, dtype=torch.float64) for _ in range(2))
    d = torch.rand(2, 12, generator=generator, dtype=torch.float64) + 0.5
    theta = torch.linalg.solve(x @ x.mT + torch.diag_embed(d), x @ x.mT)
    estimate, weight, error = ridge(x / d.sqrt()[..., None], z, d)
    torch.testing.assert_close(estimate / weight[..., None], theta.mT @ z, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(error, d * theta.diagonal(dim1=1, dim2=2), atol=1e-4, rtol=1e-4)


def test_groups_are_the_nearest_patches_of_the_window() -> None:
    generator = torch.Generator().manual_seed(4)
    components = torch.randn(30, 40, 3, generator=generator)
    found = nearest_patches(components, range(0, 30, 7), 6, 5, 9)
    places = torch.cartesian_prod(torch.arange(30), torch.arange(40))
    references = [(row, column) for row in range(0, 30, 7) for column in range(0, 40, 6)]
    for (row, column), group in zip(references, found, strict=True):
        inside = ((places - torch.tensor([row, column])).abs() <= 5).all(1)
        distances = (components - components[row, column]).square().sum(-1).flatten().where(inside, torch.inf)
        assert set(group.tolist()) == set(distances.topk(9, largest=False).indices.tolist())


@pytest.mark.parametrize("channels", [1, 2, 3, 7])
def test_opponent_colours_are_orthonormal(channels: int) -> None:
    rows = opponent_colours(channels)
    torch.testing.assert_close(rows @ rows.T, torch.eye(channels), atol=1e-5, rtol=0)
    torch.testing.assert_close(rows[0], torch.full((channels,), 1 / math.sqrt(channels)))
