"""Where Triton's kernels can run, and what is refused before one reads it wrongly."""

from __future__ import annotations

import importlib.util
import os

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 2**31 - 1  # elements of one tensor: offsets are 32-bit


def interpreted() -> bool:
    """Whether Triton's interpreter runs kernels on tensors of the CPU, which is how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def missing(device: torch.device) -> str | None:
    """What the kernels need and have not on ``device``; None where they run."""
    if importlib.util.find_spec("triton") is None:
        return "the package triton"
    if device.type != "cuda" and not interpreted():
        return f"a CUDA device, and the device is {device}"
    return None


def require_kernels(name: str, x: Tensor) -> None:
    """Raise RuntimeError where the kernel ``name`` cannot run on ``x``'s device. Nothing else runs in its place."""
    needed = missing(x.device)
    if needed is not None:
        raise RuntimeError(f"{name} needs {needed}")


def require(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise RuntimeError for a tensor of another dtype, of no elements, or of more than 32-bit offsets reach."""
    if x.dtype not in dtypes:
        raise RuntimeError(f"{name} should be {' or '.join(str(d) for d in dtypes)}, is {x.dtype}")
    if not 0 < x.numel() <= LARGEST:
        raise RuntimeError(f"{name} should have 1 to {LARGEST} elements, has {x.numel()}")


def require_shape(name: str, x: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise RuntimeError for a tensor of another shape than ``shape``, or of none of ``dtypes``."""
    require(name, x, dtypes)
    if tuple(x.shape) != shape:
        raise RuntimeError(f"{name} should have shape {list(shape)}, has {list(x.shape)}")
