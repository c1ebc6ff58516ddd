"""What this machine can run, and why not the rest. It looks and reports; it changes and installs nothing."""

from __future__ import annotations

import importlib
import importlib.util
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console
from rich.table import Table

Finding = dict[str, Any]  # name, ok, found, why

OPTIONAL = {
    "triton": "fit.kernels=triton on CUDA; installed with a CUDA build of torch",
    "ray": "--executor ray; pip install 'dipfast[ray]'",
    "submitit": "--executor slurm; pip install 'dipfast[slurm]'",
    "fsspec": "images on object storage; pip install 'dipfast[remote]'",
    "s3fs": "s3:// addresses; pip install s3fs",
    "pillow_heif": "HEIF images; pip install 'dipfast[heif]'",
    "pynvml": "the driver's version in environment.json; pip install 'dipfast[gpu]'",
}


def examine() -> list[Finding]:
    """One finding for each ability: whether it is here, in which version, and what is missing where it is not."""
    findings = [_python(), _package("torch"), _cpu(), *_cuda(), _onnxruntime(), _tensorrt()]
    return findings + [_optional(name, purpose) for name, purpose in OPTIONAL.items()]


def _finding(name: str, ok: bool, found: str, why: str = "") -> Finding:
    return {"name": name, "ok": ok, "found": found, "why": why}


def _python() -> Finding:
    return _finding("python", True, f"{platform.python_version()} on {platform.platform()}")


def _package(name: str) -> Finding:
    try:
        return _finding(name, True, version(name))
    except PackageNotFoundError:
        return _finding(name, False, "not installed", f"pip install {name}")


def _cpu() -> Finding:
    import torch

    from dipfast.environment import cpu_model
    from dipfast.fit.engine import has_fast_bf16
    from dipfast.threads import cores

    fast = has_fast_bf16(torch.device("cpu"))
    found = f"{cpu_model()}, {cores()} cores, {torch.backends.cpu.get_cpu_capability()}"
    return _finding("cpu", True, f"{found}, precision auto = {'bf16' if fast else 'fp32'}")


def _cuda() -> list[Finding]:
    import torch

    if not torch.cuda.is_available():
        build = torch.version.cuda
        why = f"torch is built for CUDA {build}, but no device answers" if build else "this torch is a CPU build"
        return [_finding("cuda", False, "no device", why)]
    devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [
        _finding(f"cuda:{i}", True, f"{device.name}, {device.total_memory >> 30} GiB, sm_{device.major}{device.minor}")
        for i, device in enumerate(devices)
    ]


def _onnxruntime() -> Finding:
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        return _finding(
            "onnxruntime", False, "not installed", f"pip install 'dipfast[cpu]' or 'dipfast[gpu]' ({error})"
        )
    return _finding("onnxruntime", True, f"{runtime.__version__}: {', '.join(runtime.get_available_providers())}")


def _tensorrt() -> Finding:
    if importlib.util.find_spec("tensorrt") is None:
        return _finding("tensorrt", False, "not installed", "needs an NVIDIA GPU; pip install 'dipfast[tensorrt]'")
    try:
        return _finding("tensorrt", True, importlib.import_module("tensorrt").__version__)
    except (ImportError, OSError) as error:
        return _finding("tensorrt", False, "installed, but cannot be loaded", str(error))


def _optional(name: str, purpose: str) -> Finding:
    found = importlib.util.find_spec(name) is not None
    return _finding(name, found, "installed" if found else "not installed", "" if found else f"for {purpose}")


def print_findings(findings: list[Finding], console: Console) -> None:
    """The findings as a table for a person."""
    table = Table("", "what", "found", "why not")
    for finding in findings:
        mark = "[green]yes[/]" if finding["ok"] else "[yellow]no[/]"
        table.add_row(mark, finding["name"], finding["found"].replace("[", r"\["), finding["why"].replace("[", r"\["))
    console.print(table)
