"""The machine that a run is on: for `environment.json`, and for how many workers it gets."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from dipfast.errors import MachineError, UsageError
from dipfast.plan import Place, spread
from dipfast.record import now
from dipfast.threads import asked_threads, cores

PACKAGES = (
    *("dipfast", "torch", "triton", "numpy", "pillow", "tifffile", "imagecodecs", "safetensors", "scikit-image"),
    *("onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt"),
)

CHANGING_PIXELS = ("dipfast", "torch", "numpy", "imagecodecs", "scikit-image")


def environment() -> dict[str, Any]:
    """Versions, machine, devices and command line."""
    import torch

    return {
        "time": now(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": cores(),
        "cpu": cpu_model(),
        "memory": _memory(),
        "devices": [cuda_device(index) for index in range(torch.cuda.device_count())],
        "driver": driver(),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
    }


def changed_software(before: object) -> str | None:
    """In words, what of the software that changes pixels is another than in ``before``, an earlier `environment`."""
    old = before.get("versions") if isinstance(before, dict) else None
    if not isinstance(old, dict):
        return None
    new = {name: _version(name) for name in CHANGING_PIXELS}
    changes = [f"{name} {old[name]} is now {new[name]}" for name in new if old.get(name) not in (None, new[name])]
    return ", ".join(changes) or None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name, as Linux knows it; elsewhere as Python does."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _memory() -> int | None:
    """Bytes of memory in the machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def cuda_device(index: int) -> dict[str, Any]:
    """Name, memory in bytes and compute capability of ``cuda:index``."""
    import torch

    device = torch.cuda.get_device_properties(index)
    return {
        "device": f"cuda:{index}",
        "name": device.name,
        "memory": device.total_memory,
        "capability": f"{device.major}.{device.minor}",
    }


def device_memory(name: str) -> int | None:
    """Bytes of memory of the GPU ``name``; None for a CPU, which other workers share."""
    kind, _, index = name.partition(":")
    memory: int | None = cuda_device(int(index or 0))["memory"] if kind == "cuda" else None
    return memory


def driver() -> str | None:
    """The NVIDIA driver's version, from the driver itself; None without one."""
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return _driver_of_kernel()
    try:
        nvml.nvmlInit()
        found = nvml.nvmlSystemGetDriverVersion()
        nvml.nvmlShutdown()
    except nvml.NVMLError:
        return _driver_of_kernel()
    return found if isinstance(found, str) else found.decode()


def _driver_of_kernel() -> str | None:
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def places_for(devices: str, jobs: int, workers: int | None = None, threads: int | None = None) -> list[Place]:
    """A worker for each device that ``devices`` names. Raises UsageError or MachineError with the reason.

    ``threads``: of each worker; by default what OMP_NUM_THREADS asks for, and without it the cores divided by workers.
    """
    threads = threads or asked_threads()
    if devices in ("auto", "cpu"):
        count = 0 if devices == "cpu" else _cuda_devices()
        if count == 0:
            number, each = spread(cores(), jobs, workers, threads)
            return [Place(f"cpu-{i}", "cpu", each) for i in range(number)]
        indices = list(range(count))
    else:
        indices = _indices(devices)
        if max(indices) >= _cuda_devices():
            raise MachineError(f"--devices {devices}: this machine has {_cuda_devices()} CUDA devices")
    each = threads or max(1, cores() // len(indices))
    return [Place(f"cuda-{i}", f"cuda:{i}", each) for i in indices]


def _indices(devices: str) -> list[int]:
    kind, _, numbers = devices.partition(":")
    if kind != "cuda" or not all(number.isdecimal() and number.isascii() for number in numbers.split(",")):
        raise UsageError(f"--devices should be auto, cpu, or cuda:0,1 and so on, is {devices!r}")
    return sorted({int(number) for number in numbers.split(",")})


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()
