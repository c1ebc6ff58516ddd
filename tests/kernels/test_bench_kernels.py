"""`dipfast bench kernels` measures the kernels, says why none can run, and checks its options."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from dipfast.bench import kernel_cases as cases
from dipfast.bench import kernels as bench
from dipfast.cli.app import main
from dipfast.errors import DipfastError

CPU = torch.device("cpu")


def test_on_a_cpu_the_twins_are_timed_and_the_result_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--size", "16", "--rounds", "2", "--no-compiled", "--device", "cpu", "--threads", "1"]
    assert main(["bench", "kernels", *arguments]) == 0
    shown = capsys.readouterr().out
    assert "the Triton kernels were not run, only their plain twins" in shown
    assert "newton_schulz" in shown and "norm_pad" in shown and "compiled" not in shown


def test_a_kernel_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "kernels", "--kernel", "conv"]) == 2
    assert "--kernel should be of newton_schulz, norm_pad, is conv" in capsys.readouterr().err


def test_every_variant_has_its_samples() -> None:
    result = bench.bench_kernels(16, CPU, kernels=["norm_pad"], rounds=3, compiled=False)
    assert {case["case"].split()[0] for case in result["cases"]} == {"norm_pad"}
    for case in result["cases"]:
        assert [row["name"] for row in case["variants"]] == ["plain"]
        assert all(len(row["us"]) == 3 and row["median_us"] > 0 for row in case["variants"])


def small(fused: Any = None, plain: Any = None) -> cases.Case:
    same = lambda values: (values * 1,)  # noqa: E731
    return cases.Case("norm_pad", "small", {"values": torch.ones(3)}, fused or same, plain or same)


def test_the_kernel_is_timed_where_it_runs(device: torch.device) -> None:
    case = cases.norm_pad((1, 4, 4, 4), torch.bfloat16, device)
    row = bench._time_case(case, device, True, False, rounds=2)
    assert [variant["name"] for variant in row["variants"]] == ["triton", "plain"]
    assert all("error" not in variant for variant in row["variants"])


def test_a_kernel_that_is_wrong_is_named_and_not_timed(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = small(fused=lambda values: (values + 1e-3,))
    make = bench.partial(lambda seed, dtype: wrong, dtype=torch.float32)
    monkeypatch.setattr(bench, "odd_cases", lambda _: [make])
    verdicts = bench.check_kernels(device)
    assert [(v["case"], v["ok"]) for v in verdicts] == [("small float32", False)]
    assert verdicts[0]["why"][0]["largest"] > verdicts[0]["why"][0]["largest allowed"]
    with pytest.raises(DipfastError, match="not exact enough: norm_pad small float32"):
        bench.refuse_wrong({"verdicts": verdicts})


def test_memory_that_a_kernel_does_not_write_is_found() -> None:
    def partly(values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = torch.empty_like(values)
        out[:2] = values[:2]
        return (out,)

    assert not bench.judge(lambda seed: small(fused=partly))[0]["ok"]
    assert bench.judge(lambda seed: small())[0]["ok"]


def test_a_variant_that_fails_is_recorded_with_its_error() -> None:
    def broken(**_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError("no such kernel")

    row = bench._time_case(small(fused=broken), CPU, True, False, rounds=1)
    found = {variant["name"]: variant.get("error") for variant in row["variants"]}
    assert found == {"triton": "RuntimeError: no such kernel", "plain": None}


def test_it_needs_torch_alone_besides_triton() -> None:
    others = ("rich", "typer", "pydantic", "safetensors", "skimage", "yaml", "PIL", "triton")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({others!r}))\n"
        "import torch; torch.set_num_threads(1)\n"
        "from dipfast.bench.kernels import bench_kernels\n"
        "result = bench_kernels(16, torch.device('cpu'), kernels=['norm_pad'], rounds=1, compiled=False)\n"
        "print(len(result['cases']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4"
