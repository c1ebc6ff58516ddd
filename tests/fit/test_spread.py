"""The deviation that the spread of several seeds foretells: what it is, when it is kept, what is made of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of

import dipfast
from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import ProgramCache, choose_machine, fit
from dipfast.fit.statistics import SHARED, Spread
from dipfast.fit.watch import Watch
from dipfast.manifest import settings_from
from dipfast.metrics import calibration_scale, coverage

GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}


@pytest.mark.parametrize("members", [2, 4])
def test_members_with_an_error_in_common_foretell_the_error_of_their_mean(members: int) -> None:
    rng = torch.Generator().manual_seed(0)
    truth = torch.full((1, 3, 64, 64), 0.5)
    amount = torch.linspace(0.005, 0.05, 64).view(1, 1, 64, 1)  # the error grows downwards
    common = SHARED**0.5 * amount * torch.randn(truth.shape, generator=rng)
    pictures = [truth + common + amount * torch.randn(truth.shape, generator=rng) for _ in range(members)]
    spread = Spread(members, truth)
    spread.update(pictures, 1.0, torch.tensor(True))
    image, deviation = torch.stack(pictures).mean(0)[0].numpy(), spread.deviation()[0].numpy()
    assert calibration_scale(image, deviation, truth[0].numpy()) == pytest.approx(1, abs=0.05)
    assert coverage(image, deviation, truth[0].numpy()) == pytest.approx(0.9, abs=0.03)


def test_the_spread_is_that_of_the_step_that_is_returned() -> None:
    one, other = torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    spread = Spread(2, one)
    spread.update([one, other], 1.0, torch.tensor(True))
    kept = spread.deviation()
    spread.update([one, one], 1.0, torch.tensor(False))
    assert torch.equal(spread.deviation(), kept)
    torch.testing.assert_close(kept, torch.full_like(one, (0.5 * (SHARED + 0.5)) ** 0.5))


def test_the_mean_of_the_members_averages_is_the_picture_returned(picture: np.ndarray) -> None:
    problem = tasks.pose(task_of(GAUSSIAN), picture)
    plan = fit_plan(seeds=2, stop={"type": "fixed"}, average="auto")
    state, step = ProgramCache().prepare(problem, generator_config(), plan, choose_machine(plan))
    for _ in range(6):
        step()
    assert state.spread is not None
    torch.testing.assert_close(state.spread.kept.mean(0, keepdim=True), state.stop.best)


def test_a_rollback_restores_the_spread(picture: np.ndarray) -> None:
    problem = tasks.pose(task_of(GAUSSIAN), picture)
    plan = fit_plan(seeds=2)
    state, step = ProgramCache().prepare(problem, generator_config(), plan, choose_machine(plan))
    for _ in range(3):
        step()
    watch = Watch(plan, state)
    watch.look()
    assert state.spread is not None
    before = state.spread.averages.clone()
    step()
    state.residual.fill_(torch.nan)
    watch.look()
    assert torch.equal(state.spread.averages, before)


def test_several_seeds_have_a_deviation_unless_told_otherwise_and_one_has_none(picture: np.ndarray) -> None:
    problem = tasks.pose(task_of(GAUSSIAN), picture)
    with_it, without, alone = (
        fit(problem, generator_config(), fit_plan(steps=4, **changes))
        for changes in ({"seeds": 2}, {"seeds": 2, "uncertainty": False}, {})
    )
    assert with_it.deviation is not None and bool((with_it.deviation > 0).all())
    assert without.deviation is None and alone.deviation is None
    assert torch.equal(with_it.image, without.image)


def test_known_pixels_have_no_deviation(picture: np.ndarray) -> None:
    known = np.arange(32 * 32).reshape(1, 32, 32) % 2 == 0
    problem = tasks.pose(task_of({"type": "inpaint", "known": "white", "keep_known": True}), picture, known)
    deviation = fit(problem, generator_config(), fit_plan(steps=4, seeds=2)).deviation
    assert deviation is not None
    assert torch.equal(deviation[0] > 0, torch.from_numpy(~known).expand(3, 32, 32))


def test_a_deviation_of_one_seed_is_refused() -> None:
    with pytest.raises(
        UsageError, match="uncertainty: should be given with 2 seeds or more, or with refine; seeds is 1"
    ):
        settings_from("jpeg", "fast", {"uncertainty": True})


def test_a_deviation_of_one_seed_is_that_of_its_refinement() -> None:
    assert settings_from("denoise", "fast", {"uncertainty": True}).fit.uncertainty


def test_a_run_with_several_seeds_writes_a_map_beside_the_picture(inputs: Path, tmp_path: Path) -> None:
    text = """\
version: 1
defaults:
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}
  fit: {steps: 5, seeds: 2, precision: fp32}
  generator: {type: skip, channels: [8, 8], skip_channels: 4, input: {type: noise, depth: 8}}
items: ["a.png"]
"""
    (inputs / "m.yaml").write_text(text)
    dipfast.run(inputs / "m.yaml", output=tmp_path / "run")
    (found,) = (tmp_path / "run" / "uncertainty").rglob("*.png")
    assert found.name == "a.png"
