"""The kernel of normalisation, activation and padding agrees with float64, and refuses wrong arguments."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dipfast.kernels import norm_pad as contract

from dipfast import ops
from dipfast.bench import kernel_cases as cases
from dipfast.bench.judge import judge, results

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
BOTH = pytest.mark.parametrize("mode", ["reflection", "replication"])


def assert_as_good_as_the_twin(device: torch.device, **arguments: Any) -> None:
    rows = judge(partial(cases.norm_pad, device=device, **arguments))
    assert {row["of"] for row in rows} == {"output 0", *(f"gradient of {name}" for name in ("x", "weight", "bias"))}
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]


@BOTH
@pytest.mark.parametrize(
    ("shape", "dtype", "amount", "activation"),
    [
        ((2, 20, 7, 9), FP32, 1, "leaky_relu"),
        ((2, 20, 7, 9), BF16, 1, "leaky_relu"),
        ((1, 132, 3, 5), BF16, 1, "elu"),
        ((1, 3, 3, 67), FP32, 2, "swish"),
    ],
)
def test_output_and_gradients(
    shape: tuple[int, int, int, int],
    dtype: torch.dtype,
    amount: int,
    activation: str,
    mode: str,
    device: torch.device,
) -> None:
    assert_as_good_as_the_twin(device, shape=shape, dtype=dtype, amount=amount, activation=activation, mode=mode)


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("activation", ["relu", "elu", "none"])
def test_without_padding(activation: str, dtype: torch.dtype, device: torch.device) -> None:
    assert_as_good_as_the_twin(device, shape=(2, 8, 5, 7), dtype=dtype, activation=activation, amount=0)


@BOTH
def test_padding_as_wide_as_it_may_be(mode: str, device: torch.device) -> None:
    shape, amount = ((1, 5, 4, 6), 3) if mode == "reflection" else ((1, 5, 1, 3), 2)
    assert_as_good_as_the_twin(device, shape=shape, dtype=FP32, amount=amount, mode=mode)


def test_statistics_keep_their_digits_at_a_large_mean(device: torch.device) -> None:
    assert_as_good_as_the_twin(device, shape=(2, 3, 9, 9), dtype=FP32, mean=1000.0, activation="none", amount=0)


@BOTH
def test_programs_that_go_over_several_tiles(mode: str, device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large picture needs several programs."""
    from dipfast.kernels import norm_pad_triton as kernel

    monkeypatch.setattr(kernel, "PROGRAMS", 3)
    for name in ("TILE", "BACKWARD_TILE"):
        monkeypatch.setattr(kernel, name, 64)
    assert_as_good_as_the_twin(device, shape=(1, 3, 9, 7), dtype=FP32, mode=mode)


@BOTH
def test_any_memory_format_gives_the_same_bits(mode: str, device: torch.device) -> None:
    case = cases.norm_pad((2, 5, 4, 6), FP32, device, mode=mode)
    last = results(case, case.fused, None)
    for x in (case.tensors["x"].contiguous(), torch.nn.functional.pad(case.tensors["x"], (1,) * 4)[..., 1:-1, 1:-1]):
        case.tensors["x"] = x
        found = results(case, case.fused, None)
        assert all(torch.equal(found[name], last[name]) for name in last)


def test_it_repeats_its_bits(device: torch.device) -> None:
    case = cases.norm_pad((1, 8, 9, 7), BF16, device)
    one, two = (results(case, case.fused, None) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


@BOTH
@pytest.mark.parametrize("activation", contract.ACTIVATIONS)
def test_the_twin_is_the_plain_operations_of_a_fit(activation: str, mode: str) -> None:
    case = cases.norm_pad((2, 3, 5, 6), torch.float64, torch.device("cpu"))
    x, weight, bias = (tensor.double() for tensor in case.tensors.values())
    plain = ops.pad(ops.activate(ops.batch_norm(x, weight, bias), activation), 2, mode)
    torch.testing.assert_close(contract.plain(x, weight, bias, activation, 2, mode, 1e-5), plain)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 2, 3, 4, dtype=torch.float64)}, r"x should be torch.float32 or .*, is torch.float64"),
        ({"x": torch.zeros(0, 2, 3, 4)}, r"x should have 1 to 2147483647 elements, has 0"),
        ({"x": torch.zeros(2, 3, 4)}, r"x should have 4 dimensions, has 3"),
        ({"weight": torch.zeros(3)}, r"weight should have shape \[2\], has \[3\]"),
        ({"bias": torch.zeros(2, dtype=BF16)}, r"bias should be torch.float32, is torch.bfloat16"),
        ({"activation": "gelu"}, r"activation should be of leaky_relu, relu, elu, swish, none, is gelu"),
        ({"mode": "zero"}, r"mode should be of reflection, replication, is zero"),
        ({"amount": 3}, r"amount should be 0 to 2 for a reflection of 3x4, is 3"),
        ({"amount": -1}, r"amount should be 0 to 2 for a reflection of 3x4, is -1"),
        ({"amount": 40_000, "mode": "replication"}, r"x should have up to 2147483647 elements when padded, has \d+"),
    ],
)
def test_it_refuses_what_it_would_read_wrongly(change: dict[str, Any], message: str, device: torch.device) -> None:
    given = {
        "x": torch.zeros(1, 2, 3, 4),
        "weight": torch.zeros(2),
        "bias": torch.zeros(2),
        "activation": "none",
        "amount": 1,
        "mode": "reflection",
        "eps": 1e-5,
    }
    arguments = [v.to(device) if isinstance(v, torch.Tensor) else v for v in (given | change).values()]
    with pytest.raises(RuntimeError, match=f"norm_pad: {message}"):
        contract.norm_pad(*arguments)
