"""The forward operators, the data terms and the seeded damage, each without a fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import damage_of, task_of

from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.tasks.inpaint import filled
from dipfast.tasks.noise import estimate_noise
from dipfast.tasks.operators import Clipping, Downsampling, Identity, Linear, Masking, Saturation
from dipfast.tasks.problem import ClippedGaussian, PoissonDeviance, PoissonVariance, mean_absolute, mean_square

MASK = (torch.rand(1, 1, 24, 36, generator=torch.Generator().manual_seed(0)) > 0.4).double()
OPERATORS: list[tuple[str, Linear]] = [
    ("identity", Identity()),
    ("mask", Masking(MASK)),
    *(
        (f"{kernel} x{s}", Downsampling.of(s, kernel))
        for kernel in ("lanczos2", "lanczos3", "bicubic")
        for s in (2, 3, 4)
    ),
]


def images(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("name", "operator"), OPERATORS, ids=[name for name, _ in OPERATORS])
def test_the_adjoint_is_the_adjoint(name: str, operator: Linear) -> None:
    x = images(1, 3, 24, 36)
    y = images(*operator(x).shape)
    torch.testing.assert_close((operator(x) * y).sum(), (x * operator.adjoint(y)).sum())


@pytest.mark.parametrize(("name", "operator"), OPERATORS[2:], ids=[name for name, _ in OPERATORS[2:]])
def test_downsampling_keeps_a_constant(name: str, operator: Downsampling) -> None:
    small = operator(torch.full((1, 1, 24, 36), 0.3, dtype=torch.float64))
    torch.testing.assert_close(small, torch.full((1, 1, 24 // operator.scale, 36 // operator.scale), 0.3).double())


@pytest.mark.parametrize("kernel", ["lanczos2", "lanczos3", "bicubic"])
@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_the_nearest_picture_is_reduced_to_the_one_given_and_no_further_from_the_truth(kernel: str, scale: int) -> None:
    truth, guess = images(2, 3, 12 * scale, 7 * scale).float().split(1)
    operator = Downsampling.of(scale, kernel)
    nearest = operator.nearest(guess, operator(truth))
    assert float((operator(nearest) - operator(truth)).abs().max()) < 0.3 / 255
    assert mean_square(nearest, truth) < mean_square(guess, truth)
    again = operator.nearest(nearest, operator(truth))
    torch.testing.assert_close(again, nearest, rtol=0, atol=0.5 / 255)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_the_nearest_picture_is_the_picture_where_it_is_right(level: float) -> None:
    operator, flat = Downsampling.of(4, "lanczos2"), torch.full((1, 1, 8, 8), level)
    torch.testing.assert_close(operator.nearest(flat, operator(flat)), flat, rtol=0, atol=1e-5)


def test_holes_are_filled_from_what_is_near() -> None:
    y, x = torch.meshgrid(torch.arange(33.0), torch.arange(21.0), indexing="ij")
    ramp = ((y + 2 * x) / 80)[None, None]
    known = torch.rand(ramp.shape, generator=torch.Generator().manual_seed(0)) > 0.5
    found = filled(torch.where(known, ramp, 0.0), known)
    assert torch.equal(found[known], ramp[known])
    assert float((found - ramp).abs().max()) < 0.05
    alone = torch.zeros_like(known)
    alone[..., 20, 3] = True
    torch.testing.assert_close(filled(torch.where(alone, 0.7, 0.0), alone), torch.full_like(ramp, 0.7))


@pytest.mark.parametrize(("wide", "level"), [(False, 0.5), (True, 0.0)])
def test_a_latent_shows_scattered_holes_filled_and_nothing_where_they_are_wide(wide: bool, level: float) -> None:
    known = np.arange(256).reshape(1, 16, 16) % 2 == 0
    known[:, 4:10, 4:10] &= not wide
    grey = np.full((3, 16, 16), 0.5, np.float32)
    problem = tasks.pose(task_of({"type": "inpaint", "known": "white", "keep_known": True}), grey, known)
    assert bool((problem.shown == level).all())
    assert bool((problem.guide[0, :, ~torch.from_numpy(known[0])] == 0).all())
    assert problem.facts["holes"] == ("wide" if wide else "scattered")


@pytest.mark.parametrize("keep", [True, False])
def test_an_enlarged_picture_is_reduced_to_the_one_given_unless_asked_otherwise(keep: bool) -> None:
    small = images(3, 8, 8).float().numpy() * 0.2 + 0.4
    problem = tasks.pose(task_of({"type": "superres", "scale": 4, "kernel": "lanczos2", "keep_given": keep}), small)
    finished = problem.finish(torch.full((1, 3, 32, 32), 0.5))
    assert bool((problem.operator(finished) - torch.from_numpy(small)).abs().max() < 0.3 / 255) is keep


@pytest.mark.parametrize("scale", [2, 3, 4, 8])
def test_downsampling_keeps_a_ramp_where_no_border_is_near(scale: int) -> None:
    ramp = torch.arange(24.0 * scale, dtype=torch.float64).expand(1, 1, 24 * scale, -1)
    small = Downsampling.of(scale, "bicubic")(ramp)[0, 0, 0]
    centres = torch.arange(24, dtype=torch.float64) * scale + (scale - 1) / 2
    torch.testing.assert_close(small[3:-3], centres[3:-3], rtol=1e-6, atol=1e-6)


def test_lanczos3_downsampling_agrees_with_pillow() -> None:
    from PIL import Image

    x = images(1, 1, 64, 64).float()
    pillow = np.asarray(Image.fromarray(x[0, 0].numpy()).resize((16, 16), Image.Resampling.LANCZOS))
    ours = Downsampling.of(4, "lanczos3")(x)[0, 0].numpy()
    np.testing.assert_allclose(ours[3:-3, 3:-3], pillow[3:-3, 3:-3], atol=1e-5)


def test_a_mask_hides_unknown_pixels_from_the_loss() -> None:
    observed = np.full((3, 8, 8), 0.5, np.float32)
    known = np.zeros((1, 8, 8), bool)
    known[:, :4] = True
    problem = tasks.pose(task_of({"type": "inpaint", "known": "white", "keep_known": True}), observed, known)
    guess = torch.full((1, 3, 8, 8), 0.5)
    guess[..., 4:, :] = 0.9
    assert float(problem.data_term(problem.operator(guess), problem.target)) == 0


@pytest.mark.parametrize("keep", [True, False])
def test_known_pixels_come_back_exactly_unless_asked_otherwise(keep: bool) -> None:
    observed = images(3, 8, 8).float().numpy()
    known = np.zeros((1, 8, 8), bool)
    known[:, :4] = True
    problem = tasks.pose(task_of({"type": "inpaint", "known": "white", "keep_known": keep}), observed, known)
    finished = problem.finish(torch.full((1, 3, 8, 8), 0.25))[0].numpy()
    assert np.array_equal(finished[:, :4], observed[:, :4]) is keep
    assert (finished[:, 4:] == 0.25).all()


def test_the_poisson_deviance_is_least_at_the_observation() -> None:
    y = images(1, 1, 8, 8).float() + 0.1
    term = PoissonDeviance(torch.tensor(0.01))
    assert float(term(y, y)) == pytest.approx(0, abs=1e-6)
    assert float(term(y * 1.1, y)) > 0
    assert float(term(y * 0.9, y)) > 0


def test_the_poisson_deviance_is_finite_at_black() -> None:
    black, white = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    term = PoissonDeviance(torch.tensor(0.01))
    assert all(bool(torch.isfinite(term(a, b))) for a in (black, white) for b in (black, white))


@pytest.mark.parametrize(
    ("noise", "term"),
    [({"type": "gaussian", "sigma": 25.0}, mean_square), ({"type": "salt-pepper"}, mean_absolute)],
)
def test_the_data_term_is_the_noises(noise: dict[str, Any], term: Any, picture: np.ndarray) -> None:
    problem = tasks.pose(task_of({"type": "denoise", "noise": noise}), picture)
    other = 0.9 * problem.target
    assert torch.equal(problem.data_term(other, problem.target), term(other, problem.target))


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("std", [0.02, 0.1, 0.4])
def test_what_clipped_noise_leaves_is_what_it_leaves(level: float, std: float) -> None:
    noise = np.random.default_rng(0).normal(scale=std, size=400_000)
    left = np.mean(((level + noise).clip(0, 1) - level) ** 2)
    about_it = ClippedGaussian(torch.tensor(std), about_mean=False)
    assert float(about_it(torch.full((1, 1, 2, 2), level))) == pytest.approx(left, rel=0.01)
    spread = np.var((level + noise).clip(0, 1))
    assert float(ClippedGaussian(torch.tensor(std))(torch.full((1, 1, 2, 2), level))) == pytest.approx(spread, rel=0.01)


@pytest.mark.parametrize("level", [0.0, 0.1, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("std", [0.02, 0.1, 0.4])
def test_clipping_is_what_is_seen_on_the_mean(level: float, std: float) -> None:
    noise = np.random.default_rng(0).normal(scale=std, size=400_000)
    seen = Clipping(torch.tensor(std))(torch.full((1, 1, 1, 1), level))
    assert float(seen) == pytest.approx(np.mean((level + noise).clip(0, 1)), abs=3e-3 * std)


def test_clipping_of_no_noise_changes_nothing() -> None:
    x = images(1, 3, 8, 8).float()
    torch.testing.assert_close(Clipping(torch.tensor(0.0))(x), x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("level", [0.05, 0.5, 0.95, 1.0])
def test_saturation_is_what_is_seen_of_photons_on_the_mean(level: float) -> None:
    seen = np.minimum(np.random.default_rng(0).poisson(level * 40, 400_000) / 40, 1)
    found = Saturation(torch.tensor(40.0))(torch.full((1, 1, 1, 1), level))
    assert float(found) == pytest.approx(seen.mean(), abs=2e-3)
    assert float(PoissonVariance(torch.tensor(40.0))(torch.full((1, 1, 1, 1), level))) == pytest.approx(
        seen.var(), rel=0.08
    )


def test_a_fit_that_reckons_with_clipping_finds_what_a_plain_one_cannot() -> None:
    dark = np.full((1, 64, 64), 0.02, np.float32)
    seen = tasks.degrade(damage_of({"type": "gaussian", "sigma": 50.0, "seed": 0, "crop": None}), dark).observed
    noise = {"type": "gaussian", "sigma": 50.0}
    reckoning = tasks.pose(task_of({"type": "denoise", "noise": noise | {"clipped": True}}), seen)
    plain = tasks.pose(task_of({"type": "denoise", "noise": noise | {"clipped": False}}), seen)
    truth, seen_mean = torch.from_numpy(dark)[None], torch.full((1, 1, 64, 64), float(seen.mean()))
    for problem, best, other in ((reckoning, truth, seen_mean), (plain, seen_mean, truth)):
        units = [problem.range.to_unit(x) for x in (best, other)]
        losses = [problem.data_term(problem.operator(x), problem.target) for x in units]
        assert float(losses[0]) < 0.95 * float(losses[1])


def test_what_photon_noise_leaves_is_the_picture_over_the_peak() -> None:
    counts = np.random.default_rng(0).poisson(0.3 * 20, 400_000) / 20
    assert float(PoissonVariance(torch.tensor(20.0))(torch.full((1, 1, 2, 2), 0.3))) == pytest.approx(
        np.var(counts), rel=0.01
    )


@pytest.mark.parametrize("sigma", [5.0, 15.0, 50.0])
def test_sigma_is_estimated_from_the_picture(sigma: float) -> None:
    noisy = 0.5 + np.random.default_rng(0).normal(scale=sigma / 255, size=(3, 96, 96))
    assert 255 * estimate_noise(noisy.clip(0, 1).astype(np.float32)).high == pytest.approx(sigma, rel=0.05)


@pytest.mark.parametrize("level", [0.1, 0.9])
def test_noise_that_was_cut_off_has_the_sigma_that_it_had_before(level: float) -> None:
    noisy = level + np.random.default_rng(0).normal(scale=40 / 255, size=(1, 128, 128))
    observed = noisy.clip(0, 1).astype(np.float32)
    assert observed.std() < 0.85 * 40 / 255
    assert 255 * estimate_noise(observed).high == pytest.approx(40, rel=0.1)


def test_a_picture_too_small_for_an_estimate_has_sigma_zero() -> None:
    assert estimate_noise(np.full((3, 1, 1), 0.5, np.float32)).high == 0


DAMAGES: list[dict[str, Any]] = [
    {"type": "gaussian", "sigma": 25.0},
    {"type": "poisson", "peak": 30.0},
    {"type": "salt-pepper", "amount": 0.2},
    {"type": "jpeg", "quality": 10},
    {"type": "missing", "fraction": 0.5},
    {"type": "scratches", "fraction": 0.15},
    {"type": "downsample", "scale": 4, "kernel": "lanczos2"},
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage["type"])
@pytest.mark.parametrize("channels", [1, 3])
def test_damage_is_seeded_and_in_range(damage: dict[str, Any], channels: int, picture: np.ndarray) -> None:
    first, again = (tasks.degrade(damage_of({"seed": 3, "crop": None, **damage}), picture[:channels]) for _ in range(2))
    assert np.array_equal(first.observed, again.observed)
    assert first.observed.dtype == np.float32
    assert first.observed.min() >= 0 and first.observed.max() <= 1
    assert first.observed.shape[0] == channels


@pytest.mark.parametrize(
    ("side", "kind", "fraction", "message"),
    [
        (1, "missing", 0.99, "none is left known"),
        (1, "missing", 0.01, "all is left known"),
        (2, "scratches", 0.5, "none is left known"),
    ],
)
def test_damage_that_leaves_nothing_or_everything_is_refused(
    side: int, kind: str, fraction: float, message: str, picture: np.ndarray
) -> None:
    with pytest.raises(ItemError, match=rf"degrade\.fraction is {fraction}, and of {side}×{side} pixels {message}"):
        tasks.degrade(damage_of({"type": kind, "seed": 0, "crop": side, "fraction": fraction}), picture)


def test_noise_that_is_not_clipped_is_drawn_alike_and_leads_beyond_black_and_white(picture: np.ndarray) -> None:
    damage = damage_of({"type": "gaussian", "sigma": 50.0, "seed": 3})
    cut, whole = (tasks.degrade(damage, picture, clipped=clipped).observed for clipped in (True, False))
    assert whole.dtype == np.float32 and whole.min() < -0.1 and whole.max() > 1.1
    assert np.array_equal(whole.clip(0, 1), cut)
    assert np.std(255 * (whole - picture)) == pytest.approx(50, rel=0.05)


def test_another_seed_damages_otherwise(picture: np.ndarray) -> None:
    one, two = (tasks.degrade(damage_of({"seed": s, "crop": None, **DAMAGES[0]}), picture).observed for s in (1, 2))
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("kind", ["missing", "scratches"])
def test_the_lost_fraction_is_about_what_was_asked(kind: str, picture: np.ndarray) -> None:
    known = tasks.degrade(damage_of({"type": kind, "seed": 0, "crop": None, "fraction": 0.3}), picture).known
    assert known is not None
    assert 1 - known.mean() == pytest.approx(0.3, abs=0.12)


def test_what_the_scale_does_not_divide_is_cut_from_all_sides(picture: np.ndarray) -> None:
    damage = {"seed": 0, "crop": None, "type": "downsample", "scale": 5, "kernel": "lanczos3"}
    damaged = tasks.degrade(damage_of(damage), picture[:, :23])
    assert np.array_equal(damaged.clean, picture[:, 1:21, 1:31])
    assert damaged.observed.shape == (3, 4, 6)


def test_a_crop_larger_than_the_image_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ItemError, match=r"degrade\.crop is 64, but the image has only 32×32"):
        tasks.degrade(damage_of({"seed": 0, "crop": 64, **DAMAGES[0]}), picture)
