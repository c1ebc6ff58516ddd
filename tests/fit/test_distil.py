"""The short distillation behind a fit: nearer to the kept picture, the same bits again, the fit's own weights left."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of

import dipfast
from dipfast import generators, tasks
from dipfast.fit import FitResult, derive_seed, finish, fit
from dipfast.fit.distil import Distilled, _gauss_newton, _shortened, _solve_head, distil_steps, distilling
from dipfast.fit.loop import Cancelled
from dipfast.fit.optimizer import FlatParameters
from dipfast.fit.result import averaged_generator
from dipfast.settings.fit import Muon

TINY = {"channels": [8, 8], "input": {"type": "noise", "depth": 4}}


@pytest.fixture(scope="module")
def fitted() -> tuple[FitResult, torch.Tensor]:
    """A fit of 60 steps of a noisy ramp, and its latent."""
    rng = np.random.default_rng(0)
    ramp = np.broadcast_to(np.linspace(0, 1, 32, dtype=np.float32), (3, 32, 32))
    noisy = (ramp + rng.normal(scale=0.1, size=ramp.shape)).clip(0, 1).astype(np.float32)
    problem = tasks.pose(task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}), noisy)
    config, plan = generator_config(), fit_plan(steps=60)
    latent = generators.make_latent(config.input, 32, 32, derive_seed(plan.seed, "latent"), problem.guide)
    return fit(problem, config, plan), latent


def distilled(fitted: tuple[FitResult, torch.Tensor], steps: int) -> Distilled:
    result, latent = fitted
    module = averaged_generator(result, generator_config(), fit_plan())
    return finish(distilling(module, latent, result.picture, steps, torch.float32))


def parity(module: torch.nn.Module, fitted: tuple[FitResult, torch.Tensor]) -> float:
    result, latent = fitted
    with torch.no_grad():
        return -10 * math.log10(float((module(latent) - result.picture).square().mean()))


def test_a_few_steps_bring_the_weights_to_the_kept_picture(fitted: tuple[FitResult, torch.Tensor]) -> None:
    before, none, some = parity(fitted[0].generator, fitted), distilled(fitted, 0), distilled(fitted, 20)
    assert none.parity_db >= before - 1e-4
    assert some.parity_db > none.parity_db + 2 > before + 4
    assert parity(some.generator, fitted) == pytest.approx(some.parity_db, abs=1e-3)


def test_gradients_in_fp16_are_those_of_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    config = generator_config()
    latent = generators.make_latent(config.input, 128, 128, 1, torch.empty(0))
    module = generators.build(config, 3, 0)
    with torch.no_grad():
        picture = module(latent) + 0.003 * torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    grads: list[torch.Tensor] = []
    monkeypatch.setattr("dipfast.fit.distil.optimizer_step", lambda _, p, *rest, **how: grads.append(p.grads.clone()))
    for dtype in (torch.float32, torch.float16):
        finish(distilling(generators.twin(module), latent, picture, 1, dtype))
    exact, low = grads
    assert float((low - exact).norm() / exact.norm()) < 0.3


def test_steps_that_lead_away_shrink_those_that_follow(
    fitted: tuple[FitResult, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []

    def astray(config: Muon, parameters: FlatParameters, *_: object, **how: object) -> None:
        rates.append(config.lr)
        noise = torch.randn(parameters.values.shape, generator=torch.Generator().manual_seed(0))
        parameters.values.mul_(1 + 0.1 * noise)

    monkeypatch.setattr("dipfast.fit.distil.optimizer_step", astray)
    distilled(fitted, 4)
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 0.75 * 0.7, 0.5 * 0.7**2, 0.25 * 0.7**3])


def test_the_same_arguments_give_the_same_bits_and_leave_the_fit_alone(
    fitted: tuple[FitResult, torch.Tensor],
) -> None:
    before = {name: value.clone() for name, value in fitted[0].generator.state_dict().items()}
    one, two = (distilled(fitted, 5).generator.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    after = fitted[0].generator.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_it_can_be_cancelled(fitted: tuple[FitResult, torch.Tensor]) -> None:
    result, latent = fitted
    module = averaged_generator(result, generator_config(), fit_plan())
    with pytest.raises(Cancelled):
        finish(distilling(module, latent, result.picture, 5, torch.float32, lambda: True))


def test_a_restored_generator_renders_the_kept_picture_and_says_how_near(picture: np.ndarray) -> None:
    result = dipfast.restore(picture.transpose(1, 2, 0), **SEVERAL | {"seeds": 1})
    found = result.record["generator"]
    error = float(np.mean((result.generator.render("fp32") - result.image) ** 2))
    assert -10 * math.log10(error) == pytest.approx(found["parity_db"], abs=0.01)
    assert found["distil_steps"] > 0 and result.record["seconds"]["distil"] > 0


def test_the_head_is_solved_for(fitted: tuple[FitResult, torch.Tensor]) -> None:
    result, latent = fitted
    module = distilled(fitted, 0).generator
    assert isinstance(module, generators.SkipNet)
    solved = parity(module, fitted)
    module.head.weight.detach().mul_(0.9)
    module.head.bias.detach().add_(0.05)
    spoiled = parity(module, fitted)
    error = _solve_head(module, latent, result.picture)
    assert parity(module, fitted) > spoiled + 3
    assert parity(module, fitted) == pytest.approx(solved, abs=0.5)
    assert parity(module, fitted) == pytest.approx(-10 * math.log10(error), abs=1e-3)
    with torch.no_grad():
        exact = module(latent)
    own = {name: value.clone() for name, value in module.head.state_dict().items()}
    _solve_head(module, latent, exact)  # nothing is nearer than equal
    assert all(torch.allclose(own[name], value, atol=1e-5) for name, value in module.head.state_dict().items())


@pytest.mark.parametrize("value", [-200.0, 200.0, math.nan])
def test_a_head_with_nothing_to_solve_for_stays_as_it_was(value: float) -> None:
    config = generator_config()
    module = generators.build(config, 3, seed=0)
    latent = generators.make_latent(config.input, 32, 32, 1, torch.empty(0))
    module.head.bias.detach().fill_(value)
    weight = module.head.weight.detach().clone()
    _solve_head(module, latent, torch.rand(1, 3, 32, 32))
    assert torch.equal(module.head.weight.detach(), weight)


SEVERAL: Any = {"sigma": 10, "generator": TINY, "steps": 40, "seeds": 3, "average": 0.9, "stop": {"type": "fixed"}}
SEVERAL |= {"precision": "fp32", "device": "cpu", "refine": None, "windows": None}


def test_several_seeds_in_one_generator_are_nearer_than_one_for_the_same_steps(picture: np.ndarray) -> None:
    image = picture.transpose(1, 2, 0)
    whole, single = dipfast.restore(image, **SEVERAL), dipfast.restore(image, store="one", **SEVERAL)
    assert np.array_equal(whole.image, single.image) and whole.record["id"] != single.record["id"]
    assert whole.record["generator"]["trunks"] == 3 and "trunks" not in single.record["generator"]
    assert whole.record["generator"]["distil_steps"] == 2 and single.record["generator"]["distil_steps"] == 6
    assert whole.record["generator"]["parity_db"] > single.record["generator"]["parity_db"] + 2
    error = float(np.mean((whole.generator.render("fp32") - whole.image) ** 2))
    assert -10 * math.log10(error) == pytest.approx(whole.record["generator"]["parity_db"], abs=0.01)
    assert len(whole.generator.card.latent_seed) == 3 and whole.generator.latent.shape[1] == 12  # type: ignore[arg-type]
    assert single.generator.card.latent_seed == derive_seed(0, "latent")


def test_a_picture_as_latent_is_shared_by_all_trunks(picture: np.ndarray) -> None:
    net = TINY | {"input": {"type": "image"}}
    found = dipfast.restore(picture.transpose(1, 2, 0), **SEVERAL | {"generator": net, "steps": 20}).generator
    assert found.latent.shape == (1, 3, 32, 32) and len(found.module.others) == 2
    again = generators.from_bytes(generators.to_bytes(found.module, found.latent, found.card))
    assert np.array_equal(again[0](again[1]).detach().numpy()[0], found.output("fp32"))


def test_joined_generators_begin_at_the_mean_of_their_heads() -> None:
    config = generator_config()
    modules = [generators.build(config, 3, seed) for seed in range(3)]
    latents = [torch.rand(1, 8, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
    with torch.no_grad():
        mean = torch.stack([module(z).logit() for module, z in zip(modules, latents, strict=True)]).mean(0).sigmoid()
        assert torch.allclose(generators.joined(modules, config)(torch.cat(latents, dim=1)), mean, atol=1e-6)


def test_what_is_stored_of_one_seed_takes_its_steps_alone(fitted: tuple[FitResult, torch.Tensor]) -> None:
    plans = [fit_plan(seeds=seeds, store=store) for seeds in (1, 4) for store in ("all", "one")]
    assert [distil_steps(fitted[0], plan) for plan in plans] == [3, 3, 3, 12]


def test_joined_generators_recompute_as_the_fit_did(fitted: tuple[FitResult, torch.Tensor]) -> None:
    config = generator_config()
    several = replace(fitted[0], members=(generators.build(config, 3, 1),))
    for recompute in (False, True):
        ran = replace(several, machine=replace(several.machine, recompute=recompute))
        module = averaged_generator(ran, config, fit_plan(seeds=2))
        assert {scale.recompute for trunk in (module, *module.others) for scale in trunk.scales} == {recompute}


def test_a_channel_that_a_step_of_a_joint_head_overshoots_takes_less_of_it() -> None:
    rng = torch.Generator().manual_seed(0)
    features, target = torch.randn(8, 256, generator=rng), torch.rand(3, 256, generator=rng)
    head = torch.nn.Conv2d(8, 3, 1)
    with torch.no_grad():
        change = _gauss_newton(features, head, target, True)
        way = torch.tensor([1.0, 2.0, -1.0])[:, None]  # as far as it should, twice as far, and astray
        taken = torch.tensor([1.0, 0.5, 0.0])[:, None]
        assert torch.equal(_shortened(way * change, features, head, target, True), taken * way * change)
