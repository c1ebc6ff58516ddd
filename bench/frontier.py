"""PSNR of the picture returned against steps, operations and seconds, for many settings, methods and networks.

    python bench/frontier.py PICTURE... [--contender SETTINGS]... [--damage KIND:VALUE]... [--crop N|--whole]
    [--help]

A fit stops by itself, and the truth is looked at from outside: the PSNR of what is returned, and the highest on the
trajectory, which may go on after the stop. Contenders are interleaved, case by case, and judged on the same damaged
pictures. NLM, BM3D and other authors' networks stand beside dipfast's settings for Gaussian noise.
"""

from __future__ import annotations

from command import Damages, Pictures, benchmark, run, say  # isort: skip  (before torch)

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from cases import SAMPLES, Case, make_case
from contenders import PRESETS, Contender, Peer, need_peers, parse_contender, parse_peer, run_one
from dipfast.bench.machine import describe
from dipfast.cli.options import json_text
from dipfast.errors import UsageError
from dipfast.files import write_atomic
from gallery import Gallery
from methods import METHODS
from plot import frontier_svg
from standings import join, print_standing, read_results, references, summarize
from tables import Row

CONTENDERS = (
    "again for each: [NAME: ]PRESET [KEY=VALUE ...]; faster-dip [KEY=VALUE ...]; nlm, bm3d, nlm+ridge, "
    "nlm+clipping, bm3d+clipping; original, deep-decoder, deep-random-projector, deepinv [steps=N] [channels=N], "
    "with --peer"
)
CROP = 128  # pixels
PEERS = "again for each: a checkout of another author's code"
EARLIER = "again for each: join what an earlier run saved, or printed with --json; alone it runs nothing"


def bench_frontier(
    contenders: Annotated[
        list[Contender] | None,
        typer.Option("--contender", metavar="SETTINGS", parser=parse_contender, help=CONTENDERS),
    ] = None,
    pictures: Pictures = None,
    damages: Damages = None,
    peers: Annotated[
        list[Peer] | None, typer.Option("--peer", metavar="NAME=DIR", parser=parse_peer, help=PEERS)
    ] = None,
    crop: Annotated[
        int | None,
        typer.Option(metavar="N", min=32, help=f"side of the square cut from the middle; {CROP} unless given"),
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="whole pictures, instead of a square from the middle")] = False,
    noise_seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of the damage")] = 1,
    weight_seeds: Annotated[int, typer.Option(metavar="N", min=1, help="seeds of the weights")] = 1,
    past_stop: Annotated[
        float, typer.Option(metavar="SHARE", min=0, help="of a fit's steps, after its stop, to look for its peak")
    ] = 0.5,
    earlier: Annotated[list[Path] | None, typer.Option("--with", metavar="FILE", help=EARLIER)] = None,
    save: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="keep what was measured so far there, after each fit; --with reads it"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="write a drawing of it, an SVG")] = None,
    keep: Annotated[
        Path | None,
        typer.Option("--pictures", metavar="DIR", help="write each picture returned, and sheets of them at 1:1"),
    ] = None,
) -> dict[str, Any]:
    """PSNR of what is returned against steps, operations and seconds, for many settings, methods and networks.

    What the first seeds return is kept as pictures. Raises UsageError for settings, a damage or a peer that are none,
    and for ``crop`` beside ``whole``.
    """
    if whole and crop is not None:
        raise UsageError(f"--crop {crop} and --whole exclude each other: give one of them")
    side = None if whole else crop or CROP
    before = read_results(earlier or [])
    if before and not contenders:
        side, pictures = before[0][1]["crop"], []
    fitted = contenders or ([] if before else [parse_contender(preset) for preset in PRESETS[:3]])
    checkouts, gallery = dict(peers or ()), None if keep is None else Gallery(keep)
    need_peers(fitted, checkouts)
    rows: list[Row] = []
    given = list(SAMPLES) if pictures is None else pictures
    asked = product(damages or ["gaussian:25"], given, range(noise_seeds))
    cases = ((make_case(picture, damage, side, seed), seed) for damage, picture, seed in asked)
    for case, contender, row, picture in _fits(cases, fitted, weight_seeds, past_stop, checkouts):
        rows.append(row)
        say(f"{case.name} {case.damage} {contender.name}: {row['psnr']:.2f} dB, {row['seconds']:.1f} s")
        if save is not None:
            write_atomic(save, json_text(_result(fitted, rows, side)).encode())
        if gallery is not None and row["noise_seed"] == row["weight_seed"] == 0:
            gallery.hang(case, contender.name, picture)
    result = _result(fitted, rows, side)
    if before:
        result = join(result, before)
    if plot is not None:
        plot.write_text(frontier_svg(result["summary"]), "utf-8")
    for file in gallery.lay_out() if gallery is not None else ():
        say(f"wrote {file}")
    return result


def _fits(
    cases: Iterable[tuple[Case, int]],
    contenders: Sequence[Contender],
    weight_seeds: int,
    past_stop: float,
    checkouts: Mapping[str, Path],
) -> Iterator[tuple[Case, Contender, Row, np.ndarray]]:
    """What each contender makes of each case, by case: a row, and the picture returned."""
    for case, noise_seed in cases:
        for contender in contenders:
            for seed in range(1 if contender.preset in METHODS else weight_seeds):
                found = run_one(contender, case, seed, past_stop, checkouts)
                if found is not None:
                    yield case, contender, found[0] | {"noise_seed": noise_seed, "weight_seed": seed}, found[1]


def _result(contenders: Sequence[Contender], rows: Sequence[dict[str, Any]], crop: int | None) -> dict[str, Any]:
    listed = [vars(contender) | {"sets": list(contender.sets)} for contender in contenders]  # as JSON has it
    return {
        "benchmark": "frontier",
        "crop": crop,
        "contenders": listed,
        "machine": describe(torch.device("cpu")),
        "rows": list(rows),
        "summary": summarize(rows, references(listed)),
    }


app = benchmark(bench_frontier, print_standing)

if __name__ == "__main__":
    run(app)
