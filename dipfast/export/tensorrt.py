"""TensorRT, where it is installed."""

from __future__ import annotations

from typing import Any

from dipfast.errors import MachineError

INSTALL = "pip install 'dipfast[tensorrt]' (version 11 or later, with an NVIDIA driver)"


def bindings() -> Any:
    """The module tensorrt. Raises MachineError with what to install."""
    try:
        import tensorrt
    except ImportError:
        raise MachineError(f"TensorRT is not installed: {INSTALL}") from None
    major = int(tensorrt.__version__.split(".")[0])
    if major < 11:
        raise MachineError(f"TensorRT {tensorrt.__version__} is installed, 11 is needed: {INSTALL}")
    return tensorrt
