"""The verbs of `dipfast bench`."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dipfast.cli.group import Group, Verb, examples
from dipfast.cli.options import AsJson, Engine, Precision, Preset, cohort_of, show
from dipfast.errors import UsageError

bench = typer.Typer(
    cls=Group,
    help="Measure: every number with its machine, versions and raw samples.",
    no_args_is_help=True,
    epilog=examples("dipfast bench image", "dipfast bench step --size 256 --threads 1"),
)


class Optimizer(StrEnum):
    """What updates the weights."""

    ADAM = "adam"
    MUON = "muon"


def _device(name: str) -> str:
    from dipfast.manifest import settings_from

    return settings_from(None, None, {"device": name}, place="bench").fit.device


Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", callback=_device, help="where it runs")]


@bench.command(
    cls=Verb,
    epilog=examples("dipfast bench step --size 256 --threads 1", "dipfast bench step --engine eager --engine compile"),
)
def step(
    size: Annotated[int, typer.Option(metavar="N", min=64, help="height and width of the picture")] = 256,
    engine: Annotated[list[Engine] | None, typer.Option("--engine", help="again for each; auto unless given")] = None,
    precision: Annotated[
        list[Precision] | None, typer.Option("--precision", help="again for each; auto unless given")
    ] = None,
    optimizer: Annotated[Optimizer, typer.Option(help="what updates the weights")] = Optimizer.ADAM,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="samples of each variant")] = 5,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="steps a sample")] = 3,
    peer: Annotated[Path | None, typer.Option(metavar="PATH", help="a checkout of the original code")] = None,
    as_json: AsJson = False,
) -> None:
    """Time one fit step of the standard generator, by engine and precision, interleaved."""
    import torch

    from dipfast.bench.step import bench_step, print_bench
    from dipfast.fit import keep_freed_memory

    if size % 32:
        raise UsageError(f"--size should be a multiple of 32, is {size}")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()  # as a worker does
    result = bench_step(
        size,
        engine or [Engine.AUTO],
        precision or [Precision.AUTO],
        device=device,
        optimizer=optimizer,
        rounds=rounds,
        steps=steps,
        peer=peer,
    )
    show(result, as_json, print_bench)


@bench.command(cls=Verb, epilog=examples("dipfast bench kernels", "dipfast bench kernels --json"))
def kernels(
    size: Annotated[int, typer.Option(metavar="N", min=16, help="height and width of the picture")] = 512,
    kernel: Annotated[
        list[str] | None, typer.Option("--kernel", metavar="NAME", help="again for each; all unless given")
    ] = None,
    device: Device = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="samples of each variant")] = 20,
    compiled: Annotated[bool, typer.Option("--compiled/--no-compiled", help="the compiler's code too")] = True,
    as_json: AsJson = False,
) -> None:
    """Check each Triton kernel against float64, then time it beside its plain twin, eager and compiled."""
    import torch

    from dipfast.bench.kernels import bench_kernels, print_bench, refuse_wrong
    from dipfast.bench.step import device_of

    if size % 2:
        raise UsageError(f"--size should be even, is {size}")
    if threads is not None:
        torch.set_num_threads(threads)
    result = bench_kernels(size, device_of(device), kernels=kernel or None, rounds=rounds, compiled=compiled)
    show(result, as_json, print_bench)
    refuse_wrong(result)


Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a key of the manifest: fit.optimizer.lr=0.02")
]


@bench.command(cls=Verb, epilog=examples("dipfast bench image", "dipfast bench image --json"))
def image(
    picture: Annotated[str, typer.Argument(help="a picture, or sample:NAME")] = "sample:astronaut",
    preset: Annotated[Preset, typer.Option(help="settings of the fit")] = Preset.BALANCED,
    sets: Sets = None,
    devices: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N")] = "auto",
    repeats: Annotated[int, typer.Option(metavar="N", min=0, help="fits behind the first one")] = 3,
    as_json: AsJson = False,
) -> None:
    """Seconds of one picture from file to file, by phase, cold and warm."""
    from dipfast.bench.image import bench_image, print_bench

    result = bench_image(picture, preset, sets or [], devices=devices, repeats=repeats)
    show(result, as_json, print_bench)


@bench.command("run", cls=Verb, epilog=examples("dipfast bench run --images 8 --workers 1", "dipfast bench run --json"))
def whole_run(
    images: Annotated[int, typer.Option(metavar="N", min=2, help="pictures, generated")] = 20,
    size: Annotated[int, typer.Option(metavar="N", min=1, help="their height and width")] = 64,
    preset: Annotated[Preset, typer.Option(help="settings of the fit")] = Preset.FAST,
    sets: Sets = None,
    devices: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N")] = "auto",
    workers: Annotated[int, typer.Option(metavar="N", min=1, help="processes on the CPU")] = 1,
    cohort: Annotated[
        list[str] | None, typer.Option("--cohort", metavar="auto|N", help="again for each; auto unless given")
    ] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="runs of each variant, in turn")] = 1,
    as_json: AsJson = False,
) -> None:
    """Seconds an image of a whole run, and what it costs around the steps: a folder of small pictures."""
    from dipfast.bench.run import bench_run, print_bench

    result = bench_run(
        images,
        size,
        preset,
        sets or [],
        devices=devices,
        workers=workers,
        cohorts=[cohort_of(text) for text in cohort or ["auto"]],
        rounds=rounds,
        say=lambda line: print(line, file=sys.stderr),
    )
    show(result, as_json, print_bench)


def _moved(context: typer.Context) -> None:
    name = context.info_name
    raise UsageError(f"dipfast bench {name} is now a script of dipfast's repository: python bench/{name}.py")


for _name in ("expect", "frontier", "stop"):  # whatever is given with them, --help too
    bench.command(
        _name,
        hidden=True,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )(_moved)
