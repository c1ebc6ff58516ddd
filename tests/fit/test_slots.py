"""Fits side by side in slots: the bits that each has alone, whatever its neighbours do."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.fit import Course, FitLoop, FitResult, Hooks, ProgramCache, Slot, finish_all, fit, fitting
from dipfast.fit.distil import distilling
from dipfast.fit.result import averaged_generator
from dipfast.fit.slots import finish
from dipfast.fit.watch import LOOK_EVERY
from dipfast.settings.fit import Fit

GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
CPU = torch.device("cpu")
PLANS: list[dict[str, Any]] = [
    {"stop": {"type": "discrepancy"}, "optimizer": {"type": "muon", "lr": 0.02}, "average": "auto"},
    {"stop": {"type": "held-out"}, "seeds": 2},
    {"optimizer": {"type": "sgld"}, "posterior": {"burn_in": 4, "every": 2}, "stop": {"type": "fixed"}},
]


def items(picture: np.ndarray, count: int) -> list[tasks.Problem]:
    """As many pictures of one size, damaged and dimmed differently, that end after different numbers of steps."""
    rng = np.random.default_rng(0)
    noisy = [(picture * (i + 1) / count + rng.normal(scale=0.02 * i, size=picture.shape)) for i in range(count)]
    return [tasks.pose(task_of(GAUSSIAN), image.clip(0, 1).astype(np.float32)) for image in noisy]


def course(item: tasks.Problem, plan: Fit, program_cache: ProgramCache) -> Course[FitResult]:
    return fitting(item, generator_config(), plan, hooks=Hooks(program_cache=program_cache))


@pytest.mark.parametrize("changes", PLANS, ids=["discrepancy", "members", "posterior"])
def test_an_item_comes_out_of_a_cohort_as_it_does_alone(picture: np.ndarray, changes: dict[str, Any]) -> None:
    pictures = items(picture, 4)
    plans = [fit_plan(steps=23, seed=seed, **changes) for seed in range(4)]
    alone = [fit(item, generator_config(), plan) for item, plan in zip(pictures, plans, strict=True)]
    for slots in (1, 3):
        places: list[Slot[FitResult]] = [Slot(CPU) for _ in range(slots)]
        together = finish_all([partial(course, item, plan) for item, plan in zip(pictures, plans, strict=True)], places)
        for result, one in zip(together, alone, strict=True):
            assert torch.equal(result.image, one.image) and torch.equal(result.averaged, one.averaged)
            assert (result.losses, result.stop_curve, result.why) == (one.losses, one.stop_curve, one.why)
        assert [slot.program_cache.programs for slot in places] == [1] * slots


def test_all_slots_have_enqueued_steps_before_any_is_waited_for(
    picture: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, int]] = []
    advance, look = FitLoop.advance, FitLoop.look
    monkeypatch.setattr(
        FitLoop, "advance", lambda self: (told.append(("advance", self.settings.seed)), advance(self))[1]
    )
    monkeypatch.setattr(FitLoop, "look", lambda self: (told.append(("look", self.settings.seed)), look(self))[1])
    plans = [fit_plan(steps=2 * LOOK_EVERY, seed=seed) for seed in (0, 1)]
    finish_all([partial(course, items(picture, 1)[0], plan) for plan in plans], [Slot(CPU), Slot(CPU)])
    first = [("advance", 0), ("advance", 1), ("look", 0), ("advance", 0), ("look", 1), ("advance", 1)]
    assert told == [*first, ("look", 0), ("look", 1)]


def test_a_fit_that_fails_frees_its_slot_and_leaves_its_neighbour_alone(picture: np.ndarray) -> None:
    [item] = items(picture, 1)
    fixed: dict[str, Any] = {"stop": {"type": "fixed"}, "steps": 90}
    whole = fit_plan(**fixed)
    broken = fit_plan(**fixed, optimizer={"type": "adam", "lr": 3e38}, rollback_db=None)
    bad, good = Slot[FitResult](CPU), Slot[FitResult](CPU)
    bad.begin(course(item, broken, bad.program_cache))
    good.begin(course(item, whole, good.program_cache))
    found, failure = None, None
    while found is None:
        found = good.move()
        if bad.course is not None:
            try:
                bad.move()
            except ItemError as error:
                failure = error
    assert failure is not None and failure.kind == "non-finite"
    assert torch.equal(found.image, fit(item, generator_config(), whole).image)
    bad.begin(course(item, fit_plan(), bad.program_cache))
    assert bad.move() is None


def test_a_distillation_can_be_moved_step_by_step(picture: np.ndarray) -> None:
    [item] = items(picture, 1)
    result = fit(item, generator_config(), fit_plan())
    latent = tasks.pose(task_of(GAUSSIAN), picture).guide.new_ones(1, 8, 32, 32)
    two = (averaged_generator(result, generator_config(), fit_plan()) for _ in range(2))
    moves, other = (distilling(module, latent, result.picture, 3, torch.float32) for module in two)
    whole = finish(other)
    for _ in range(3):
        next(moves)
    stepwise = finish(moves)
    assert stepwise.parity_db == whole.parity_db
    pairs = zip(stepwise.generator.parameters(), whole.generator.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_a_slot_of_a_device_that_is_not_there_leaves_it_to_the_fit_to_say_so() -> None:
    assert Slot[FitResult](torch.device("cuda:99")).stream is None
