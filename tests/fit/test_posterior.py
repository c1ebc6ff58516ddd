"""SGLD: its noise, its stationary distribution, the posterior's moments on the device, and what is made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of
from PIL import Image as PillowImage
from torch import Tensor

import dipfast
from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import FitResult, ProgramCache, choose_machine, fit
from dipfast.fit.optimizer import FlatParameters, OptimizerState, likelihood_scale, optimizer_step, sgld_step
from dipfast.fit.statistics import Posterior
from dipfast.fit.watch import Watch
from dipfast.manifest import settings_from
from dipfast.metrics import calibration_scale, coverage, uncertainty_ece
from dipfast.record import uncertainty_of
from dipfast.report.evaluate import evaluate
from dipfast.settings import fit as sections
from dipfast.settings.fit import Adam, Fit, Sgld
from dipfast.store.folder import RunFolder

GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
RULES = ["paper", "preconditioned"]
NOTHING = {"burn_in": 0, "every": 1}


def sgld(**changes: Any) -> Sgld:
    return Sgld(**changes)


def chain(picture: np.ndarray, task: dict[str, Any] | None = None, **changes: Any) -> FitResult:
    settings = {"steps": 40, "optimizer": sgld(), "posterior": {"burn_in": 9, "every": 5}} | changes
    return fit(tasks.pose(task_of(task or GAUSSIAN), picture), generator_config(), fit_plan(**settings))


def one_step(config: Sgld, module: torch.nn.Module) -> tuple[FlatParameters, Tensor]:
    """The parameters behind one step of paper SGLD, and what the same step of Adam alone makes of the buffer."""
    twin = FlatParameters(type(module)(*module), torch.device("cpu"))
    flat = FlatParameters(module, torch.device("cpu"))
    twin.load(module)
    for each in (flat, twin):
        each.grads.copy_(torch.linspace(-1, 1, len(each.grads)))
    adam = Adam(lr=config.lr, weight_decay=config.weight_decay)
    optimizer_step(adam, twin, OptimizerState.zeros_like(twin.values), torch.float32)
    random = torch.Generator().manual_seed(0)
    sgld_step(config, flat, OptimizerState.zeros_like(flat.values), random, None, 0)
    return flat, twin.values


# ---- the chain ---------------------------------------------------------------------------------------------


def test_the_papers_noise_is_twice_the_rate_on_convolutions_and_nothing_elsewhere() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(32, 64, 3), torch.nn.BatchNorm2d(64), torch.nn.Conv2d(64, 3, 1))
    flat, adam = one_step(sgld(weight_decay=0.1), module)
    noise = flat.values - adam
    assert flat.kernels == sum(p.numel() for p in module.parameters() if p.dim() == 4)
    assert torch.equal(flat.values[flat.kernels :], adam[flat.kernels :])
    assert float(noise[: flat.kernels].std()) == pytest.approx(2 * 0.01, rel=0.03)
    assert abs(float(noise[: flat.kernels].mean())) < 5e-4


def test_all_convolutions_lie_before_all_else_in_the_buffer() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.Conv2d(16, 2, 1))
    flat = FlatParameters(module, torch.device("cpu"))
    flat.values.zero_()
    flat.values[: flat.kernels] = 1
    assert all(bool((p == (1 if p.dim() == 4 else 0)).all()) for p in module.parameters())


def test_without_noise_the_papers_rule_is_adam() -> None:
    flat, adam = one_step(sgld(noise=0.0), torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3)))
    assert torch.equal(flat.values, adam)


def test_a_preconditioned_chain_has_the_gaussians_own_variances() -> None:
    """Loss h theta^2 / 2 and a normal prior: the posterior's variance is 1 / (scale h + 1 / prior_std^2)."""
    curvatures, scale = torch.tensor([1.0, 4.0, 0.25]), torch.tensor(1e6)
    h = curvatures.repeat_interleave(500)
    flat = FlatParameters(torch.nn.Linear(len(h), 1, bias=False), torch.device("cpu"))
    state, random = OptimizerState.zeros_like(flat.values), torch.Generator().manual_seed(1)
    flat.values.normal_(0, 2e-3, generator=random)
    config = sgld(rule="preconditioned", lr=1e-5, prior_std=1e-3, decay=0.0)
    squares = torch.zeros_like(flat.values)
    for step in range(2500):
        flat.grads.copy_(h * flat.values)
        sgld_step(config, flat, state, random, scale, burn_in=500)
        squares += flat.values.square() * (step >= 1000) / 1500
    found = squares.view(3, -1).mean(dim=1)
    torch.testing.assert_close(found, 1 / (scale * curvatures + 1e6), rtol=0.06, atol=0)


