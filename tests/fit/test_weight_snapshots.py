"""Weights kept along a fit: which steps, behind a rollback, from a saved fit, and what they render."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from conftest import fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.fit import fit
from dipfast.fit.statistics import WeightSnapshots


def walked(keep: int, steps: range) -> list[int]:
    snapshots = WeightSnapshots(keep)
    for step in steps:
        snapshots.add(step, torch.tensor([float(step)]))
    assert all(float(values[0]) == step for step, values in snapshots.found)
    return [step for step, _ in snapshots.found]


def test_they_are_spread_over_the_logarithm_of_the_step_wherever_the_fit_ends() -> None:
    for end in (100, 730, 3000):
        kept = walked(5, range(10, end + 1, 10))
        ratios = [b / a for a, b in pairwise(kept)]
        assert (kept[0], kept[-1], len(kept)) == (10, end, 5)
        assert max(ratios) <= 2.2 * (end / 10) ** 0.25


def test_few_are_the_newest_and_none_cost_nothing() -> None:
    assert [walked(keep, range(10, 101, 10)) for keep in (0, 1, 2)] == [[], [100], [10, 100]]


def test_a_rollback_takes_back_what_lies_behind_it() -> None:
    snapshots = WeightSnapshots(4)
    for step in (10, 20, 30, 20):
        snapshots.add(step, torch.tensor([float(step)]))
    assert [step for step, _ in snapshots.found] == [10, 20]
    other = WeightSnapshots(4)
    other.load_state_dict(snapshots.state_dict())
    assert [step for step, _ in other.found] == [10, 20]


def test_a_fit_keeps_its_way_and_changes_no_bit_of_its_result() -> None:
    noisy = np.random.default_rng(0).random((3, 32, 32), np.float32)
    problem = tasks.pose(task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}), noisy)
    plain = fit(problem, generator_config(), fit_plan(steps=40))
    result = fit(problem, generator_config(), fit_plan(steps=40, checkpoints=3))
    assert torch.equal(plain.image, result.image) and plain.snapshots == ()
    assert [step for step, _ in result.snapshots] == [10, 20, 40]
    weights = [torch.cat([p.detach().flatten() for p in net.parameters()]) for _, net in result.snapshots]
    assert not torch.equal(weights[0], weights[1])
    own = torch.cat([p.detach().flatten() for p in result.generator.parameters()])
    (last,) = fit(problem, generator_config(), fit_plan(steps=40, checkpoints=1, average=None)).snapshots
    assert torch.equal(torch.cat([p.detach().flatten() for p in last[1].parameters()]), own)
