"""Which fused kernels this process runs: none unless asked for, and never another thing than what was asked for.

No GPU has measured a fused kernel yet, so that none is a default anywhere.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable

import torch
from torch import Tensor

FUSED = ("adam", "head", "norm_pad", "upsample_concat")
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
LARGEST = 2**31 - 1  # elements of one tensor: offsets are 32-bit

_chosen: frozenset[str] = frozenset()


def choose_fused(names: Iterable[str], device: torch.device) -> None:
    """Have this process run the fused kernels ``names`` (of `FUSED`), and no other, on ``device``.

    Raises RuntimeError for a name that is none, and where a fused kernel cannot run.
    """
    global _chosen
    chosen = frozenset(names)
    unknown = sorted(chosen - set(FUSED))
    if unknown:
        raise RuntimeError(f"fused kernels should be of {', '.join(FUSED)}, got {', '.join(unknown)}")
    if chosen and importlib.util.find_spec("triton") is None:
        raise RuntimeError(f"fused kernels ({', '.join(sorted(chosen))}) need triton, which is not installed")
    if chosen and device.type != "cuda" and not interpreted():
        raise RuntimeError(f"fused kernels ({', '.join(sorted(chosen))}) need a CUDA device, the device is {device}")
    _chosen = chosen


def fused() -> frozenset[str]:
    """The fused kernels that this process runs; what a record names."""
    return _chosen


def interpreted() -> bool:
    """Whether Triton's interpreter runs kernels on tensors of the CPU, which is how they are tested without a GPU."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def on_triton(x: Tensor) -> bool:
    """Whether an operation of a fused kernel's contract runs the kernel on ``x``, or the plain twin, as on a CPU."""
    return x.is_cuda or interpreted()


def require(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse a tensor that a kernel would read wrongly. Raises RuntimeError with argument, rule and value."""
    if x.dtype not in dtypes:
        raise RuntimeError(f"{name} should be {' or '.join(str(d) for d in dtypes)}, is {x.dtype}")
    if not 0 < x.numel() <= LARGEST:
        raise RuntimeError(f"{name} should have 1 to {LARGEST} elements, has {x.numel()}")


def require_shape(name: str, x: Tensor, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]) -> None:
    """Refuse a tensor that has another shape than ``shape``, or none of ``dtypes``."""
    require(name, x, dtypes)
    if tuple(x.shape) != shape:
        raise RuntimeError(f"{name} should have shape {list(shape)}, has {list(x.shape)}")
