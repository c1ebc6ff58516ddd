"""What the operations of the fused kernels promise: schema, shapes, gradients, what runs where, what they refuse."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from dipfast.kernels import choice, faces, twins

from dipfast.bench import kernel_cases as cases
from dipfast.bench.judge import results

CPU = torch.device("cpu")
BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without the interpreter: the twin behind every operation."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(choice, "_chosen", frozenset())


def small_cases() -> list[cases.Case]:
    low = BF16
    return [
        cases.adam(37, low, CPU, noise=0.1),
        cases.head((2, 5, 3, 4), low, CPU, masked=True),
        cases.head((1, 8, 5, 3), torch.float32, CPU, sigmoid=False),
        cases.norm_pad((2, 3, 4, 5), low, CPU),
        cases.norm_pad((1, 4, 5, 3), torch.float32, CPU, amount=2, activation="swish"),
        cases.norm_pad((1, 4, 5, 3), torch.float32, CPU, amount=0, activation="elu"),
        cases.upsample_concat((2, 3, 4, 5), low, CPU),
        cases.upsample_concat((1, 4, 3, 5), torch.float32, CPU, skips=0),
        cases.upsample_concat((1, 4, 5, 3), torch.float32, CPU, skips=2, mode="nearest"),
    ]


ALL = pytest.mark.parametrize("case", small_cases(), ids=lambda case: case.name)


@ALL
def test_an_operation_keeps_the_rules_of_pytorch(case: cases.Case) -> None:
    called: list[tuple] = []

    class Recorder(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "dipfast":
                called.append((func, args))
            return func(*args, **(kwargs or {}))

    with Recorder():
        results(case, case.fused, None)
    assert len(called) == 1 + bool(case.gradients)
    for operation, arguments in called:
        if operation.name().endswith("_backward"):  # has no gradient of its own
            arguments = tuple(a.detach() if isinstance(a, torch.Tensor) else a for a in arguments)
        outcome = torch.library.opcheck(operation, arguments)
        assert set(outcome.values()) == {"SUCCESS"}


@ALL
def test_on_a_cpu_the_twin_runs_with_gradients_of_its_own(case: cases.Case) -> None:
    operation, twin = (results(case, function, None) for function in (case.fused, case.plain))
    for name in twin:
        low = BF16 in (tensor.dtype for tensor in case.tensors.values())
        torch.testing.assert_close(operation[name], twin[name], **({"rtol": 0.05, "atol": 0.02} if low else {}))


@ALL
def test_an_operation_compiles_into_one_graph(case: cases.Case) -> None:
    compiled = torch.compile(case.fused, backend="aot_eager", fullgraph=True, dynamic=False)
    eager, graph = (results(case, function, None) for function in (case.fused, compiled))
    for name in eager:
        torch.testing.assert_close(graph[name], eager[name])


def test_nothing_fused_runs_unless_asked_for() -> None:
    assert faces.fused() == frozenset()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["adam", "conv"], r"should be of adam, .*, got conv"),
        (["adam", "head"], r"fused kernels \(adam, head\) need a CUDA device, the device is cpu"),
    ],
)
def test_asking_for_what_cannot_run_is_an_error(names: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        choice.choose_fused(names, CPU)
    assert faces.fused() == frozenset()


def test_without_triton_a_fused_kernel_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(RuntimeError, match=r"\(adam\) need triton, which is not installed"):
        choice.choose_fused(["adam"], torch.device("cuda"))


def test_what_is_chosen_is_what_a_face_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    choice.choose_fused(["adam"], CPU)
    assert faces.fused() == {"adam"}
    monkeypatch.setattr(twins, "adam_", None)
    values, grads, first, second = (torch.ones(3) for _ in range(4))
    faces.adam_(values, grads, first, second, torch.tensor(1.0), lr=0.1)
    assert float(grads.abs().max()) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grads": torch.zeros(2)}, r"adam_: grads should have shape \[3\], has \[2\]"),
        ({"values": torch.zeros(3, dtype=BF16)}, r"adam_: values should be torch.float32, is torch.bfloat16"),
        ({"first": torch.zeros(6)[::2]}, r"adam_: first should be contiguous, has stride 2"),
    ],
)
def test_adam_refuses_what_it_would_read_wrongly(
    change: dict[str, torch.Tensor], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    names = ("values", "grads", "first", "second")
    tensors = {name: torch.zeros(3) for name in names} | change
    with pytest.raises(RuntimeError, match=message):
        torch.ops.dipfast.adam_(*tensors.values(), torch.tensor(1.0), None, None, 0.1, 0.9, 0.999, 1e-8, 0.0, 0.0)


@pytest.mark.parametrize("size", [0, 2**31])
def test_what_32_bit_offsets_do_not_reach_is_refused(size: int) -> None:
    with pytest.raises(RuntimeError, match=rf"x should have 1 to 2147483647 elements, has {size}"):
        choice.require("x", torch.empty(size, device="meta"), (torch.float32,))


def test_the_head_refuses_a_target_of_another_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    case = cases.head((1, 8, 4, 4), BF16, CPU)
    case.tensors["target"] = torch.zeros(1, 3, 4, 5)
    with pytest.raises(RuntimeError, match=r"head: target should have shape \[1, 3, 4, 4\], has \[1, 3, 4, 5\]"):
        case.fused(**case.tensors)


@pytest.mark.timeout(400)
def test_every_launch_compiles_for_hopper_without_spilling() -> None:
    pytest.importorskip("triton")
    script = Path(__file__).parent / "compile_for_hopper.py"
    environment = {"TRITON_INTERPRET": "0", "PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True, env=environment)
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    assert {fact["kernel"].split(".")[0] for fact in facts} >= set(choice.FUSED)
    assert not [fact for fact in facts if fact["stack"] > 32]  # what the cosine's rare path takes
    assert {fact["kernel"] for fact in facts if fact["widest"] == 16} >= {
        "adam._adam",
        "head._forward",
        "head._backward",
        "norm_pad._forward",
        "norm_pad._sums",
        "norm_pad._input_gradient",
        "statistics._partial",
        "upsample_concat._forward",
        "upsample_concat._sums",
        "upsample_concat._coarse_gradient",
    }
