"""What a step of the standard generator costs by arithmetic, for a device of given rates. Runs nothing.

    python bench/expect.py [--size N]... [--flops N] [--bandwidth N] [--precision NAME] [--json]

The model of operations and bytes is `dipfast/bench/arithmetic.py`, which `dipfast bench step` prints too.
"""

from __future__ import annotations

from typing import Annotated

import typer

from command import command_line, run
from dipfast.cli.options import AsJson, show
from dipfast.settings.choices import FitPrecision


def expect(
    size: Annotated[list[int] | None, typer.Option("--size", metavar="N", min=32, help="again for each")] = None,
    flops: Annotated[float, typer.Option(metavar="N", min=1, help="operations a second of the device")] = 790e12,
    bandwidth: Annotated[float, typer.Option(metavar="N", min=1, help="bytes a second of its memory")] = 4.3e12,
    precision: Annotated[FitPrecision, typer.Option(help="of activations")] = "bf16",
    as_json: AsJson = False,
) -> None:
    """Say what a step of the standard generator costs by arithmetic: operations, bytes, milliseconds. Runs nothing."""
    from dipfast.bench.arithmetic import expect as rows_of  # these load torch, for which a wrong option need not wait
    from dipfast.bench.arithmetic import print_expectations
    from dipfast.bench.step import STANDARD, itemsize_of

    rows = rows_of(STANDARD, size or [256, 512, 1024], flops, bandwidth, itemsize_of(precision))
    title = f"a step in {precision} at {flops / 1e12:.0f} TFLOP/s and {bandwidth / 1e12:.1f} TB/s"
    show(rows, as_json, lambda rows, console: print_expectations(rows, title, console))


app = command_line(expect)

if __name__ == "__main__":
    run(app)
