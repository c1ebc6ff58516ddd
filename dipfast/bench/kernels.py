"""`dipfast bench kernels`: every fused kernel against its plain twin, eager and compiled, forward and backward.

A kernel is held against float64 first; one that is not exact enough is not timed. On a GPU every variant is captured
in a graph over several copies of its tensors, more than the caches hold, and the graphs take turns. On a CPU only the
plain twins run, and the result says so. This file and what it imports need torch, and triton on a GPU; rich to print.
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
from dipfast.bench.kernel_cases import Case, Function, all_cases, odd_cases
from dipfast.bench.machine import describe, synchronize
from dipfast.errors import DipfastError, MachineError, UsageError
from dipfast.kernels.choice import FUSED

if TYPE_CHECKING:
    from rich.console import Console

BEYOND_CACHES = 256 * 2**20  # bytes that the copies of a case's tensors take together
MOST_COPIES = 16
WARM_UP = 3
MOST_WORDS = 2000  # of an error in a record
NOT_RUN = "no GPU here: the fused kernels were not run, only their plain twins"


def bench_kernels(
    side: int,
    device: torch.device,
    *,
    kernels: Sequence[str] | None = None,
    rounds: int = 20,
    compiled: bool = True,
    check: bool = True,
    seconds: float | None = None,
) -> dict[str, Any]:
    """Time ``kernels`` (all unless given) as a fit at ``side``×``side`` in bfloat16 calls them.

    Samples are microseconds of a forward and a backward. ``compiled`` False leaves out the compiler's code, ``check``
    False the comparison with float64. Behind ``seconds``, what is left is named and left out. A variant that fails is
    recorded with its error. Raises MachineError on a GPU without triton, UsageError for a kernel that is none.
    """
    kernels = FUSED if kernels is None else kernels
    unknown = [name for name in kernels if name not in FUSED]
    if unknown:
        raise UsageError(f"--kernel should be of {', '.join(FUSED)}, is {unknown[0]}")
    start, fused = time.perf_counter(), device.type == "cuda"
    if fused and importlib.util.find_spec("triton") is None:
        raise MachineError("bench kernels: fused kernels need triton, which is not installed")
    verdicts = check_kernels(device, kernels) if fused and check else []
    wrong = {verdict["kernel"] for verdict in verdicts if not verdict["ok"]}
    copied = copy_rate(device)
    rows, left_out = [], []
    for case in all_cases(device, side):
        if case.kernel not in kernels or case.kernel in wrong:
            continue
        if seconds is not None and time.perf_counter() - start > seconds:
            left_out.append(case.name)
            continue
        rows.append(_time_case(case, device, fused, compiled, rounds, copied))
    return {
        "benchmark": "kernels",
        "side": side,
        "machine": describe(device),
        "copied_bytes_per_second": copied,
        "note": None if fused else NOT_RUN,
        "verdicts": verdicts,
        "cases": rows,
        "left_out": left_out,
    }


def check_kernels(device: torch.device, kernels: Sequence[str] = FUSED) -> list[dict[str, Any]]:
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


def _time_case(
    case: Case, device: torch.device, fused: bool, compiled: bool, rounds: int, copied: float
) -> dict[str, Any]:
    functions: dict[str, Function] = {"fused": case.fused} if fused else {}
    functions["eager"] = case.plain
    if compiled:
        torch.compiler.reset()  # cases share code: none should count as another's recompilation
        functions["compiled"] = torch.compile(case.plain, fullgraph=True, dynamic=False)
    copies = min(MOST_COPIES, max(1, -(-BEYOND_CACHES // case.bytes))) if fused else 1
    runs, failed = {}, []
    for name, function in functions.items():
        try:
            runs[name] = _prepared(case, function, copies, device)
        except Exception as error:
            failed.append({"name": name, "error": f"{type(error).__name__}: {error}"[:MOST_WORDS]})
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            samples[name].append(_seconds(run, device) / copies)
    timed = [_row(name, taken, case.bytes, copied) for name, taken in samples.items()]
    return {"case": case.name, "bytes": case.bytes, "copies": copies, "variants": timed + failed}


def _prepared(case: Case, function: Function, copies: int, device: torch.device) -> Callable[[], object]:
    """One call over every copy of the case's tensors, warmed up, and captured where the device can."""
    calls = [_call(case, function) for _ in range(copies)]

    def run() -> None:
        for call in calls:
            call()

    if device.type != "cuda":
        for _ in range(WARM_UP):
            run()
        return run
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def _call(case: Case, function: Function) -> Callable[[], object]:
    """Forward and, where there are gradients, backward, on tensors of its own."""
    tensors = {name: t.detach().clone().requires_grad_(name in case.gradients) for name, t in case.tensors.items()}
    wanted = [tensors[name] for name in case.gradients]
    with torch.no_grad():
        seeds = [torch.ones_like(output) for output in case.plain(**{k: t.clone() for k, t in tensors.items()})]

    def call() -> object:
        outputs = function(**tensors)
        pairs = [(o, s) for o, s in zip(outputs, seeds, strict=True) if o.requires_grad]
        return torch.autograd.grad([o for o, _ in pairs], wanted, [s for _, s in pairs]) if wanted else outputs

    return call


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


def copy_rate(device: torch.device) -> float:
    """Bytes read and written per second by a large copy: the median of five. The roof of every kernel here."""
    source = torch.ones(2**29 if device.type == "cuda" else 2**24, dtype=torch.int16, device=device)
    target = torch.empty_like(source)
    seconds = [_seconds(lambda: target.copy_(source), device) for _ in range(6)]
    return 2 * source.numel() * source.element_size() / statistics.median(seconds[1:])


def _row(name: str, samples: list[float], moved: int, copied: float) -> dict[str, Any]:
    median = statistics.median(samples)
    return {
        "name": name,
        "us": [round(1e6 * sample, 3) for sample in samples],
        "median_us": round(1e6 * median, 3),
        "bytes_per_second": moved / median,
        "share_of_copy": moved / median / copied,
    }


def refuse_wrong(result: dict[str, Any]) -> None:
    """Raise DipfastError where a kernel is less exact than it may be."""
    wrong = [f"{verdict['kernel']} {verdict['case']}" for verdict in result["verdicts"] if not verdict["ok"]]
    if wrong:
        raise DipfastError(f"bench kernels: not exact enough: {', '.join(wrong)}")


def print_bench(result: dict[str, Any], console: Console) -> None:
    """The result as a table for a person; bytes are the least that must move, whatever a variant moves."""
    from rich.table import Table

    machine, copied = result["machine"], result["copied_bytes_per_second"] / 1e9
    title = f"kernels at {result['side']}×{result['side']} on {machine['name']}; a copy moves {copied:.0f} GB/s"
    table = Table("case", "variant", "µs (median)", "min … max", "GB/s", "of a copy", title=title)
    for case in result["cases"]:
        for row in case["variants"]:
            if "error" in row:
                table.add_row(case["case"], row["name"], row["error"].splitlines()[0])
                continue
            spread = f"{min(row['us']):.1f} … {max(row['us']):.1f}"
            rate, share = f"{row['bytes_per_second'] / 1e9:.0f}", f"{row['share_of_copy']:.1%}"
            table.add_row(case["case"], row["name"], f"{row['median_us']:.1f}", spread, rate, share)
    console.print(table)
    for name in result["left_out"]:
        console.print(f"left out for want of time: {name}")
    if result["note"]:
        console.print(result["note"])
