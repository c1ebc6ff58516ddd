"""A Triton kernel against float64: its error may be twice that of its plain twin, plus one rounding.

Held for every output and every gradient, for the largest error and for the root of the mean square, with memory that
the kernel has not written filled with NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dipfast.bench.kernel_cases import Case, Function

Results = dict[str, Tensor]


def judge(make: Callable[..., Case], seeds: Sequence[int] = (0, 1, 2)) -> list[dict[str, Any]]:
    """One row for each output and gradient: errors of the kernel and of its twin, what is allowed, the verdict.

    Errors are the worst of several seeds, for that of a single sum can be nothing by chance.
    """
    cases = [make(seed=seed) for seed in seeds]
    plain = [results(case, case.plain, None) for case in cases]
    exact = [results(case, case.plain, torch.float64) for case in cases]
    with uninitialised_is_nan():
        fused = [results(case, case.fused, None) for case in cases]
    names = list(exact[0])
    return [_row(name, *([found[name] for found in kind] for kind in (fused, plain, exact))) for name in names]


def results(case: Case, function: Function, dtype: torch.dtype | None) -> Results:
    """Every output, and every gradient for fixed random gradients of the outputs; in ``dtype``, or as given."""
    tensors = {name: _input(tensor, dtype, name in case.gradients) for name, tensor in case.tensors.items()}
    outputs = function(**tensors)
    found = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
    roots = [output for output in outputs if output.requires_grad]
    if roots:
        generator = torch.Generator().manual_seed(2**20)  # no case's own
        low = case.tensors[case.gradients[0]].dtype
        seeds = [torch.randn(root.shape, generator=generator).to(low).to(root.device, root.dtype) for root in roots]
        grads = torch.autograd.grad(roots, [tensors[name] for name in case.gradients], seeds)
        found |= {f"gradient of {name}": grad for name, grad in zip(case.gradients, grads, strict=True)}
    return found


def _input(tensor: Tensor, dtype: torch.dtype | None, differentiable: bool) -> Tensor:
    tensor = tensor.detach().clone()
    if dtype is not None and tensor.is_floating_point():
        tensor = tensor.to(dtype)
    return tensor.requires_grad_(differentiable)


def _row(name: str, fused: list[Tensor], plain: list[Tensor], exact: list[Tensor]) -> dict[str, Any]:
    kinds = [f"{list(t.shape)} {t.dtype}" for t in (fused[0], plain[0])]
    if kinds[0] != kinds[1]:
        return {"of": name, "ok": False, "why": f"{kinds[0]} where the plain twin has {kinds[1]}"}
    rounding = torch.finfo(fused[0].dtype).eps / 2
    row: dict[str, Any] = {"of": name, "ok": True}
    for kind, size in (("largest", _largest), ("rms", _rms)):
        error, twin = (max(size(t.double() - e) for t, e in zip(ts, exact, strict=True)) for ts in (fused, plain))
        allowed = 2 * twin + rounding * max(size(e) for e in exact)
        row |= {kind: error, f"{kind} of the twin": twin, f"{kind} allowed": allowed}
        row["ok"] = row["ok"] and error <= allowed
    return row


def _largest(x: Tensor) -> float:
    return float(x.abs().max())


def _rms(x: Tensor) -> float:
    return float(x.square().mean().sqrt())


@contextmanager
def uninitialised_is_nan() -> Iterator[None]:
    """`torch.empty` gives NaN: what a kernel does not write shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
