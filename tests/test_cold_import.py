"""Importing dipfast in a fresh process: quick, without torch, and without anything optional."""

from __future__ import annotations

import subprocess
import sys


def fresh(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_import_dipfast_loads_no_torch() -> None:
    assert fresh("import sys, dipfast; print('torch' in sys.modules, 'skimage' in sys.modules)") == "False False"


def test_reading_a_manifest_needs_no_torch() -> None:
    assert fresh("import sys, dipfast.manifest; print('torch' in sys.modules)") == "False"


def test_help_needs_no_torch() -> None:
    code = "import sys; from dipfast.cli.app import main; main(['--help']); print('torch' in sys.modules)"
    assert fresh(code).endswith("False")


def test_everything_imports_without_the_optional_packages() -> None:
    missing = ("triton", "onnxruntime", "tensorrt", "ray", "submitit", "fsspec", "pynvml")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); import dipfast.api, dipfast.cli.app; print('fine')"
    )
    assert fresh(code) == "fine"


def test_without_triton_plain_operations_and_contracts_import_and_a_kernel_is_refused() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import torch; from dipfast import ops\n"
        "from dipfast.kernels import newton_schulz, norm_pad\n"
        "x, ones = torch.rand(1, 1, 2, 2), torch.ones(1)\n"
        "print(norm_pad.plain(x, ones, ones, 'none', 1, 'reflection', 1e-5).shape)\n"
        "print(ops.missing_for_kernels(torch.device('cuda')))\n"
        "try: ops.norm_pad(x, ones, ones, 'none', 1, 'reflection')\n"
        "except RuntimeError as error: print(error)"
    )
    assert fresh(code).splitlines() == [
        "torch.Size([1, 1, 4, 4])",
        "the package triton",
        "norm_pad needs the package triton",
    ]


def test_a_plain_fit_loads_neither_triton_nor_the_kernels() -> None:
    code = (
        "import sys; sys.modules['triton'] = None; import numpy as np, dipfast\n"
        "net = {'channels': [8], 'skip_channels': 2, 'input': {'depth': 2}}\n"
        "picture = np.zeros((8, 8), np.uint8)\n"
        "dipfast.restore(picture, sigma=25, preset='paper', steps=1, generator=net, device='cpu')\n"
        "print([name for name in sys.modules if name.startswith('dipfast.kernels')])"
    )
    assert fresh(code) == "[]"