def test_the_preconditioner_is_frozen_behind_the_burn_in_and_the_rate_decays() -> None:
    flat = FlatParameters(torch.nn.Linear(4, 1, bias=False), torch.device("cpu"))
    state, random = OptimizerState.zeros_like(flat.values), torch.Generator().manual_seed(0)
    config = sgld(rule="preconditioned", decay=1.0, decay_steps=1, prior_std=1e3)
    seen, moved = [], []
    for step in range(6):
        flat.values.zero_()
        flat.grads.fill_(step + 1.0)
        sgld_step(config, flat, state, random, torch.tensor(1e20), burn_in=2)
        seen.append(state.second.clone())
        moved.append(float(flat.values.abs().max()) / (step + 1))
    assert torch.equal(seen[2], seen[5]) and not torch.equal(seen[1], seen[2])
    assert moved[5] == pytest.approx(moved[3] * 4 / 6, rel=1e-3)


@pytest.mark.parametrize("rule", RULES)
def test_the_same_seed_gives_the_same_bits_and_another_seed_others(picture: np.ndarray, rule: str) -> None:
    first, again, other = (chain(picture, optimizer=sgld(rule=rule), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert first.deviation is not None and again.deviation is not None
    assert torch.equal(first.deviation, again.deviation)
    assert not torch.equal(first.image, other.image)


def test_a_loss_times_its_scale_is_a_negative_log_likelihood() -> None:
    y, x = np.full((1, 2, 3), 0.5, np.float32), torch.full((1, 1, 2, 3), 0.7)
    gaussian = tasks.pose(task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 51.0}}), y)
    scaled = likelihood_scale(sgld(rule="preconditioned"), gaussian) * gaussian.data_term(x, gaussian.target)
    assert float(scaled) == pytest.approx(6 * 0.2**2 / (2 * 0.2**2), rel=1e-5)
    stated = likelihood_scale(sgld(rule="preconditioned", sigma=25.5), gaussian)
    assert float(stated) == pytest.approx(3 / 0.1**2, rel=1e-5)
    poisson = tasks.pose(task_of({"type": "denoise", "noise": {"type": "poisson", "peak": 40.0}}), y)
    scaled = likelihood_scale(sgld(rule="preconditioned"), poisson) * poisson.data_term(x, poisson.target)
    rate, photons = torch.tensor(28.0), torch.tensor(20.0)
    law = torch.distributions.Poisson
    expected = 6 * (law(photons).log_prob(photons) - law(rate).log_prob(photons))
    assert float(scaled) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("task", "sigma", "message"),
    [
        ({"type": "jpeg"}, "auto", "knows no noise level"),
        ({"type": "denoise", "noise": {"type": "salt-pepper"}}, 9.0, "squared"),
    ],
)
def test_a_likelihood_that_nobody_knows_is_an_error(task: dict[str, Any], sigma: Any, message: str) -> None:
    problem = tasks.pose(task_of(task), np.zeros((1, 2, 2), np.float32))
    with pytest.raises(UsageError, match=message):
        likelihood_scale(sgld(rule="preconditioned", sigma=sigma), problem)


# ---- mean and variance -------------------------------------------------------------------------------------


def driven(outputs: np.ndarray, steps: int, **changes: Any) -> Posterior:
    posterior = Posterior(sections.Posterior(**NOTHING | changes), steps, torch.zeros(1, 1, 2, 2), torch.zeros(3))
    for step in range(steps):
        posterior.update(torch.tensor(step), torch.from_numpy(outputs[step])[None], torch.full((3,), float(step)))
    return posterior


