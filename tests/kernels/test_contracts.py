"""Both kernels are proper operations of PyTorch: schema, shapes, gradients, devices, compilation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dipfast.kernels import checks

from dipfast.bench import kernel_cases as cases
from dipfast.bench.judge import results

CPU, BF16 = torch.device("cpu"), torch.bfloat16
SHARED = 227 * 1024  # bytes of shared memory of a program on an H200, at most


def small_case(kernel: str, device: torch.device) -> cases.Case:
    if kernel == "newton_schulz":
        return cases.newton_schulz((2, 9, 20), BF16, device, steps=1)
    return cases.norm_pad((2, 3, 4, 5), BF16, device)


EACH = pytest.mark.parametrize("kernel", cases.KERNELS)


@EACH
def test_an_operation_keeps_the_rules_of_pytorch(kernel: str, device: torch.device) -> None:
    case, called = small_case(kernel, device), []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "dipfast":
                called.append((func, args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        results(case, case.fused, None)
    assert len(called) == 1 + bool(case.gradients)
    for operation, arguments in called:
        if operation.name().endswith("_backward"):  # the backward has no gradient itself
            arguments = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        outcome = torch.library.opcheck(operation, arguments)
        assert set(outcome.values()) == {"SUCCESS"}


@EACH
def test_an_operation_compiles_into_one_graph(kernel: str, device: torch.device) -> None:
    case = small_case(kernel, device)
    compiled = torch.compile(case.fused, backend="aot_eager", fullgraph=True, dynamic=False)
    eager, graph = (results(case, function, None) for function in (case.fused, compiled))
    for name in eager:
        assert torch.equal(graph[name], eager[name])


@EACH
def test_on_a_cpu_without_the_interpreter_it_is_refused_and_nothing_runs_in_its_place(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    case = small_case(kernel, CPU)
    with pytest.raises(RuntimeError, match=rf"^{kernel} needs a CUDA device, and the device is cpu$"):
        case.fused(**case.tensors)


@EACH
def test_without_triton_it_is_refused(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    case = small_case(kernel, CPU)
    with pytest.raises(RuntimeError, match=rf"^{kernel} needs the package triton$"):
        case.fused(**case.tensors)


@pytest.mark.parametrize("size", [0, 2**31])
def test_what_32_bit_offsets_do_not_reach_is_refused(size: int) -> None:
    with pytest.raises(RuntimeError, match=rf"x should have 1 to 2147483647 elements, has {size}"):
        checks.require("x", torch.empty(size, device="meta"), (torch.float32,))


@pytest.mark.timeout(400)
def test_every_launch_compiles_for_hopper_without_spilling() -> None:
    pytest.importorskip("triton")
    script = Path(__file__).parent / "compile_for_hopper.py"
    environment = {"TRITON_INTERPRET": "0", "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    names = {f"norm_pad_triton.{name}" for name in ("_forward", "_sums", "_input_gradient")}
    assert {fact["kernel"] for fact in facts} == {*names, "newton_schulz_triton._iterate"}
    assert not [fact for fact in facts if fact["stack"] or fact["shared"] > SHARED or fact["widest"] < 16]
