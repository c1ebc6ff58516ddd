"""Places where a seed, or the answer, leaves its input by more than noise explains, do not reach the picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import settings_of, task_of

from dipfast import tasks
from dipfast.fit.flecks import mended
from dipfast.restoration.warnings import outside, warnings_of
from dipfast.tasks.problem import NoiseCorrelation

SIGMA = 10.0
GAUSSIAN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": SIGMA}}
POISSON: dict[str, Any] = {"type": "denoise", "noise": {"type": "poisson", "peak": 200.0}}
INPAINT: dict[str, Any] = {"type": "inpaint", "known": "white", "keep_known": True}


def truth() -> torch.Tensor:
    y, x = np.mgrid[0:64, 0:64] / 63
    return torch.from_numpy(np.stack((0.3 + 0.4 * x, 0.2 + 0.5 * y, 0.5 + 0.2 * x * y)).astype(np.float32))[None]


def problem_of(task: dict[str, Any]) -> tasks.Problem:
    rng, clean = np.random.default_rng(0), truth()[0].numpy()
    if task is POISSON:
        observed = rng.poisson(clean * 200) / 200
    else:
        observed = clean + SIGMA / 255 * rng.standard_normal(clean.shape)
    return tasks.pose(task_of(task), observed.clip(0, 1).astype(np.float32))


def flecked() -> torch.Tensor:
    picture = truth()
    picture[..., 30:32, 20:26] = 0
    return picture


@pytest.mark.parametrize("task", [GAUSSIAN, POISSON])
def test_a_seed_that_goes_to_black_does_not_count_there(task: dict[str, Any]) -> None:
    members = torch.cat([truth(), flecked(), truth()])
    answer, _ = mended(members.mean(0, keepdim=True), members, problem_of(task))
    assert float((answer - truth()).abs().max()) < 1e-6


@pytest.mark.parametrize("task", [GAUSSIAN, POISSON])
def test_a_fleck_of_all_seeds_is_filled_with_what_was_observed(task: dict[str, Any]) -> None:
    answer, count = mended(flecked(), None, problem_of(task))
    before, after = ((x - truth())[..., 30:32, 20:26].abs().mean() for x in (flecked(), answer))
    assert count >= 36 and float(after) < 0.35 * float(before)
    assert torch.equal(answer[..., :24, :], truth()[..., :24, :])


def test_a_good_answer_is_left_to_the_bit() -> None:
    members = torch.cat([truth(), truth() + 0.003])
    mean = members.mean(0, keepdim=True)
    answer, count = mended(mean, members, problem_of(GAUSSIAN))
    assert count == 0 and torch.equal(answer, mean)


def test_where_noise_is_other_than_told_nothing_is_put_back() -> None:
    told = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 1.0}}
    rng = np.random.default_rng(0)
    noisy = (truth()[0].numpy() + 0.1 * rng.standard_normal((3, 64, 64))).clip(0, 1).astype(np.float32)
    answer, count = mended(truth(), None, tasks.pose(task_of(told), noisy))
    assert count == 0 and torch.equal(answer, truth())


def test_noise_that_neighbours_share_puts_nothing_back() -> None:
    from dataclasses import replace

    problem = replace(problem_of(GAUSSIAN), noise_correlation=NoiseCorrelation(1))
    answer, count = mended(flecked(), None, problem)
    assert count == 0 and torch.equal(answer, flecked())


def test_an_answer_inside_its_surroundings_is_not_remarked_on() -> None:
    problem = problem_of(GAUSSIAN)
    assert outside(truth()[0].numpy(), problem.target[0].numpy(), None, problem, task_of(GAUSSIAN)) is None


def test_white_squares_in_a_hole_are_remarked_on() -> None:
    observed = truth()[0].numpy() * 0.2
    known = np.ones((1, 64, 64), bool)
    known[:, 20:50, 20:50] = False
    problem = tasks.pose(task_of(INPAINT), observed * known, known)
    answer = observed.copy()
    assert outside(answer, observed * known, known, problem, task_of(INPAINT)) is None
    answer[:, 33:36, 30:34] = 1
    found = outside(answer, observed * known, known, problem, task_of(INPAINT))
    assert found is not None and found.count == 12 and 33 <= found.row < 36 and 30 <= found.column < 34
    facts = {"outside": found.count, "outside_by": found.most, "outside_row": found.row, "outside_column": found.column}
    (warning,) = warnings_of(settings_of({"generator": {"input": {"type": "noise"}}}), facts)
    assert warning.startswith("12 pixels of the answer lie outside the range of what is around them")


@pytest.mark.parametrize("scale", [2, 3])
def test_an_enlargement_is_held_against_the_small_picture(scale: int) -> None:
    task = {"type": "superres", "scale": scale, "kernel": "lanczos2"}
    small = truth()[0].numpy()
    large = small.repeat(scale, 1).repeat(scale, 2)
    assert outside(large, small, None, tasks.pose(task_of(task), small), task_of(task)) is None
    large[0, 40, 41] = 1.6
    found = outside(large, small, None, tasks.pose(task_of(task), small), task_of(task))
    assert found is not None and (found.count, found.row, found.column) == (1, 40, 41)
