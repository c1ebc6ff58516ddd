"""`dipfast bench kernels`: what it measures, what it says where no kernel can run, and what it needs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from dipfast.kernels import twins

from dipfast.bench import kernel_cases as cases
from dipfast.bench import kernels as bench
from dipfast.cli import main
from dipfast.errors import DipfastError

CPU = torch.device("cpu")


def test_on_a_cpu_the_twins_are_timed_and_the_result_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "16", "--rounds", "2", "--no-compiled", "--device", "cpu", "--threads", "1"]
    assert main(["bench", "kernels", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "the fused kernels were not run, only their plain twins" in shown
    assert "head" in shown and "eager" in shown and "compiled" not in shown


def test_a_kernel_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--kernel", "conv"]) == 2
    assert "--kernel should be of adam, head, norm_pad, upsample_concat, is conv" in capsys.readouterr().err


def test_every_variant_has_its_samples() -> None:
    result = bench.bench_kernels(16, CPU, kernels=["norm_pad"], rounds=3, compiled=False)
    assert {case["case"] for case in result["cases"]} == {
        "norm_pad 128x16x16 leaky_relu pad 1",
        "norm_pad 4x16x16 leaky_relu pad 0",
    }
    for case in result["cases"]:
        assert [row["name"] for row in case["variants"]] == ["eager"]
        assert all(len(row["us"]) == 3 and row["bytes_per_second"] > 0 for row in case["variants"])


def test_behind_its_time_a_bench_names_what_it_leaves_out() -> None:
    result = bench.bench_kernels(16, CPU, kernels=["adam"], seconds=0)
    assert (result["cases"], result["left_out"]) == ([], ["adam 10007", "adam 10007 noise"])


def test_the_fused_variant_is_timed_where_it_runs(device: torch.device) -> None:
    case = cases.head((1, 8, 6, 6), torch.bfloat16, device)
    row = bench._time_case(case, device, True, False, rounds=2, copied=1e9)
    assert [variant["name"] for variant in row["variants"]] == ["fused", "eager"]
    assert all("error" not in variant for variant in row["variants"])


def test_a_kernel_that_is_wrong_is_named_and_not_timed(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(values: torch.Tensor, *_: Any) -> tuple[torch.Tensor, ...]:
        return (values + 1e-3,)

    case = cases.Case("adam", "wrong", {"values": torch.ones(3)}, wrong, lambda values: (values,), 1)
    monkeypatch.setattr(bench, "odd_cases", lambda _: [bench.partial(lambda seed, dtype: case, dtype=torch.float32)])
    verdicts = bench.check_kernels(device)
    assert [(v["case"], v["ok"]) for v in verdicts] == [("wrong float32", False)]
    assert verdicts[0]["why"][0]["largest"] > verdicts[0]["why"][0]["largest allowed"]
    with pytest.raises(DipfastError, match="not exact enough: adam wrong float32"):
        bench.refuse_wrong({"verdicts": verdicts})


def test_memory_that_a_kernel_does_not_write_is_found(device: torch.device) -> None:
    def partly(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = torch.empty_like(values)
        out[:2] = values[:2]
        return (out,)

    case = cases.Case("adam", "partly", {"values": torch.ones(3)}, partly, lambda values: (values,), 1)
    assert not bench.judge(lambda seed: case)[0]["ok"]


def test_a_variant_that_fails_is_recorded_with_its_error() -> None:
    def broken(**_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no such kernel")

    case = cases.Case("adam", "broken", {"values": torch.ones(3)}, broken, lambda values: (values,), 1)
    row = bench._time_case(case, CPU, True, False, rounds=1, copied=1e9)
    assert {v["name"]: v.get("error") for v in row["variants"]} == {
        "fused": "RuntimeError: no such kernel",
        "eager": None,
    }


def test_it_needs_torch_alone_besides_triton() -> None:
    others = ("rich", "typer", "pydantic", "safetensors", "skimage", "yaml", "PIL")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({others!r}))\n"
        "import torch; torch.set_num_threads(1)\n"
        "from dipfast.bench.kernels import bench_kernels\n"
        "result = bench_kernels(16, torch.device('cpu'), kernels=['head'], rounds=1, compiled=False)\n"
        "print(len(result['cases']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2"


@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "elu", "swish", "none"])
def test_the_twins_gradients_are_those_of_autograd(activation: str) -> None:
    case = cases.norm_pad((2, 3, 4, 5), torch.float32, CPU, activation=activation, amount=2)
    x, weight, bias = (tensor.double().requires_grad_() for tensor in case.tensors.values())
    out = twins.norm_pad(x, weight, bias, 2, activation, 1e-5)
    seed = torch.randn_like(out)
    expected = torch.autograd.grad(out, (x, weight, bias), seed)
    with torch.no_grad():
        statistics = twins.channel_statistics(x, 1e-5)
        found = twins.norm_pad_backward(seed, x, *statistics, weight, bias, 2, activation)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
