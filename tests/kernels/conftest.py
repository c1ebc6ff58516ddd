"""Without a GPU, kernels run in Triton's interpreter on the CPU; it must be chosen before Triton is imported.

It rounds to bfloat16 towards zero where a GPU rounds to nearest: its error in that precision is twice what is due.
"""

from __future__ import annotations

import contextlib
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401  (its own functions are made for the interpreter as it is imported)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that kernels run on: a GPU, or the CPU by the interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
