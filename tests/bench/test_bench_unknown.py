"""The bench of pictures of whose noise nobody told."""

from __future__ import annotations

import pytest
from rich.console import Console

from dipfast.errors import UsageError
from unknown import bench_unknown, print_bench


def test_a_clean_picture_is_its_own_truth_and_loses_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    result = bench_unknown(["sample:brick"], 160, "fast", bm3d=False)
    (row,) = result["rows"]
    assert row["steps"] == 0 and row["applied"] == 0
    assert row["noisy"] is None and row["answer"] is None  # infinite
    assert row["true_sigma"] is None and row["coverage_90"] is None and row["bm3d"] is None
    print_bench(result, Console(width=160))
    assert "brick" in capsys.readouterr().out


def test_a_truth_of_another_size_is_refused() -> None:
    with pytest.raises(UsageError, match="the truth should be of the picture's size"):
        bench_unknown(["sample:brick=sample:coffee"], 64, "fast", bm3d=False)
