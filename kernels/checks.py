"""Checks of where Triton's kernels can run, and of the tensors that they are given."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 2**31 - 1  # elements of a tensor, at most, because offsets have 32 bits


def interpreted() -> bool:
    """Return whether Triton interprets kernels, so that they can be tested on a CPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """Return in words what the kernels lack on ``device``; None where they run."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    if device.type != "cuda" and not interpreted():
        return f"a CUDA device, and the device is {device}"
    return None


def require_kernels(name: str, x: Tensor) -> None:
    """Raise RuntimeError where the kernel ``name`` cannot run on the device of ``x``; there is no fallback."""
    needed = missing(x.device)
    if needed is not None:
        raise RuntimeError(f"{name} needs {needed}")


def require(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise RuntimeError for a tensor of a dtype not in ``dtypes``, without elements, or of more than `LARGEST`."""
    if x.dtype not in dtypes:
        raise RuntimeError(f"{name} should be {' or '.join(str(d) for d in dtypes)}, is {x.dtype}")
    if not 0 < x.numel() <= LARGEST:
        raise RuntimeError(f"{name} should have 1 to {LARGEST} elements, has {x.numel()}")


def require_shape(name: str, x: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise RuntimeError for a tensor of another shape than ``shape``, or of a dtype not in ``dtypes``."""
    require(name, x, dtypes)
    if tuple(x.shape) != shape:
        raise RuntimeError(f"{name} should have shape {list(shape)}, has {list(x.shape)}")
