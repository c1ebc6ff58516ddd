"""A short campaign of faults against a run: nothing is lost, torn, or other than undisturbed."""

from __future__ import annotations

from pathlib import Path

from chaos import campaign


def test_a_run_survives_a_few_faults(tmp_path: Path) -> None:
    found = campaign(tmp_path, items=4, faults=4, workers=1, seed=3, mount=False, steps=4, pauses=(0.2, 0.5))
    assert found["wrong"] == []
    assert found["faults"] >= 4
