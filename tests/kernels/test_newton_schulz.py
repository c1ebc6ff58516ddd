"""The kernel of Muon's Newton-Schulz iteration agrees with float64, takes all shapes in a batch, and refuses others."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from dipfast.kernels import newton_schulz as contract

from dipfast import ops
from dipfast.bench import kernel_cases as cases
from dipfast.bench.judge import judge, results

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16
CPU = torch.device("cpu")
SHAPES = [(2, 12, 30), (1, 9, 9), (3, 20, 11)]  # of groups; the last is taller than wide


def assert_as_good_as_the_twin(device: torch.device, **arguments: Any) -> None:
    rows = judge(partial(cases.newton_schulz, device=device, **arguments))
    assert len(rows) == 1
    assert rows[0]["ok"], rows


@pytest.mark.parametrize("dtype", [FP32, BF16, FP16])
@pytest.mark.parametrize("shape", [(1, 9, 27), (3, 31, 65), (2, 1, 70), (1, 17, 5)])
def test_one_program_a_matrix(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device) -> None:
    assert_as_good_as_the_twin(device, shape=shape, dtype=dtype)


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_last_step_is_what_comes_out(steps: int, device: torch.device) -> None:
    assert_as_good_as_the_twin(device, shape=(2, 10, 33), dtype=FP32, steps=steps)


def test_more_rows_in_sixteen_bits_than_in_float32(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_as_good_as_the_twin(device, shape=(1, 70, 90), dtype=FP16, steps=1)
    monkeypatch.setattr(contract, "plain", lambda matrices, steps: matrices + 7)
    tall = torch.zeros(1, 33, 40, device=device)
    assert bool((contract.newton_schulz(tall, 1) == 7).all())


def test_a_matrix_of_zeros_stays_one_and_others_know_nothing_of_it(device: torch.device) -> None:
    matrices = torch.randn(3, 10, 20, generator=torch.Generator().manual_seed(0)).to(device)
    matrices[1] = 0
    found = contract.newton_schulz(matrices, 3)
    assert not found[1].any()
    assert torch.equal(found[2:], contract.newton_schulz(matrices[2:], 3))


def test_it_repeats_its_bits(device: torch.device) -> None:
    case = cases.newton_schulz((2, 12, 70), BF16, device)
    one, two = (results(case, case.fused, None) for _ in range(2))
    assert torch.equal(one["output 0"], two["output 0"])


def test_the_twin_is_the_plain_iteration_of_a_fit() -> None:
    matrices = torch.randn(2, 9, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert contract.QUINTIC == ops.NEWTON_SCHULZ
    torch.testing.assert_close(contract.plain(matrices, 3), ops.newton_schulz(matrices, 3), rtol=0, atol=1e-13)


def groups_of(dtype: torch.dtype) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng, dtype=dtype) for shape in SHAPES]


def test_all_shapes_in_one_batch_are_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "newton_schulz", contract.plain)  # in float64, which the kernel does not have
    groups = groups_of(torch.float64)
    together = ops.newton_schulz_batched(groups, 5, torch.float64)
    for group, found in zip(groups, together, strict=True):
        alone = ops.newton_schulz(group / group.norm(dim=(1, 2), keepdim=True), 5)
        torch.testing.assert_close(found, alone, rtol=0, atol=1e-13)


def test_the_batch_runs_on_the_kernel(device: torch.device) -> None:
    groups = [group.to(device) * 1e-12 for group in groups_of(FP32)]  # gradients may be too small for 16 bits
    found = ops.newton_schulz_batched(groups, 3, FP16)
    for group, one in zip(groups, found, strict=True):
        assert one.dtype == FP16
        exact = ops.newton_schulz(group.double() * 1e12, 3)
        assert float((one.double() - exact).abs().max()) < 4e-3


@pytest.mark.parametrize(
    ("matrices", "steps", "message"),
    [
        (torch.zeros(1, 2, 3, dtype=torch.float64), 3, "matrices should be torch.float32 or .*, is torch.float64"),
        (torch.zeros(2, 3), 3, "matrices should have 3 dimensions, has 2"),
        (torch.zeros(0, 2, 3), 3, "matrices should have 1 to 2147483647 elements, has 0"),
        (torch.zeros(1, 2, 3), 0, "steps should be at least 1, is 0"),
    ],
)
def test_it_refuses_what_it_would_read_wrongly(
    matrices: torch.Tensor, steps: int, message: str, device: torch.device
) -> None:
    with pytest.raises(RuntimeError, match=f"newton_schulz: {message}"):
        contract.newton_schulz(matrices.to(device), steps)
