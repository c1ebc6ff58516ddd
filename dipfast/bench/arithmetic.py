"""What a step costs by arithmetic alone: operations, bytes, and the time that they allow.

Operations are those of the convolutions, forward and backward. Bytes are a model: so many passes over what every
convolution gives, and over every upsampled and joined tensor, for the step as it is written, as a compiler fuses it
(one kernel for statistics, one for what follows; no convolution fused), and as it would be with everything fused into
the convolutions' prologues and epilogues. Caches are left out, so that small sizes do better. Convolutions and the
rest run one after the other, hence the sum; the larger of the two is what no step can beat.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dipfast.generators.architecture import architecture_of
from dipfast.generators.cost import forward_flops, tensor_elements
from dipfast.settings.generator import SkipGenerator

if TYPE_CHECKING:
    from rich.console import Console

# Passes over the convolutions' outputs and over the joined tensors, reads and writes, forward and backward.
# As written, forward: convolve 1, statistics 1, normalise 2, activate 2, pad 2, read by the next 1; backward: gradient
# of the input 2, of the weights 2, pad 2, activation 3, normalisation's sums 2 and itself 3, gradients added 2.
PASSES = {"eager": (25, 22), "compiled": (14, 13), "fused": (9, 1)}


def step_flops(generator: SkipGenerator, side: int) -> float:
    """Return the operations of one step at ``side``×``side``; the backward counts twice the forward."""
    return 3 * forward_flops(architecture_of(generator, 3), side * side)


def step_bytes(generator: SkipGenerator, side: int, itemsize: int) -> dict[str, float]:
    """Return the bytes that one step at ``side``×``side`` moves, by how much is fused."""
    outputs, joined = tensor_elements(architecture_of(generator, 3), side * side)
    return {kind: itemsize * (a * outputs + b * joined) for kind, (a, b) in PASSES.items()}


def expect(
    generator: SkipGenerator, sides: Sequence[int], flops_rate: float, byte_rate: float, itemsize: int
) -> list[dict[str, Any]]:
    """Return a row for each side. Rates are in operations and bytes a second, times in milliseconds."""
    return [_row(generator, side, flops_rate, byte_rate, itemsize) for side in sides]


def _row(generator: SkipGenerator, side: int, flops_rate: float, byte_rate: float, itemsize: int) -> dict[str, Any]:
    flops, moved = step_flops(generator, side), step_bytes(generator, side, itemsize)
    compute = 1e3 * flops / flops_rate
    transfer = {kind: 1e3 * count / byte_rate for kind, count in moved.items()}
    return {
        "size": side,
        "flops": flops,
        "bytes": moved,
        "compute_ms": compute,
        "transfer_ms": transfer,
        "sum_ms": {kind: compute + ms for kind, ms in transfer.items()},
        "floor_ms": max(compute, transfer["fused"]),
    }


def print_expectations(rows: Sequence[dict[str, Any]], title: str, console: Console) -> None:
    """Print a line for each size: operations and their time, and for each way to run it bytes and the sum."""
    from rich.table import Table

    table = Table("size", "GFLOP", "ms", *(f"{kind}: GB, ms" for kind in PASSES), "floor ms", title=title)
    for row in rows:
        ways = (f"{row['bytes'][kind] / 1e9:.2f}, {row['sum_ms'][kind]:.2f}" for kind in PASSES)
        compute = f"{row['flops'] / 1e9:.0f}", f"{row['compute_ms']:.2f}"
        table.add_row(str(row["size"]), *compute, *ways, f"{row['floor_ms']:.2f}")
    console.print(table)
