"""Fixtures of all tests: one thread, tiny generators, plans with every field given."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from typing import Any

import numpy as np
import pytest

TINY = {"channels": (8, 8), "skip_channels": 4, "input": {"type": "noise", "depth": 8}}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth coloured picture with an edge, [3, 32, 32] float32 in [0, 1]."""
    y, x = np.mgrid[0:32, 0:32] / 31
    disc = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.08
    return np.stack((0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.2 + 0.6 * disc)).astype(np.float32)


def generator_config(**changes: Any) -> dict[str, Any]:
    """The manifest's `generator` section, tiny unless ``changes`` say otherwise, every default filled in."""
    from dipfast.manifest.schema import SkipGenerator

    return SkipGenerator.model_validate(TINY | changes).model_dump()


def fit_plan(**changes: Any) -> Any:
    """A plan of a short fit in float32 on the CPU; ``changes`` are keys of the manifest's `fit` section."""
    from dipfast.fit import FitPlan
    from dipfast.manifest.schema import Fit

    defaults = {"steps": 30, "precision": "fp32", "device": "cpu", "average": 0.9}
    return FitPlan(**Fit.model_validate(defaults | changes).model_dump())
