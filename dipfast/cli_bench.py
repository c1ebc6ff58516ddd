"""The verbs of `dipfast bench`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dipfast.cli_options import AsJson, Engine, Precision, Preset, console, print_json
from dipfast.errors import UsageError

bench = typer.Typer(help="Measure: every number with its machine, versions and raw samples.", no_args_is_help=True)


class Optimizer(StrEnum):
    """What updates the weights."""

    ADAM = "adam"
    MUON = "muon"


def _device(name: str) -> str:
    from dipfast.manifest import settings_from

    return settings_from(None, None, {"device": name}, place="bench").fit.device


Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda:N", callback=_device, help="where it runs")]


@bench.command()
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
    if as_json:
        print_json(result)
    else:
        print_bench(result, console())


@bench.command()
def stop(
    pictures: Annotated[list[str] | None, typer.Argument(help="pictures; scikit-image's own unless given")] = None,
    damage: Annotated[
        list[str] | None,
        typer.Option("--damage", metavar="KIND:VALUE", help="again for each; gaussian:25 unless given"),
    ] = None,
    crop: Annotated[int, typer.Option(metavar="N", min=16, help="side of the square cut from the middle")] = 128,
    preset: Annotated[Preset, typer.Option(help="settings of the fit")] = Preset.BALANCED,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="steps of each trajectory")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="a key of the manifest: fit.optimizer.lr=0.02"),
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of damage and weights")] = 1,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")] = None,
    as_json: AsJson = False,
) -> None:
    """Follow fits with a known truth: every stop criterion and average on one trajectory."""
    import torch

    from dipfast.bench.cases import pictures as chosen
    from dipfast.bench.stop import bench_stop, print_bench
    from dipfast.fit import keep_freed_memory

    if crop % 32:
        raise UsageError(f"--crop should be a multiple of 32, is {crop}")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    result = bench_stop(
        chosen(pictures or []),
        damage or ["gaussian:25"],
        crop=crop,
        preset=preset,
        steps=steps,
        sets=set_ or [],
        seeds=range(seeds),
        say=lambda line: typer.echo(line, err=True),
    )
    if as_json:
        print_json(result)
    else:
        print_bench(result, console())
