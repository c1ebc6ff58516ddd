"""The verbs of `dipfast bench`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dipfast.cli_options import AsJson, Engine, Precision, Preset, cohort_of, console, json_text, print_json, show
from dipfast.errors import UsageError
from dipfast.files import write_atomic

bench = typer.Typer(help="Measure: every number with its machine, versions and raw samples.", no_args_is_help=True)


class Optimizer(StrEnum):
    """What updates the weights."""

    ADAM = "adam"
    MUON = "muon"


class Alone(StrEnum):
    """Stop criteria that need a fit of their own."""

    HELD_OUT = "held-out"
    SURE = "sure"
    NONE = "none"


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
    show(result, as_json, print_bench)


@bench.command()
def expect(
    size: Annotated[list[int] | None, typer.Option("--size", metavar="N", min=32, help="again for each")] = None,
    flops: Annotated[float, typer.Option(metavar="N", min=1, help="operations a second of the device")] = 790e12,
    bandwidth: Annotated[float, typer.Option(metavar="N", min=1, help="bytes a second of its memory")] = 4.3e12,
    precision: Annotated[Precision, typer.Option(help="of activations")] = Precision.BF16,
    as_json: AsJson = False,
) -> None:
    """Say what a step of the standard generator costs by arithmetic: operations, bytes, milliseconds. Runs nothing."""
    from dipfast.bench.expect import expect as rows_of
    from dipfast.bench.expect import print_expectations
    from dipfast.bench.step import STANDARD, itemsize_of

    rows = rows_of(STANDARD, size or [256, 512, 1024], flops, bandwidth, itemsize_of(precision))
    if as_json:
        print_json(rows)
    else:
        title = f"a step in {precision} at {flops / 1e12:.0f} TFLOP/s and {bandwidth / 1e12:.1f} TB/s"
        print_expectations(rows, title, console())


@bench.command()
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


Pictures = Annotated[list[str] | None, typer.Argument(help="pictures; scikit-image's own unless given")]
Damages = Annotated[
    list[str] | None, typer.Option("--damage", metavar="KIND:VALUE", help="again for each; gaussian:25 unless given")
]
Crop = Annotated[int, typer.Option(metavar="N", min=32, help="side of the square cut from the middle")]
Sets = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="a key of the manifest: fit.optimizer.lr=0.02")
]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")]


@bench.command()
def stop(
    pictures: Pictures = None,
    damage: Damages = None,
    crop: Crop = 128,
    preset: Annotated[Preset, typer.Option(help="settings of the fit")] = Preset.BALANCED,
    steps: Annotated[int | None, typer.Option(metavar="N", min=1, help="steps of each trajectory")] = None,
    sets: Sets = None,
    seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of damage and weights")] = 1,
    alone: Annotated[
        list[Alone] | None, typer.Option("--alone", help="criteria with a fit of their own; both unless given")
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Follow fits with a known truth: every stop criterion and average on one trajectory."""
    from dipfast.bench.cases import pictures as chosen
    from dipfast.bench.stop import bench_stop, print_bench

    prepare(threads)
    result = bench_stop(
        chosen(pictures or []),
        damage or ["gaussian:25"],
        crop=crop,
        preset=preset,
        steps=steps,
        sets=sets or [],
        seeds=range(seeds),
        alone=alone or [Alone.HELD_OUT, Alone.SURE],
        say=lambda line: typer.echo(line, err=True),
    )
    show(result, as_json, print_bench)


@bench.command()
def frontier(
    pictures: Pictures = None,
    contender: Annotated[
        list[str] | None,
        typer.Option(
            "--contender",
            metavar="SETTINGS",
            help="again for each: [NAME: ]PRESET [KEY=VALUE ...]; faster-dip [KEY=VALUE ...]; nlm, bm3d, nlm+clipping, "
            "bm3d+clipping; original, deep-decoder, deep-random-projector, deepinv [steps=N] [channels=N], with --peer",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option("--peer", metavar="NAME=DIR", help="again for each: a checkout of another author's code"),
    ] = None,
    damage: Damages = None,
    crop: Crop = 128,
    noise_seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of the damage")] = 1,
    weight_seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of the weights")] = 1,
    past_stop: Annotated[
        float, typer.Option(metavar="SHARE", min=0, help="of a fit's steps, behind its stop, to look for its peak")
    ] = 0.5,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            "--with",
            metavar="FILE",
            help="again for each: join what an earlier run saved, or printed with --json; alone it runs nothing",
        ),
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="keep what was measured so far there, behind each fit; --with reads it"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="write a drawing of it, an SVG")] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="write each picture returned, and sheets of them at 1:1"),
    ] = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """PSNR of what is returned against steps, operations and seconds, for many settings, methods and networks."""
    from dipfast.bench.cases import pictures as chosen
    from dipfast.bench.contenders import parse_contender, parse_peer
    from dipfast.bench.frontier import bench_frontier
    from dipfast.bench.gallery import Gallery
    from dipfast.bench.plot import frontier_svg
    from dipfast.bench.standings import join, print_standing, read_results

    prepare(threads)
    before = read_results(earlier or [])
    gallery = None if keep is None else Gallery(keep)
    texts = contender or ([] if before else ["fast", "balanced", "best"])
    result = bench_frontier(
        [parse_contender(text) for text in texts],
        chosen(pictures or []) if texts else [],
        damage or ["gaussian:25"],
        crop=crop if texts else before[0][1]["crop"],
        noise_seeds=noise_seeds,
        weight_seeds=weight_seeds,
        past_stop=past_stop,
        peers=dict(parse_peer(text) for text in peer or []),
        gallery=gallery,
        save=lambda so_far: None if save is None else write_atomic(save, json_text(so_far).encode()),
        say=lambda line: typer.echo(line, err=True),
    )
    if before:
        result = join(result, before)
    if plot is not None:
        plot.write_text(frontier_svg(result["summary"]))
    for file in gallery.lay_out() if gallery is not None else ():
        typer.echo(f"wrote {file}", err=True)
    show(result, as_json, print_standing)


def prepare(threads: int | None) -> None:
    """What every bench of whole fits begins with."""
    import torch

    from dipfast.fit import keep_freed_memory

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


@bench.command()
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


@bench.command("run")
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
        say=lambda line: typer.echo(line, err=True),
    )
    show(result, as_json, print_bench)
