"""Without a GPU, kernels run in Triton's interpreter on the CPU, which tests/conftest.py has selected.

It rounds to bfloat16 towards zero where a GPU rounds to nearest: its error in that precision is twice what is due.
"""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Return a device on which kernels run: a GPU, or the CPU with the interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        return torch.device("cuda")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    return torch.device("cpu")
