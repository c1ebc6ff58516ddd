"""The bench of whole runs, on three tiny pictures in this process."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from dipfast.bench.run import KINDS, PHASES, RATES, bench_run, print_bench
from dipfast.cli.app import main
from dipfast.errors import DipfastError

TINY = ("generator.channels=[8, 8]", "fit.precision=fp32", "fit.steps=2")


def test_every_variant_has_its_rates_its_phases_and_what_is_left_behind_coding() -> None:
    said: list[str] = []
    result = bench_run(3, 32, "fast", TINY, cohorts=(None, 2), rounds=2, say=said.append)
    assert len(said) == len(result["rows"]) == 2 * 2 * len(KINDS)
    order = [(row["kind"], row["cohort"]) for row in result["rows"]]
    assert order[: len(order) // 2] == order[len(order) // 2 :] == [(k, c) for k in KINDS for c in ("auto", 2)]
    assert [row["steps"] for row in result["rows"][:3:2]] == [2, 0]
    for variant in result["variants"]:
        assert all(variant[kind][name] > 0 for kind in KINDS for name in RATES)
        coding = result["decode"] + result["encode"]
        assert variant["overhead"][RATES[0]] == pytest.approx(variant["bare"][RATES[0]] - coding)
        assert set(variant["phases"]["whole"]) == set(PHASES)
        assert variant["programs"] == 1
    text = io.StringIO()
    print_bench(result, Console(file=text, width=200))
    assert "overhead" in text.getvalue() and "auto" in text.getvalue()


def test_a_fit_that_fails_ends_the_bench_with_its_reason() -> None:
    with pytest.raises(DipfastError, match=r"bench run: .*non-finite"):
        bench_run(2, 32, "fast", [*TINY, "fit.steps=101", "fit.optimizer={type: adam, lr: 3e38}"])


@pytest.mark.parametrize("cohort", ["0", "some", "-1", "1000"])
def test_a_cohort_that_is_none_is_wrong_usage(cohort: str, capsys: Any) -> None:
    assert main(["bench", "run", "--cohort", cohort]) == 2
    assert f"--cohort should be auto or a number from 1 to 999, is '{cohort}'" in capsys.readouterr().err
