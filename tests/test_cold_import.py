"""Importing dipfast in a fresh process: quick, without torch, and without anything optional."""

from __future__ import annotations

import subprocess
import sys

import pytest


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_dipfast_loads_no_torch() -> None:
    assert fresh("import sys, dipfast; print('torch' in sys.modules, 'skimage' in sys.modules)") == "False False"


def test_reading_a_manifest_needs_no_torch() -> None:
    assert fresh("import sys, dipfast.manifest; print('torch' in sys.modules)") == "False"


def test_help_needs_no_torch() -> None:
    code = "import sys; from dipfast.cli import main; main(['--help']); print('torch' in sys.modules)"
    assert fresh(code).endswith("False")


@pytest.mark.parametrize("missing", ["triton", "onnxruntime", "tensorrt", "ray", "submitit", "fsspec", "pynvml"])
def test_everything_imports_without_an_optional_package(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; import dipfast.api, dipfast.cli; print('fine')"
    assert fresh(code) == "fine"


def test_without_triton_operations_run_plainly_and_a_fused_kernel_is_refused() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from dipfast.kernels import ops\n"
        "ones = torch.ones(1)\n"
        "print(ops.norm_pad(torch.zeros(1, 1, 2, 2), ones, ones, amount=1).shape)\n"
        "try: ops.choose_fused(['adam'], torch.device('cuda'))\n"
        "except RuntimeError as error: print(error)"
    )
    assert fresh(code).splitlines() == [
        "torch.Size([1, 1, 4, 4])",
        "fused kernels (adam) need triton, which is not installed",
    ]
