"""The driver under a simulated clock: nothing is lost, and the work ends close to its lower bound."""

from __future__ import annotations

import pytest

from makespan import simulate


def test_without_failures_the_work_ends_close_to_its_bound() -> None:
    found = simulate(2000, 10, 12, seed=1, steady=True)
    assert 1 <= found["ratio"] < 1.04
    assert (found["lost"], found["quarantined"]) == (0, 0)
    assert found["captures"] < 12 + 5 * 10  # a bucket for each, and a few where others help at the end


def test_workers_that_die_cost_their_fit_and_an_item_that_kills_them_is_put_aside(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("makespan.POISON", 2e-3)
    monkeypatch.setattr("makespan.LIFE", 600.0)
    found = simulate(1000, 10, 5, seed=2, steady=False)
    assert found["quarantined"] > 0
    assert found["lost"] > 2 * found["quarantined"]  # three attempts each, and workers that died of nothing


def test_the_same_seed_gives_the_same_run() -> None:
    first, second = (simulate(300, 4, 5, seed=3, steady=False) for _ in range(2))
    del first["microseconds_an_item"], second["microseconds_an_item"]
    assert first == second
