"""`dipfast bench frontier`: PSNR of the picture returned against operations, steps and seconds, for many contenders.

A fit stops by itself, and the truth is looked at from outside: the PSNR of what is returned, and the highest on the
trajectory, which may go on behind the stop. Contenders are interleaved, case by case, and judged on the same damaged
pictures. NLM, BM3D and other authors' networks stand beside dipfast's settings for Gaussian noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dipfast.bench.cases import Case, make_case
from dipfast.bench.contenders import Contender, need_peers, run_one
from dipfast.bench.gallery import Gallery
from dipfast.bench.machine import describe
from dipfast.bench.methods import METHODS
from dipfast.bench.standings import references, summarize


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