def test_mean_and_deviation_are_those_of_the_stored_samples() -> None:
    outputs = np.random.default_rng(0).normal(0.5, 0.1, (60, 1, 2, 2)).astype(np.float32)
    posterior = driven(outputs, 60, burn_in=17, every=4)
    samples = outputs[20::4]
    assert int(posterior.count) == len(samples) == 10
    np.testing.assert_allclose(posterior.mean[0].numpy(), samples.mean(0), rtol=1e-5)
    deviation = posterior.deviation()
    assert deviation is not None
    np.testing.assert_allclose(deviation[0].numpy(), samples.std(0, ddof=1), rtol=1e-4)


def test_the_papers_burn_in_and_thinning_give_its_number_of_samples() -> None:
    taken = [step for step in range(20000) if step > 7000 and step % 50 == 0]
    assert (len(taken), taken[0], taken[-1]) == (259, 7050, 19950)
    posterior = Posterior(sections.Posterior(burn_in=7000), 20000, torch.zeros(1, 1, 1, 1), torch.zeros(1))
    for step in (0, 50, 6999, 7000, 7001, 7049, *taken, 19999):
        posterior.update(torch.tensor(step), torch.zeros(1, 1, 1, 1), torch.zeros(1))
    assert int(posterior.count) == 259


def test_until_the_first_sample_the_mean_is_the_last_output() -> None:
    outputs = np.random.default_rng(0).random((5, 1, 2, 2)).astype(np.float32)
    posterior = driven(outputs, 5, burn_in=10)
    np.testing.assert_array_equal(posterior.mean[0].numpy(), outputs[4])
    assert posterior.deviation() is None


def test_kept_weights_are_those_of_evenly_spread_samples() -> None:
    posterior = driven(np.zeros((100, 1, 2, 2), np.float32), 100, burn_in=19, every=10, keep=4)
    assert posterior.weights[:, 0].tolist() == [30, 50, 70, 90]


@pytest.mark.parametrize("rule", RULES)
def test_a_fit_keeps_samples_whose_weights_differ_and_leaves_its_own_alone(picture: np.ndarray, rule: str) -> None:
    result = chain(picture, optimizer=sgld(rule=rule), posterior={"burn_in": 9, "every": 5, "keep": 2})
    plain = chain(picture, optimizer=sgld(rule=rule))
    ours, theirs, kept = (
        [p.detach() for p in net.parameters()] for net in (result.generator, plain.generator, result.kept[0])
    )
    assert len(result.kept) == 2
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ours, kept, strict=True))


def test_the_answer_is_the_mean_and_the_record_says_of_how_many(picture: np.ndarray) -> None:
    result = chain(picture)
    assert (result.samples, result.steps) == (6, 40)
    assert "mean of 6 samples" in result.why
    assert not torch.equal(result.image, result.last)


def test_a_rollback_restores_count_mean_and_squares(picture: np.ndarray) -> None:
    plan = fit_plan(steps=40, optimizer=sgld(), posterior={"burn_in": 4, "every": 2})
    problem = tasks.pose(task_of(GAUSSIAN), picture)
    state, step = ProgramCache().prepare(problem, generator_config(), plan, choose_machine(plan))
    watch = Watch(plan, state)
    for _ in range(10):
        step()
    watch.look()
    assert state.posterior is not None
    before = {name: tensor.clone() for name, tensor in state.posterior.state_dict().items()}
    for _ in range(6):
        step()
    assert int(state.posterior.count) == int(before["count"]) + 3
    state.residual.fill_(torch.nan)
    watch.look()
    assert watch.rollbacks == 1
    assert int(before["count"]) == 2
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.posterior.state_dict().items())


def test_known_pixels_that_are_put_back_have_no_deviation(picture: np.ndarray) -> None:
    known = np.zeros((1, 32, 32), bool)
    known[:, :16] = True
    problem = tasks.pose(task_of({"type": "inpaint", "known": "white", "keep_known": True}), picture, known)
    plan = fit_plan(steps=40, optimizer=sgld(), posterior={"burn_in": 9, "every": 5})
    deviation = fit(problem, generator_config(), plan).deviation
    assert deviation is not None
    assert not deviation[:, :, :16].any()
    assert bool((deviation[:, :, 16:] > 0).all())


