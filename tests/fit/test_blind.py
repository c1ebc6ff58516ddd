"""Blind spots: what is hidden is hidden, the same bits again, and a better picture than without."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.fit import FitResult, ProgramCache, choose_machine, fit
from dipfast.fit.blind import hide
from dipfast.fit.checkpoint import load_state_dict, state_dict
from dipfast.fit.objective import pair_losses, recorrupt
from dipfast.fit.watch import Watch
from dipfast.image import Limits, read
from dipfast.manifest.layers import Layer, resolve
from dipfast.metrics import psnr
from dipfast.samples import locate
from dipfast.tasks.problem import ClippedGaussian, mean_square

MUON = {"type": "muon"}
BLIND = {"input": {"type": "image", "blind": 0.2}}
GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}


@pytest.fixture
def noisy(picture: np.ndarray) -> tasks.Problem:
    drawn = np.random.default_rng(0).normal(scale=25 / 255, size=picture.shape)
    return tasks.pose(task_of(GAUSSIAN), (picture + drawn).clip(0, 1).astype(np.float32))


def fitted(
    problem: tasks.Problem, blind: float | None = 0.2, recorrupt: float | None = None, **changes: Any
) -> FitResult:
    settings = {"reg_noise_std": 0.0, "optimizer": MUON, "average": "auto", "stop": {"type": "fixed"}} | changes
    return fit(
        problem, generator_config(input={"type": "image", "blind": blind, "recorrupt": recorrupt}), fit_plan(**settings)
    )


def test_a_hidden_value_is_the_mean_of_its_neighbours_that_are_seen() -> None:
    x = torch.arange(16.0).view(1, 1, 4, 4)
    hidden = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    hidden[0, 0, 1, 1] = hidden[0, 0, 1, 2] = hidden[0, 0, 0, 0] = True
    found = hide(x, hidden)
    assert found[0, 0, 1, 1] == pytest.approx((1 + 2 + 4 + 8 + 9 + 10) / 6)
    assert found[0, 0, 0, 0] == pytest.approx((1 + 4) / 2)
    assert torch.equal(found[~hidden], x[~hidden])


def test_what_is_hidden_says_nothing_and_nothing_hidden_gives_nothing() -> None:
    x, hidden = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8) < 0.5
    assert torch.equal(hide(x, hidden), hide(torch.where(hidden, 9.0, x), hidden))
    assert not hide(x, torch.ones_like(hidden)).any()


def test_the_network_is_judged_where_it_is_blind(noisy: tasks.Problem) -> None:
    plan = fit_plan(reg_noise_std=0.0, optimizer=MUON)
    state, step = ProgramCache().prepare(noisy, generator_config(**BLIND), plan, choose_machine(plan))
    step()
    member = state.first
    hidden = member.noise.permute(0, 3, 1, 2) < 0.2
    errors = (member.output - noisy.target).square()
    assert 0.1 < hidden.float().mean() < 0.3
    torch.testing.assert_close(member.loss, (errors * hidden).mean())


def test_noise_drawn_anew_is_the_pictures_own_and_its_partner_owes_it_nothing(noisy: tasks.Problem) -> None:
    target = noisy.target
    hidden = torch.rand(target.shape, generator=torch.Generator().manual_seed(0)) < 0.5
    drawn = torch.randn(target.shape, generator=torch.Generator().manual_seed(1)) * 0.1
    shown, aim = recorrupt(hide(target, hidden), hidden, drawn, 0.5)
    seen = ~hidden
    torch.testing.assert_close((shown - target)[seen], 0.5 * drawn[seen])
    assert torch.equal(shown[hidden], hide(target, hidden)[hidden])
    torch.testing.assert_close((aim - target)[seen], -2 * drawn[seen])
    blind, more = pair_losses(replace(noisy, data_term=mean_square), aim, hidden, hidden, aim)
    assert more == 0 and blind > 0


def test_noise_that_was_cut_off_is_less() -> None:
    x = torch.tensor([0.0, 0.5, 1.0]).view(1, 1, 1, 3)
    drawn = (x + 0.1 * torch.randn(200_000, 1, 1, 3, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    found = ClippedGaussian(torch.tensor(0.1)).deviation(x)
    torch.testing.assert_close(found, drawn.std(0, keepdim=True), rtol=0.01, atol=0)
    assert ClippedGaussian(torch.tensor(0.1), about_mean=False).deviation(x) == torch.tensor(0.1)


def test_what_is_seen_teaches_too() -> None:
    clean = read(locate("sample:camera"), Limits()).pixels[:, 200:248, 200:248]
    drawn = np.random.default_rng(0).normal(scale=25 / 255, size=clean.shape)
    problem = tasks.pose(task_of(GAUSSIAN), (clean + drawn).clip(0, 1).astype(np.float32))
    plan = {"steps": 80, "optimizer": MUON | {"lr": 0.04}}
    blind, both = (fitted(problem, 0.1, strength, **plan).image[0].numpy() for strength in (None, 0.7))
    assert psnr(both, clean) > psnr(blind, clean) + 0.25


def test_it_is_better_than_the_same_network_that_sees_all(noisy: tasks.Problem, picture: np.ndarray) -> None:
    blind, seeing = (fitted(noisy, steps=150, blind=share).image[0].numpy() for share in (0.2, None))
    assert psnr(blind, picture) > psnr(seeing, picture) + 1


def test_the_same_seed_gives_the_same_bits_and_another_does_not(noisy: tasks.Problem) -> None:
    first, again, other = (fitted(noisy, steps=20, seed=seed).image for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("more", [{}, {"recorrupt": 0.7}, {"reach": 1}])
def test_a_fit_gone_on_with_has_the_bits_of_one_never_interrupted(noisy: tasks.Problem, more: dict[str, Any]) -> None:
    config = generator_config(input={**BLIND["input"], **more})
    plan = fit_plan(optimizer=MUON, seeds=2)
    machine = choose_machine(plan)

    def prepare() -> tuple[Any, Any]:
        return ProgramCache().prepare(noisy, config, plan, machine)

    state, step = prepare()
    for _ in range(4):
        step()
    saved = state_dict(state, Watch(plan, state), 1.0)
    later, go_on = prepare()
    load_state_dict(later, Watch(plan, later), saved)
    for move in (step, go_on):
        move()
    assert torch.equal(state.average, later.average)


@pytest.mark.parametrize(
    ("tree", "text"),
    [
        ({"task": {"type": "jpeg"}}, "generator.input.blind: should be null for task jpeg; it is for task denoise"),
        (
            {"generator": {"input": {"noise": {"depth": 8}}}},
            "generator.input.noise: should be null with generator.input.blind",
        ),
        ({"fit": {"stop": {"type": "sure"}}}, "fit.stop.type: sure needs a network that sees all"),
        (
            {"task": {"noise": {"type": "poisson", "peak": 30}}, "generator": {"input": {"recorrupt": 0.7}}},
            "generator.input.recorrupt: should be null for poisson noise",
        ),
        (
            {"generator": {"input": {"blind": None, "recorrupt": 0.7}}},
            "generator.input.recorrupt: should be null without generator.input.blind",
        ),
        ({"generator": {"input": {"blind": 1.0}}}, "generator.input.blind: should be below 1"),
    ],
)
def test_what_it_cannot_be_had_with_is_refused(tree: dict[str, Any], text: str) -> None:
    asked = {"task": GAUSSIAN, "generator": BLIND, "fit": {"stop": {"type": "fixed"}}}
    found = resolve([Layer(asked, "below"), Layer(tree, "above")])
    assert isinstance(found, list)
    assert any(problem.text.startswith(text) for problem in found), found


def test_another_latent_sees_all() -> None:
    asked = {"task": GAUSSIAN, "preset": "fast"}
    preset, other = (
        resolve([Layer(asked | more, "here")]) for more in ({}, {"generator": {"input": {"type": "noise"}}})
    )
    assert not isinstance(preset, list) and not isinstance(other, list)
    assert preset.generator.input.model_dump()["blind"] == 0.1
    assert "blind" not in other.generator.input.model_dump()
