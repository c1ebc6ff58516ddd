"""Where and how a step runs: the device, the engine and the precision that were asked for, or an error.

Nothing falls back in silence: what `auto` chose and what really ran stand in the record. This version has the eager
engine alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dipfast.errors import MachineError
from dipfast.fit.plan import FitPlan

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Machine:
    """What a fit runs on. ``dtype`` is that of the convolutions; statistics, loss and optimiser are float32."""

    device: torch.device
    engine: str
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def choose_machine(plan: FitPlan) -> Machine:
    """Resolve every `auto` of ``plan``. Raises MachineError for what this machine cannot do."""
    device = _device(plan.device)
    if plan.engine not in ("auto", "eager"):
        raise MachineError(f"fit.engine is {plan.engine}, but this version runs eager steps only")
    return Machine(device, "eager", _precision(plan.precision, device))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"fit.device is {name}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def _precision(name: str, device: torch.device) -> str:
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name == "fp16":
        raise MachineError("fit.precision is fp16, but this version fits in fp32, tf32 and bf16 only")
    if name == "tf32" and device.type != "cuda":
        raise MachineError(f"fit.precision is tf32, which {device.type} does not have; use fp32 or bf16")
    return name


def has_fast_bf16(device: torch.device) -> bool:
    """Whether ``device`` has instructions for bf16 products, rather than emulating them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
