"""`dipfast bench kernels`: each Triton kernel beside its plain twin, eager and compiled, forward and backward.

A kernel is held against float64 first; one that is not exact enough is not timed. On a GPU each variant is captured in
a graph, and the graphs take turns, with warm caches. On a CPU only the plain twins run, and the result says so. This
file and what it imports need torch, and triton on a GPU; rich to print.
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from dipfast.bench.judge import judge
from dipfast.bench.kernel_cases import KERNELS, Case, Function, all_cases, odd_cases
from dipfast.bench.machine import describe, synchronize
from dipfast.errors import DipfastError, MachineError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

WARM_UP = 3
MOST_WORDS = 2000  # of an error in a record
NOT_RUN = "no GPU here: the Triton kernels were not run, only their plain twins"


def bench_kernels(
    side: int,
    device: torch.device,
    *,
    kernels: Sequence[str] | None = None,
    rounds: int = 20,
    compiled: bool = True,
    check: bool = True,
) -> dict[str, Any]:
    """Time ``kernels`` (all unless given) as a fit at ``side``×``side`` in bfloat16 calls them.

    Samples are microseconds of a forward and, where there is one, a backward. ``compiled`` False leaves out the
    compiler's code, ``check`` False the comparison with float64. A variant that fails is recorded with its error.
    Raises MachineError on a GPU without triton, UsageError for a kernel that is none.
    """
    kernels = KERNELS if kernels is None else kernels
    unknown = [name for name in kernels if name not in KERNELS]
    if unknown:
        raise UsageError(f"--kernel should be of {', '.join(KERNELS)}, is {unknown[0]}")
    fused = device.type == "cuda"
    if fused and importlib.util.find_spec("triton") is None:
        raise MachineError("bench kernels: Triton's kernels need the package triton, which is not installed")
    verdicts = check_kernels(device, kernels) if fused and check else []
    wrong = {verdict["kernel"] for verdict in verdicts if not verdict["ok"]}
    cases = [case for case in all_cases(device, side) if case.kernel in kernels and case.kernel not in wrong]
    return {
        "benchmark": "kernels",
        "side": side,
        "machine": describe(device),
        "note": None if fused else NOT_RUN,
        "verdicts": verdicts,
        "cases": [_time_case(case, device, fused, compiled, rounds) for case in cases],
    }


def check_kernels(device: torch.device, kernels: Sequence[str] = KERNELS) -> list[dict[str, Any]]:
    """Every odd case of ``kernels`` against float64: the verdict, and why where it is bad."""
    return [_verdict(make, device) for make in odd_cases(device) if make(seed=0).kernel in kernels]


def _verdict(make: partial[Case], device: torch.device) -> dict[str, Any]:
    case = make(seed=0)
    about = {"kernel": case.kernel, "case": f"{case.label} {make.keywords['dtype']}".replace("torch.", "")}
    try:
        with _exact_products():
            rows = judge(make)
        synchronize(device)
    except Exception as error:
        return about | {"ok": False, "why": [f"{type(error).__name__}: {error}"[:MOST_WORDS]]}
    bad = [row for row in rows if not row["ok"]]
    shares = [row["largest"] / row["largest allowed"] for row in rows if row.get("largest allowed")]
    return about | {"ok": not bad, "why": bad, "worst share of what is allowed": max(shares, default=0.0)}


@contextmanager
def _exact_products() -> Iterator[None]:
    """TF32 off: the plain twin is float32 where it says so."""
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = False
    try:
        yield
    finally:
        for switch, allowed in zip(switches, before, strict=True):
            switch.allow_tf32 = allowed


def _time_case(case: Case, device: torch.device, fused: bool, compiled: bool, rounds: int) -> dict[str, Any]:
    functions: dict[str, Function] = {"triton": case.fused} if fused else {}
    functions["plain"] = case.plain
    if compiled:
        torch.compiler.reset()  # cases share code: none should count as another's recompilation
        functions["plain, compiled"] = torch.compile(case.plain, fullgraph=True, dynamic=False)
    runs, failed = {}, []
    for name, function in functions.items():
        try:
            runs[name] = _prepared(_call(case, function), device)
        except Exception as error:
            failed.append({"name": name, "error": f"{type(error).__name__}: {error}"[:MOST_WORDS]})
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(1e6 * _seconds(run, device))
    timed = [
        {"name": name, "us": [round(us, 3) for us in taken], "median_us": round(statistics.median(taken), 3)}
        for name, taken in samples.items()
    ]
    return {"case": case.name, "variants": timed + failed}


def _call(case: Case, function: Function) -> Callable[[], object]:
    """Forward and, where there are gradients, backward, on tensors of its own."""
    tensors = {name: t.detach().clone().requires_grad_(name in case.gradients) for name, t in case.tensors.items()}
    wanted = [tensors[name] for name in case.gradients]
    with torch.no_grad():
        seeds = [torch.ones_like(output) for output in case.plain(**tensors)]

    def call() -> object:
        outputs = function(**tensors)
        return torch.autograd.grad(outputs, wanted, seeds) if wanted else outputs

    return call


def _prepared(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """``call`` warmed up, and captured where the device can."""
    if device.type != "cuda":
        for _ in range(WARM_UP):
            call()
        return call
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type != "cuda":
        start = time.perf_counter()
        run()
        return time.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    run()
    end.record()
    synchronize(device)
    return begin.elapsed_time(end) / 1e3


def refuse_wrong(result: dict[str, Any]) -> None:
    """Raise DipfastError where a kernel is less exact than it may be."""
    wrong = [f"{verdict['kernel']} {verdict['case']}" for verdict in result["verdicts"] if not verdict["ok"]]
    if wrong:
        raise DipfastError(f"bench kernels: not exact enough: {', '.join(wrong)}")


def print_bench(result: dict[str, Any], console: Console) -> None:
    """The result as a table for a person."""
    from rich.table import Table

    title = f"kernels at {result['side']}×{result['side']} on {result['machine']['name']}"
    table = Table("case", "variant", "µs (median)", "min … max", title=title)
    for case in result["cases"]:
        for row in case["variants"]:
            if "error" in row:
                table.add_row(case["case"], row["name"], row["error"].splitlines()[0])
                continue
            spread = f"{min(row['us']):.1f} … {max(row['us']):.1f}"
            table.add_row(case["case"], row["name"], f"{row['median_us']:.1f}", spread)
    console.print(table)
    if result["note"]:
        console.print(result["note"])
