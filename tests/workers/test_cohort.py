"""How many items a device fits side by side."""

from __future__ import annotations

import pytest
from conftest import fit_plan, generator_config

from dipfast.plan import Job, predicted_bytes
from dipfast.settings.document import Settings
from dipfast.workers.messages import MOST, cohort_size, held_at_most

GIB = 1 << 30


def job(side: int, seeds: int = 1, device: str = "auto") -> Job:
    settings = Settings(generator=generator_config(), fit=fit_plan(seeds=seeds, device=device))
    return Job("a", "a", "", ("a",), settings, padded=(3, side, side))


def test_a_cpu_fits_one_item_at_a_time_unless_more_are_asked_for() -> None:
    assert cohort_size(job(64), "cpu", None) == 1
    assert cohort_size(job(64), "cpu", None, asked=3) == 3
    assert cohort_size(job(64, device="cpu"), "cuda:0", 80 * GIB) == 1  # its settings ask for the CPU
    assert cohort_size(job(64), "cuda:0", None) == 1  # a device of which nothing is known


@pytest.mark.parametrize(("side", "seeds", "expected"), [(64, 1, MOST), (256, 1, 4), (256, 2, 2), (512, 1, 1)])
def test_small_pictures_go_side_by_side_on_a_gpu(side: int, seeds: int, expected: int) -> None:
    assert cohort_size(job(side, seeds), "cuda:0", 80 * GIB) == expected


def test_memory_bounds_a_cohort_and_leaves_at_least_one() -> None:
    need = predicted_bytes(job(128))
    assert cohort_size(job(128), "cuda:0", 4 * need) == 3
    assert cohort_size(job(128), "cuda:0", need // 2) == 1


def test_a_worker_holds_what_keeps_its_three_stages_busy() -> None:
    assert held_at_most(4) == 12
