"""Every fused kernel against float64, at odd sizes, output and gradients, with unwritten memory full of NaN."""

from __future__ import annotations

import importlib
from functools import partial
from typing import Any

import pytest
import torch

from dipfast.bench import kernel_cases as cases
from dipfast.bench.judge import judge, results

FP32, BF16 = torch.float32, torch.bfloat16


def assert_as_good_as_the_twin(make: Any, **arguments: Any) -> None:
    rows = judge(partial(make, **arguments))
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]


@pytest.mark.parametrize("size", [1, 1023, 2051])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_adam(size: int, noise: float, device: torch.device) -> None:
    assert_as_good_as_the_twin(cases.adam, size=size, dtype=BF16, device=device, noise=noise, decay=0.01)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("shape", [(1, 20, 7, 9), (2, 128, 5, 3), (1, 3, 1, 6)])
@pytest.mark.parametrize(("outputs", "masked", "count", "sigmoid"), [(3, False, 5, True), (1, True, 0, False)])
def test_head(
    shape: tuple, dtype: torch.dtype, device: torch.device, outputs: int, masked: bool, count: int, sigmoid: bool
) -> None:
    options = {"outputs": outputs, "masked": masked, "count": count, "sigmoid": sigmoid}
    assert_as_good_as_the_twin(cases.head, shape=shape, dtype=dtype, device=device, **options)


@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize("shape", [(1, 20, 7, 9), (2, 132, 5, 3), (4, 3, 3, 130)])
@pytest.mark.parametrize(("amount", "activation"), [(0, "none"), (1, "leaky_relu"), (2, "swish")])
def test_norm_pad(shape: tuple, dtype: torch.dtype, device: torch.device, amount: int, activation: str) -> None:
    options = {"amount": amount, "activation": activation}
    assert_as_good_as_the_twin(cases.norm_pad, shape=shape, dtype=dtype, device=device, **options)


@pytest.mark.parametrize("activation", ["relu", "elu"])
def test_norm_pad_with_other_activations(activation: str, device: torch.device) -> None:
    assert_as_good_as_the_twin(
        cases.norm_pad, shape=(1, 8, 33, 31), dtype=FP32, device=device, activation=activation, amount=3
    )


def test_statistics_keep_their_digits_at_a_large_mean(device: torch.device) -> None:
    shape = (1, 3, 30, 29)
    assert_as_good_as_the_twin(cases.norm_pad, shape=shape, dtype=FP32, device=device, mean=1000.0, activation="none")


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("dtype", [FP32, BF16])
@pytest.mark.parametrize(("shape", "skips"), [((1, 20, 7, 9), 4), ((2, 132, 3, 2), 0), ((1, 3, 1, 65), 5)])
def test_upsample_concat(shape: tuple, skips: int, dtype: torch.dtype, device: torch.device, mode: str) -> None:
    options = {"skips": skips, "mode": mode}
    assert_as_good_as_the_twin(cases.upsample_concat, shape=shape, dtype=dtype, device=device, **options)


@pytest.fixture
def few_programs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a large picture has it: every program goes over several tiles."""
    for name in ("head", "norm_pad", "statistics", "upsample_concat"):
        kernel = importlib.import_module(f"dipfast.kernels.{name}")
        monkeypatch.setattr(kernel, "PROGRAMS", 3)
        for tile in {"TILE", "BACKWARD_TILE"} & set(vars(kernel)):
            monkeypatch.setattr(kernel, tile, 64)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("make", [partial(cases.head, masked=True), cases.norm_pad, cases.upsample_concat])
def test_programs_that_go_over_several_tiles(make: Any, device: torch.device) -> None:
    assert_as_good_as_the_twin(make, shape=(1, 5, 5, 7), dtype=FP32, device=device)


def test_the_head_takes_a_target_in_either_memory_format(device: torch.device) -> None:
    case = cases.head((2, 8, 5, 7), FP32, device)
    before = results(case, case.fused, None)
    case.tensors["target"] = case.tensors["target"].contiguous(memory_format=torch.channels_last)
    after = results(case, case.fused, None)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_noise_depends_on_seed_step_and_element_alone(device: torch.device) -> None:
    small, large = (cases.adam(size, FP32, device, noise=1.0) for size in (100, 5000))
    for case in (small, large):
        for name in ("values", "grads", "first"):
            case.tensors[name].zero_()
    first, second = (results(case, case.fused, None)["output 0"] for case in (small, large))
    assert torch.equal(first, second[:100])
    large.tensors["step"] += 1
    assert not torch.isclose(results(large, large.fused, None)["output 0"], second).any()


@pytest.mark.parametrize(
    "make",
    [
        partial(cases.adam, 300, noise=0.1),
        partial(cases.head, (1, 8, 9, 7), masked=True),
        partial(cases.norm_pad, (1, 8, 9, 7)),
        partial(cases.upsample_concat, (1, 8, 5, 7)),
    ],
)
def test_a_kernel_repeats_its_bits(make: Any, device: torch.device) -> None:
    case = make(dtype=BF16, device=device)
    one, two = (results(case, case.fused, None) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
