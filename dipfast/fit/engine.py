"""Where and how a step runs: device, precision, engine and kernels, as asked for, or an error.

There is no silent fallback: what `auto` chose and what really ran are in the record. `eager` runs the step as it is
written; `compile` compiles the generator's forward and backward pass; `cudagraph` captures the whole step, random
numbers and optimiser included, and replays it. `auto` is eager: `compile` has been run on a CPU only, where it takes
96 s of processor time for a shape of the presets' network and makes no step faster, and `cudagraph` not at all yet.

`triton` runs two operations, normalisation with activation and padding, and Muon's products, as the Triton kernels of
`dipfast.kernels`. They have not been measured on a GPU yet, so `auto` is `plain`, PyTorch's own operations.

The precision is that of convolutions and of what is between them. These are in float32 in any precision: weights,
gradients in the flat buffer, moments and update; statistics of the normalisations (their sums, and the scale of the
joined one); the head, the sigmoid, the loss and the residual; averages, samples and the statistics of the stop
criterion; the latent and its jitter; and, on a CPU, convolutions too small to gain. Only Muon's products have the
convolutions' precision. `bench/records/2026-11-24-precision-cpu` compares fp32, bf16, and bf16 for weights, moments,
statistics and head as well: in denoising there is no difference beyond that of seeds, so the list is a precaution for
fits that are long or whose data are exact.
"""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from dipfast import ops
from dipfast.errors import MachineError
from dipfast.settings.choices import FitPrecision, Precision
from dipfast.settings.fit import Fit, Kernels

DTYPES: dict[FitPrecision, torch.dtype] = {
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
WARM_UP = 3  # eager steps before a capture, in which cuDNN chooses its algorithms
MOST_PROGRAMS = 64  # shapes compiled in one process; one more is an error and not a silent eager step

Step = Callable[[], None]
RunningEngine = Literal["eager", "compile", "cudagraph"]
RunningKernels = Literal["plain", "triton"]


class State(Protocol):
    """What an engine uses of the buffers that a step changes."""

    @property
    def members(self) -> Sequence[Any]:
        """The members, each with `forward`, which an engine may replace, and `random`."""

    def reset(self, seed: int) -> None:
        """Set everything to what it is at the beginning of a fit with ``seed``."""


@dataclass(frozen=True)
class Machine:
    """Where and how a fit runs. ``dtype`` is that of the convolutions; statistics, loss and optimiser are float32."""

    device: torch.device
    engine: RunningEngine
    precision: FitPrecision
    kernels: RunningKernels = "plain"
    recompute: bool = False  # activations in the backward, instead of keeping them

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.precision]


def choose_machine(settings: Fit, device: str = "auto") -> Machine:
    """Return what a fit with ``settings`` runs on, every `auto` resolved.

    ``device``: that of the worker, where the settings name none. Raises MachineError for what this machine cannot do.
    """
    where = _device(device if settings.device == "auto" else settings.device)
    if settings.engine == "cudagraph" and where.type != "cuda":
        raise MachineError(f"fit.engine is cudagraph, which {where.type} does not have; use eager or compile")
    return Machine(
        device=where,
        engine="eager" if settings.engine == "auto" else settings.engine,
        precision=_precision(settings.precision, where),
        kernels=_kernels(settings.kernels, where),
        recompute=settings.memory.recompute == "always",
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise MachineError(f"fit.device is {name}, but this machine has {torch.cuda.device_count()} CUDA devices")
    return device


def _kernels(name: Kernels, device: torch.device) -> RunningKernels:
    needed = ops.missing_for_kernels(device) if name == "triton" else None
    if needed is not None:
        raise MachineError(f"fit.kernels is triton, which needs {needed}; use plain")
    return "plain" if name == "auto" else name


def _precision(name: Precision, device: torch.device) -> FitPrecision:
    if name == "auto":
        return "bf16" if has_fast_bf16(device) else "fp32"
    if name == "fp16" and device.type != "cuda" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
        raise MachineError("fit.precision is fp16, which this CPU has no instructions for; use bf16 or fp32")
    if name == "tf32" and device.type != "cuda":
        raise MachineError(f"fit.precision is tf32, which {device.type} does not have; use fp32 or bf16")
    return name


def has_fast_bf16(device: torch.device) -> bool:
    """Return whether ``device`` has instructions for bf16 products, and does not emulate them."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def loss_scale(dtype: torch.dtype, values: int) -> float:
    """Return the power of two that a loss, a mean over ``values``, is multiplied by, and its gradients divided by.

    The gradient of one value of a mean is below fp16's smallest number. A constant scale is enough: the outputs are in
    [0, 1], so gradients are bounded, and a sum over the pixels of a plane stays 64 times below what would overflow.
    """
    return 2.0 ** max(0, math.floor(math.log2(values)) - 6) if dtype == torch.float16 else 1.0


def turn_to(machine: Machine) -> None:
    """Make the device the current one, whose streams are forked and captured, and allow or forbid TF32 in float32.

    Both settings are those of the whole process; a CPU has neither.
    """
    if machine.device.type == "cuda":
        torch.cuda.set_device(machine.device.index or 0)
        allowed = machine.precision != "fp32"
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = allowed
        torch.backends.cudnn.benchmark = True


def keep_freed_memory() -> None:
    """Make this process keep the memory that its tensors free, if its C library is glibc; otherwise do nothing.

    A step on a CPU allocates and frees the same hundreds of megabytes. By default glibc returns each block to the
    kernel and faults it in again, page by page, which takes a tenth of the step (LOG.md, 2026-11-23). The setting is
    global, so this is for processes of our own.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def accelerate(machine: Machine, state: State, step: Step, seed: int) -> Step:
    """Return ``step`` as the machine's engine runs it. After any warm-up ``state`` is reset with ``seed``."""
    if machine.engine == "compile":
        for member in state.members:
            member.forward = compiled(member.forward)
    return captured(step, state, seed) if machine.engine == "cudagraph" else step


def compiled(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Compile ``forward`` as one graph for each shape. Raises for a graph break, and beyond `MOST_PROGRAMS` shapes."""
    import torch._dynamo

    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(compiler_cache()))
    config: Any = torch._dynamo.config
    config.recompile_limit = MOST_PROGRAMS
    config.fail_on_recompile_limit_hit = True
    program = torch.compile(forward, fullgraph=True, dynamic=False)

    def run(*inputs: Any) -> Tensor:
        try:
            result: Tensor = program(*inputs)
        except torch._dynamo.exc.FailOnRecompileLimitHit:
            raise MachineError(
                f"fit.engine is compile, and this process has compiled for {MOST_PROGRAMS} shapes, which is the most; "
                "use fit.shapes grid for fewer, more workers, or engine eager"
            ) from None
        return result

    return run


def compilations() -> int:
    """Return the number of graphs compiled in this process: one for each shape, and one for each recompilation."""
    found = sys.modules.get("torch._dynamo.utils")
    return 0 if found is None else int(found.counters["stats"]["unique_graphs"])


def compiler_cache() -> Path:
    """Return where compiled code is kept and shared between processes: in XDG_CACHE_HOME, or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dipfast" / "inductor"


def captured(step: Step, state: State, seed: int) -> Step:
    """Capture ``step`` as one CUDA graph over static buffers; its random numbers go on from replay to replay."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    for member in state.members:
        graph.register_generator_state(member.random)
    with torch.cuda.graph(graph):
        step()
    state.reset(seed)
    return graph.replay