# ---- settings ----------------------------------------------------------------------------------------------


def test_sgld_brings_a_posterior_with_it_and_burns_in_for_a_share_of_the_steps() -> None:
    made = Fit.model_validate({"steps": 20000, "optimizer": {"type": "sgld"}})
    assert made.posterior is not None
    assert (made.posterior.burn_in, made.posterior.every) == (7000, 50)
    assert Fit().posterior is None
    assert Fit.model_validate(made.model_dump()) == made


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        ({"posterior": {"every": 5}}, "posterior should be null with optimizer adam"),
        ({"optimizer": {"type": "sgld"}, "posterior": None}, "posterior should be given with optimizer sgld"),
        ({"optimizer": {"type": "sgld"}, "stop": {"type": "ema-variance"}}, "stop should be fixed with optimizer sgld"),
        ({"optimizer": {"type": "sgld"}, "seeds": 2}, "seeds should be 1 with optimizer sgld"),
        ({"optimizer": {"type": "sgld"}, "posterior": {"burn_in": 9000}}, "posterior should have 2 samples or more"),
        ({"optimizer": {"type": "sgld"}, "posterior": {"keep": 60}}, "posterior should have 60 samples or more"),
        ({"optimizer": {"type": "sgld", "sigma": 9.0}}, "sigma does not belong to rule paper"),
        ({"optimizer": {"type": "sgld", "rule": "preconditioned", "noise": 1.0}}, "noise does not belong to rule"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fit: dict[str, Any], message: str) -> None:
    given = {"stop": "fixed"} | fit
    with pytest.raises(UsageError, match=message):
        settings_from("denoise", "paper", given)


@pytest.mark.parametrize(
    ("task", "sigma", "message"),
    [
        ({"type": "jpeg"}, "auto", "auto needs task denoise with gaussian or poisson noise"),
        ({"type": "denoise", "noise": {"type": "salt-pepper"}}, "auto", "auto needs task denoise"),
        ({"type": "denoise", "noise": {"type": "poisson", "peak": 9.0}}, 9.0, "should be auto for poisson noise"),
    ],
)
def test_a_likelihood_that_the_settings_leave_open_is_refused(task: dict[str, Any], sigma: Any, message: str) -> None:
    optimizer = {"type": "sgld", "rule": "preconditioned", "sigma": sigma}
    with pytest.raises(UsageError, match=message):
        settings_from(task, "paper", {"optimizer": optimizer})


# ---- files -------------------------------------------------------------------------------------------------


def test_restore_gives_a_deviation_in_the_images_form(picture: np.ndarray) -> None:
    options: dict[str, Any] = {
        "preset": "paper",
        "generator": {"channels": [8, 8], "skip_channels": 4, "input": {"type": "noise", "depth": 8}},
        "optimizer": "sgld",
        "posterior": {"every": 4},
        "steps": 30,
        "device": "cpu",
    }
    gray = dipfast.restore(picture[0, :20, :27], sigma=25, **options).uncertainty
    colour = dipfast.restore(np.moveaxis(picture, 0, 2)[:20, :27], sigma=25, **options).uncertainty
    assert gray is not None and colour is not None
    assert (gray.shape, colour.shape) == ((20, 27), (20, 27, 3))
    assert gray.dtype == np.float32 and float(gray.min()) > 0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Path]:
    """A run of three noisy crops with odd sides by a short chain, and the folder of its inputs."""
    folder = tmp_path_factory.mktemp("sampled")
    y, x = np.mgrid[0:21, 0:30] / 30
    for name, phase in (("a", 0.0), ("b", 1.0), ("c", 2.0)):
        picture = np.stack((0.5 + 0.4 * np.sin(6 * x + phase), y, 0.3 + 0.4 * x), axis=2)
        PillowImage.fromarray((255 * picture).astype(np.uint8)).save(folder / f"{name}.png")
    (folder / "m.yaml").write_text("""
version: 1
output: run
defaults:
  preset: paper
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}
  degrade: {type: gaussian, sigma: 25}
  generator: {channels: [8, 8], skip_channels: 4, bias: false, input: {type: noise, depth: 8}}
  fit: {steps: 60, device: cpu, optimizer: {type: sgld}, posterior: {burn_in: 20, every: 4, keep: 2}}
items: ["*.png"]
""")
    return RunFolder(Path(dipfast.run(folder / "m.yaml", devices="cpu", workers=1).folder.root)), folder


