"""Objectives: what the network is shown and how it is judged, what is refused, and buffers that keep their place."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import ProgramCache, choose_machine, program_cache
from dipfast.fit.objective import Losses
from dipfast.fit.step import FitState
from dipfast.tasks.problem import NoiseCorrelation

GAUSSIAN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
POISSON: dict[str, Any] = {"type": "denoise", "noise": {"type": "poisson", "peak": 30.0}}
IMAGE = {"type": "image", "blind": None, "recorrupt": None}
PAIRED = {"type": "image", "blind": 0.3, "recorrupt": 0.7, "reach": "auto"}


def problem_of(task: dict[str, Any]) -> tasks.Problem:
    return tasks.pose(task_of(task), np.random.default_rng(0).random((3, 32, 32)).astype(np.float32))


def state_of(problem: tasks.Problem, latent: dict[str, Any], **changes: Any) -> FitState:
    plan = fit_plan(**{"reg_noise_std": 0.0, "stop": {"type": "fixed"}} | changes)
    return ProgramCache().prepare(problem, generator_config(input=latent), plan, choose_machine(plan))[0]


def judged(state: FitState, output: torch.Tensor) -> Losses:
    shown, judge = state.member_step.objective(state.first)
    return judge(output, shown)


def test_a_network_that_sees_all_is_shown_the_latent_itself() -> None:
    state = state_of(problem_of(GAUSSIAN), IMAGE)
    shown, judge = state.member_step.objective(state.first)
    assert shown is state.first.latent
    output = torch.rand_like(state.output)
    prediction = state.problem.operator(output)
    assert judge(output, shown) == (state.problem.data_term(prediction, state.problem.target), None)


@pytest.mark.parametrize(
    "correlation",
    [NoiseCorrelation(), NoiseCorrelation(1), NoiseCorrelation(0, across_channels=True)],
    ids=["white", "neighbours", "channels"],
)
def test_pairs_are_judged_where_the_noise_is_white_and_blind_spots_always(correlation: NoiseCorrelation) -> None:
    state = state_of(replace(problem_of(GAUSSIAN), noise_correlation=correlation), PAIRED)
    losses = judged(state, torch.rand_like(state.output))
    assert losses.reported > 0
    assert (losses.extra is None) is (correlation != NoiseCorrelation())
    assert losses.total == losses.reported + (losses.extra or 0)


@pytest.mark.parametrize("latent", [{"type": "noise"}, IMAGE | {"blind": 0.3}], ids=["plain", "blind"])
def test_pixels_held_out_have_no_part_in_the_loss_of_any_objective(latent: dict[str, Any]) -> None:
    state = state_of(problem_of(GAUSSIAN), latent, stop={"type": "held-out", "share": 0.3})
    output = torch.rand_like(state.output).requires_grad_()
    judged(state, output).total.backward()
    held = state.stop.state_dict()["held"].expand_as(output)
    assert output.grad is not None
    assert held.any() and not output.grad[held].any() and output.grad[~held].any()


def test_what_a_task_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"generator\.input\.recorrupt needs a denoise task with gaussian noise"):
        state_of(problem_of(POISSON), PAIRED | {"reach": None})
    with pytest.raises(UsageError, match=r"generator\.input\.recompress needs task jpeg of some quality"):
        state_of(problem_of(GAUSSIAN), {"type": "image", "recompress": True})


@pytest.mark.parametrize(
    "changes",
    [
        {"seeds": 2, "stop": {"type": "ema-variance"}},
        {"optimizer": {"type": "sgld"}, "posterior": {"burn_in": 4, "every": 2}},
    ],
    ids=["members", "posterior"],
)
def test_buffers_stay_where_they_are_when_they_are_loaded_and_reset(changes: dict[str, Any]) -> None:
    state = state_of(problem_of(GAUSSIAN), {"type": "noise"}, **changes)
    places, begun = {name: id(tensor) for name, tensor in state.state_dict().items()}, state.snapshot()
    for tensor in state.state_dict().values():
        tensor.fill_(1)
    ones = state.snapshot()
    state.reset(fit_plan().seed)
    assert all(torch.equal(tensor, begun[name]) for name, tensor in state.state_dict().items())
    state.load_state_dict(ones)
    assert all(torch.equal(tensor, ones[name]) for name, tensor in state.state_dict().items())
    assert {name: id(tensor) for name, tensor in state.state_dict().items()} == places


def test_a_criterion_is_chosen_once_for_each_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[str] = []
    choose = program_cache.choose_stop
    monkeypatch.setattr(program_cache, "choose_stop", lambda *given: (chosen.append("once"), choose(*given))[1])
    state_of(problem_of(GAUSSIAN), {"type": "noise"}, stop={"type": "auto"})
    assert chosen == ["once"]
