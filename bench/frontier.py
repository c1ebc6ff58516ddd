"""`dipfast bench frontier`: PSNR of the picture returned against operations, steps and seconds, for many contenders.

A fit stops by itself, and the truth is looked at from outside: the PSNR of what is returned, and the highest on the
trajectory, which may go on behind the stop. Contenders are interleaved, case by case, and judged on the same damaged
pictures. NLM, BM3D and other authors' networks stand beside dipfast's settings for Gaussian noise.
"""

from __future__ import annotations

from command import Crop, Damages, Pictures, Threads, command_line, prepare, run, say  # isort: skip  (before torch)

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from cases import Case, make_case
from cases import pictures as chosen
from contenders import Contender, need_peers, parse_contender, parse_peer, run_one
from dipfast.bench.machine import describe
from dipfast.cli_options import AsJson, json_text, show
from dipfast.files import write_atomic
from gallery import Gallery
from methods import METHODS
from plot import frontier_svg
from standings import join, print_standing, read_results, references, summarize


def bench_frontier(
    contenders: Sequence[Contender],
    pictures: Sequence[str],
    damages: Sequence[str],
    *,
    crop: int,
    noise_seeds: int = 1,
    weight_seeds: int = 1,
    past_stop: float = 0.5,
    peers: Mapping[str, Path] | None = None,
    gallery: Gallery | None = None,
    save: Callable[[dict[str, Any]], None] = lambda result: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Every contender on every damaged picture. Raises UsageError for settings, a damage or a peer that are none.

    For its peak a trajectory is followed for a share of ``past_stop`` of its steps behind the stop. ``peers``:
    checkouts of rivals. What the first seeds return goes into the ``gallery``. The result so far is given to ``save``
    behind every row.
    """
    peers = peers or {}
    need_peers(contenders, peers)
    rows: list[dict[str, Any]] = []
    for case, noise_seed in _cases(pictures, damages, crop, noise_seeds):
        for contender in contenders:
            for weight_seed in range(1 if contender.preset in METHODS else weight_seeds):
                found = run_one(contender, case, weight_seed, past_stop, peers)
                if found is None:
                    continue
                row, picture = found
                rows.append(row | {"noise_seed": noise_seed, "weight_seed": weight_seed})
                say(f"{case.name} {case.damage} {contender.name}: {row['psnr']:.2f} dB, {row['seconds']:.1f} s")
                save(_result(contenders, rows, crop))
                if gallery is not None and noise_seed == weight_seed == 0:
                    gallery.hang(case, contender.name, picture)
    return _result(contenders, rows, crop)


def _result(contenders: Sequence[Contender], rows: Sequence[dict[str, Any]], crop: int) -> dict[str, Any]:
    listed = [vars(contender) | {"sets": list(contender.sets)} for contender in contenders]  # as JSON has it
    return {
        "benchmark": "frontier",
        "crop": crop,
        "contenders": listed,
        "machine": describe(torch.device("cpu")),
        "rows": list(rows),
        "summary": summarize(rows, references(listed)),
    }


def _cases(pictures: Sequence[str], damages: Sequence[str], crop: int, noise_seeds: int) -> Iterator[tuple[Case, int]]:
    for damage in damages:
        for picture in pictures:
            for noise_seed in range(noise_seeds):
                yield make_case(picture, damage, crop, noise_seed), noise_seed


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
        float, typer.Option(metavar="SHARE", min=0, help="of a fit's steps, after its stop, to look for its peak")
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
        typer.Option(metavar="FILE", help="keep what was measured so far there, after each fit; --with reads it"),
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
        say=say,
    )
    if before:
        result = join(result, before)
    if plot is not None:
        plot.write_text(frontier_svg(result["summary"]), "utf-8")
    for file in gallery.lay_out() if gallery is not None else ():
        say(f"wrote {file}")
    show(result, as_json, print_standing)


app = command_line(frontier)

if __name__ == "__main__":
    run(app)