def test_a_run_writes_16_bit_maps_of_the_images_size_and_the_samples_generators(run: tuple[RunFolder, Path]) -> None:
    folder, _ = run
    for record in folder.all_records():
        (output,) = record["output"]["paths"]
        assert record["samples"] == 9
        assert record["output"]["uncertainty"]["path"] == uncertainty_of(output)
        data = (folder.root / uncertainty_of(output)).read_bytes()
        width, height, depth = int.from_bytes(data[16:20]), int.from_bytes(data[20:24]), data[24]
        assert (width, height, depth) == (30, 21, 16)
        assert len(record["generator"]["samples"]) == 2
        sample = dipfast.load(folder.root / record["generator"]["samples"][0]["path"])
        assert sample.render().shape[:2] == (21, 30)
        assert 0 < record["metrics"]["coverage_90"] <= 1
        assert record["metrics"]["uncertainty_ece"] > 0


def test_a_map_that_was_changed_or_lost_is_not_done(run: tuple[RunFolder, Path]) -> None:
    folder, _ = run
    record = folder.all_records()[0]
    path = folder.root / record["output"]["uncertainty"]["path"]
    data = path.read_bytes()
    assert folder.holds(record)
    path.write_bytes(data[:-1])
    assert not folder.holds(record)
    path.write_bytes(data)


def test_evaluate_scales_each_image_by_the_others(run: tuple[RunFolder, Path]) -> None:
    scores = evaluate(*run)
    items = scores["items"]
    assert len(items) == 3
    assert json.dumps(scores)
    for item in items:
        assert 0 < item["coverage_90"] < 1
        assert (item["scale"] > 1) == (item["coverage_90_scaled"] > item["coverage_90"])
    assert len({item["scale"] for item in items}) == 3
    assert scores["coverage_90"] == pytest.approx(np.mean([item["coverage_90"] for item in items]))


# ---- calibration -------------------------------------------------------------------------------------------


def calibrated(factor: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors drawn from N(0, deviation^2), and a deviation that is wrong by ``factor``."""
    random = np.random.default_rng(0)
    deviation = random.uniform(0.01, 0.05, (3, 100, 100))
    truth = np.full(deviation.shape, 0.5)
    return truth + random.normal(0, deviation), factor * deviation, truth


def test_a_perfectly_calibrated_deviation_covers_90_percent_and_has_no_calibration_error() -> None:
    assert coverage(*calibrated(1)) == pytest.approx(0.9, abs=0.006)
    error = uncertainty_ece(*calibrated(1))
    assert error is not None and error < 0.001


def test_a_deviation_that_is_half_too_small_is_found_out_and_scaled_back() -> None:
    image, deviation, truth = calibrated(0.5)
    scale = calibration_scale(image, deviation, truth)
    assert scale == pytest.approx(2, rel=0.02)
    assert coverage(image, deviation, truth) == pytest.approx(0.589, abs=0.01)
    assert uncertainty_ece(image, deviation, truth) == pytest.approx(0.5 * 0.03, rel=0.1)
    assert coverage(image, 2 * deviation, truth) == pytest.approx(0.9, abs=0.006)


def test_pixels_without_a_deviation_do_not_count() -> None:
    image, deviation, truth = calibrated(1)
    deviation[:, :50] = 0
    image[:, :50] = 1
    assert coverage(image, deviation, truth) == pytest.approx(0.9, abs=0.01)
    for measure in (coverage, uncertainty_ece, calibration_scale):
        assert measure(image, np.zeros_like(deviation), truth) is None
