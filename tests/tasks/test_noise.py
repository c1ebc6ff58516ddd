"""Noise is estimated with its correlation, hidden from the network as far as it is correlated, and never learnt."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import damage_of, fit_plan, generator_config, latent_of, task_of

from dipfast import tasks
from dipfast.fit import ProgramCache, choose_machine, fit
from dipfast.fit.blind import JUDGED, BlindMask, blind_mask, hide
from dipfast.image import Limits, read
from dipfast.manifest.layers import Layer, resolve
from dipfast.metrics import psnr
from dipfast.samples import locate
from dipfast.tasks.noise import NoiseEstimate, estimate_noise
from dipfast.tasks.problem import WHITE_NOISE, NoiseCorrelation

UNKNOWN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}}
KNOWN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
BLURRED, SHARED = {"blur": 0.6}, {"shared": True}
AUTO = {"type": "image", "blind": 0.1, "reach": "auto"}
NAMES = ("sample:coffee", "sample:rocket", "sample:astronaut")


def spoiled(name: str, sigma: float = 25.0, side: int = 128, seed: int = 0, **noise: Any) -> tasks.Damaged:
    clean = read(locate(name), Limits()).pixels
    return tasks.degrade(damage_of({"type": "gaussian", "sigma": sigma, "seed": seed, "crop": side, **noise}), clean)


def noise_of(problem: tasks.Problem, latent: dict[str, Any], **changes: Any) -> Any:
    plan: dict[str, Any] = {"reg_noise_std": 0.0, "optimizer": {"type": "muon", "lr": 0.04}, "average": "auto"}
    plan["stop"] = {"type": "fixed"}
    return fit(problem, generator_config(input=latent), fit_plan(**(plan | changes)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sigma", [10.0, 25.0, 50.0])
@pytest.mark.parametrize(
    ("noise", "by"),
    [({}, WHITE_NOISE), (BLURRED, NoiseCorrelation(1)), (SHARED, NoiseCorrelation(0, across_channels=True))],
    ids=["white", "1", "gray"],
)
def test_noise_is_known_by_what_shares_it(name: str, sigma: float, noise: dict[str, Any], by: NoiseCorrelation) -> None:
    assert estimate_noise(spoiled(name, sigma, **noise).observed).correlation == by


def test_noise_spread_over_more_pixels_reaches_further() -> None:
    assert estimate_noise(spoiled("sample:astronaut", blur=1.0).observed).correlation.radius == 2


def test_of_noise_that_neighbours_share_the_finest_details_do_not_tell_the_strength() -> None:
    observed = spoiled("sample:coffee", **BLURRED).observed
    sigma = tasks.pose(task_of(UNKNOWN), observed).facts["sigma"]
    assert 15 < sigma < 25
    assert 255 * estimate_noise(observed).high < 0.75 * sigma


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 24, 24), (1, 64, 64)])
def test_a_picture_too_small_or_too_flat_says_nothing(shape: tuple[int, ...]) -> None:
    flat = np.full(shape, 0.5, np.float32)
    assert estimate_noise(flat) == NoiseEstimate()
    assert "noise_shared_by" not in tasks.pose(task_of(UNKNOWN), flat).facts


def test_a_given_level_that_the_finest_details_hold_is_white_whatever_else_they_hold() -> None:
    """A woven texture is weaker at the highest frequencies than at the middle ones."""
    y, x = np.mgrid[0:128, 0:128]
    woven = 0.5 + 0.1 * np.sin(1.2 * (x + y))
    noisy = (woven + np.random.default_rng(0).normal(scale=10 / 255, size=(1, 128, 128))).clip(0, 1).astype(np.float32)
    task = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 10.0}}
    given, guessed = (tasks.pose(task_of(one), noisy) for one in (task, UNKNOWN))
    assert guessed.noise_correlation.radius == 1
    assert given.noise_correlation == WHITE_NOISE and given.facts["noise_shared_by"] == "none"


def test_a_large_picture_is_looked_at_in_part() -> None:
    noise = np.random.default_rng(0).normal(scale=0.1, size=(1, 1536, 1536)).astype(np.float32)
    found = estimate_noise(0.5 + noise)
    assert found.correlation == WHITE_NOISE
    assert found.std == pytest.approx(0.1, rel=0.05)


def test_what_lies_within_reach_says_nothing() -> None:
    x, judged = torch.rand(1, 3, 24, 24), torch.zeros(1, 3, 24, 24, dtype=torch.bool)
    judged[0, 1, 12, 9] = judged[0, 2, 0, 23] = True
    hidden = BlindMask(0.1, 2, whole_pixels=False).cover(judged)
    assert int(hidden.sum()) == 25 + 9
    near = torch.where(hidden, 7.0, x)
    found = hide(x, hidden, 2)
    assert torch.equal(found, hide(near, hidden, 2))
    ring = x[0, 1, 9:16, 6:13].clone()
    ring[1:6, 1:6] = 0
    assert float(found[0, 1, 12, 9]) == pytest.approx(float(ring.sum()) / 24, rel=1e-5)
    assert torch.equal(found[~hidden], x[~hidden])


def test_as_much_is_hidden_whatever_the_reach_and_channels_that_share_go_together() -> None:
    uniform = torch.rand(1, 3, 200, 200, generator=torch.Generator().manual_seed(0))
    for reach, judged in ((0, 0.1), (1, JUDGED / 9), (2, JUDGED / 25)):
        mask = blind_mask(latent_of(AUTO), NoiseCorrelation(reach))
        assert mask == BlindMask(judged, reach, whole_pixels=False)
        found = mask.draw(uniform)
        assert float(found.float().mean()) == pytest.approx(judged, rel=0.1)
        assert not torch.equal(found[:, 0], found[:, 1])
    together = blind_mask(latent_of(AUTO), NoiseCorrelation(1, across_channels=True))
    assert together is not None
    found = together.draw(uniform)
    assert torch.equal(found[:, 0], found[:, 1]) and torch.equal(found[:, 0], found[:, 2])
    assert blind_mask(latent_of(AUTO | {"reach": 2}), NoiseCorrelation(1, across_channels=True)) == BlindMask(
        JUDGED / 25, 2, whole_pixels=False
    )
    assert blind_mask(latent_of(AUTO | {"blind": None}), NoiseCorrelation(1)) is None


@pytest.mark.parametrize(("noise", "steps"), [(BLURRED, 100), (SHARED, 60)], ids=["blurred", "shared"])
def test_noise_that_is_shared_is_not_learnt(noise: dict[str, Any], steps: int) -> None:
    damaged = spoiled("sample:rocket", side=64, **noise)
    problem = tasks.pose(task_of(UNKNOWN), damaged.observed)
    hidden, seen = (
        noise_of(problem, AUTO | {"reach": reach}, steps=steps).image[0].numpy() for reach in ("auto", None)
    )
    assert psnr(hidden, damaged.clean) > psnr(seen, damaged.clean) + 1


def test_pairs_are_made_of_white_noise_alone() -> None:
    recorrupted = AUTO | {"recorrupt": 0.7}
    for noise, same in ((BLURRED, True), (SHARED, True), ({}, False)):
        problem = tasks.pose(task_of(UNKNOWN), spoiled("sample:coffee", side=64, **noise).observed)
        with_pairs, without = (noise_of(problem, latent, steps=3).image for latent in (recorrupted, AUTO))
        assert torch.equal(with_pairs, without) == same
        asked, plain = (noise_of(problem, latent | {"reach": None}, steps=3).image for latent in (recorrupted, AUTO))
        assert not torch.equal(asked, plain)


def test_on_a_program_cache_that_had_other_noise_a_fit_has_the_bits_of_one_alone() -> None:
    white, blurred = (
        tasks.pose(task_of(KNOWN), spoiled("sample:coffee", side=64, **noise).observed) for noise in ({}, BLURRED)
    )
    config, bench = generator_config(input=AUTO), ProgramCache()
    plan = fit_plan(steps=6, reg_noise_std=0.0, optimizer={"type": "muon"})
    fit(white, config, plan, program_cache=bench)
    later, alone = fit(blurred, config, plan, program_cache=bench), fit(blurred, config, plan)
    assert torch.equal(later.image, alone.image)
    assert bench.programs == 2


def test_the_error_heard_is_that_of_one_value() -> None:
    """A criterion that compares the error with the noise must know how many values are judged."""
    problem = tasks.pose(task_of(KNOWN), spoiled("sample:coffee", side=64, blur=1.0).observed)
    plan = fit_plan(steps=40, reg_noise_std=0.0, stop={"type": "discrepancy"}, optimizer={"type": "muon"})
    state, step = ProgramCache().prepare(problem, generator_config(input=AUTO), plan, choose_machine(plan))
    for _ in range(40):
        step()
    errors = (state.output - problem.target).square().mean()
    assert 0.3 < float(state.stop.heard / errors) < 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("latent", "text"),
    [
        ({"type": "image", "reach": 1}, "generator.input.reach: should be null without generator.input.blind"),
        (AUTO | {"reach": 5}, "generator.input.reach: should be"),
    ],
)
def test_what_cannot_be_is_refused(latent: dict[str, Any], text: str) -> None:
    found = resolve(
        [
            Layer({"task": KNOWN, "generator": {"input": {"type": "noise"}}}, "below"),
            Layer({"generator": {"input": latent}}, "above"),
        ]
    )
    assert isinstance(found, list)
    assert any(problem.text.startswith(text) for problem in found), found


def test_presets_measure_unless_the_paper_says() -> None:
    for task in (UNKNOWN, KNOWN, {"type": "denoise", "noise": {"type": "poisson", "peak": 30.0}}):
        found = resolve([Layer({"task": task, "preset": "fast"}, "here")])
        assert not isinstance(found, list)
        assert found.generator.input.model_dump()["reach"] == "auto"


def test_damage_is_shared_as_asked_and_has_its_strength() -> None:
    gray = np.full((3, 64, 64), 0.5, np.float32)
    config = {"type": "gaussian", "sigma": 25.0, "seed": 0, "crop": None}
    plain, blurred, shared = (
        tasks.degrade(damage_of(config | more), gray).observed - gray for more in ({}, BLURRED, SHARED)
    )
    for noise in (plain, blurred, shared):
        assert noise.std() == pytest.approx(25 / 255, rel=0.03)
    beside = [float((x[..., 1:] * x[..., :-1]).mean() / x.var()) for x in (plain, blurred, shared)]
    assert abs(beside[0]) < 0.03 and beside[1] > 0.3 and abs(beside[2]) < 0.03
    assert (shared[0] == shared[1]).all() and abs(float((plain[0] * plain[1]).mean() / plain.var())) < 0.05


def framed(name: str, value: float, sigma: float = 20.0) -> np.ndarray:
    observed = spoiled(name, sigma).observed.copy()
    observed[:, :14], observed[:, -14:] = value, value
    return observed


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 114 / 255, 1.0])
def test_a_flat_frame_has_no_part_in_the_noise(name: str, value: float) -> None:
    observed = framed(name, value)
    assert tasks.pose(task_of(UNKNOWN), observed).facts["sigma"] == pytest.approx(20, rel=0.15)
    assert estimate_noise(observed).correlation == WHITE_NOISE


def test_a_round_field_or_a_blank_half_has_no_part_in_the_noise() -> None:
    observed = spoiled("sample:coffee", 20.0, side=160).observed
    y, x = np.mgrid[0:160, 0:160] - 79.5
    for blank in ((x**2 + y**2 > 70**2), x > 0):
        field = np.where(blank, np.float32(0), observed)
        assert tasks.pose(task_of(UNKNOWN), field).facts["sigma"] == pytest.approx(20, rel=0.15)


def test_pixels_that_do_not_count_are_not_measured() -> None:
    observed = spoiled("sample:coffee", 20.0).observed.copy()
    observed[:, :64] = observed[:, :64].mean()
    observed[:, :64] += np.linspace(0, 0.2, 64, dtype=np.float32)[:, None]  # as if it had been filled from its edge
    counts = np.ones((1, 128, 128), bool)
    counts[:, :64] = False
    assert 255 * estimate_noise(observed, counts).high == pytest.approx(20, rel=0.15)


@pytest.mark.parametrize("name", ["sample:cell", "sample:page", "sample:moon"])
def test_a_clean_picture_with_flat_parts_is_not_made_noisy_by_leaving_them_out(name: str) -> None:
    clean = read(locate(name), Limits()).pixels
    clean = np.ascontiguousarray(clean[:3])
    boxed = np.pad(clean, ((0, 0), (40, 40), (0, 0)), constant_values=0.5)
    assert estimate_noise(boxed).high <= estimate_noise(clean).high + 1 / 255
