"""Rows of the frontier to one standing: means, what seeds do to them, and distances picture by picture.

Rows of earlier runs may join, since a whole comparison takes hours: where the crop, the damage, the picture and the
seed of its damage are the same.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cases import picture_name
from dipfast.errors import UsageError
from tables import SEEDS, Row, column, fill, grouped, key_of

AVERAGED = ("before", "psnr", "peak", "ssim", "steps", "flops", "seconds", "processor_seconds")
CASE = ("damage", "picture", "noise_seed")
FIT = (*CASE, "contender", "weight_seed")


def summarize(rows: Sequence[Row], references: Mapping[str, str] | None = None) -> list[Row]:
    """Means for each damage and contender, the spread of PSNR over seeds, distances to each of ``references``.

    ``references``: what a reference is called (`bm3d`, `original`), and the name of the contender that it is.
    """
    found = []
    for (damage,), here in grouped(rows, "damage").items():
        fits = grouped(here, "contender")
        for (name,), mine in fits.items():
            others = {word: fits.get((other,), []) for word, other in (references or {}).items() if other != name}
            against = {word: distance for word, theirs in others.items() if (distance := _distance(mine, theirs))}
            about = {"damage": damage, "contender": name, "pictures": len(grouped(mine, "picture"))}
            about |= {"pictures_of_all": len(grouped(here, "picture"))}
            found.append(about | _means(mine) | _spreads(mine) | {"fits": len(mine), "against": against})
    return found


def references(contenders: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """BM3D, and the original: its own loop or what was called so, else the preset `paper` as it is."""
    found: dict[str, str] = {}
    for row in contenders:
        if not row["sets"] and row["preset"] in ("paper", "bm3d"):
            found[row["preset"]] = row["name"]
        if "original" in (row["name"], row["preset"]):
            found["original"] = row["name"]
    words = {"bm3d": found.get("bm3d"), "original": found.get("original", found.get("paper"))}
    return {word: name for word, name in words.items() if name is not None}


def _means(rows: Sequence[Row]) -> dict[str, float]:
    columns = {key: column(rows, key) for key in AVERAGED}
    return {key: mean(values) for key, values in columns.items() if len(values) == len(rows)}


def _scores(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[float]]:
    return {key: column(group, "psnr") for key, group in grouped(rows, *keys).items()}


def _spreads(rows: Sequence[Row]) -> dict[str, float | None]:
    """Deviations of PSNR: of one picture over all its seeds, over those of the damage (of the mean over weights), over
    those of the weights alone; and of the mean over the pictures, from seeds to seeds.
    """
    weights, noises = _scores(rows, "picture", "noise_seed"), defaultdict(list)
    for (picture, _), values in weights.items():
        noises[picture].append(mean(values))
    return {
        "spread": _deviation(_scores(rows, "picture").values()),
        "spread_noise": _deviation(noises.values()),
        "spread_weights": _deviation(weights.values()),
        "spread_of_mean": _deviation([[mean(values) for values in _scores(rows, *SEEDS).values()]]),
    }


def _deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The mean of the groups' deviations, those of one value left out."""
    found = [stdev(values) for values in groups if len(values) > 1]
    return mean(found) if found else None


def _distance(mine: Sequence[Row], theirs: Sequence[Row]) -> Row | None:
    """PSNR less the reference's on the same damaged picture: the mean over the pictures both have, and the worst."""
    reference = _scores(theirs, *CASE)
    by_picture: dict[str, list[float]] = defaultdict(list)
    for case, values in _scores(mine, *CASE).items():
        if case in reference:
            by_picture[case[1]] += [value - mean(reference[case]) for value in values]
    if not by_picture:
        return None
    distances = {picture: mean(values) for picture, values in by_picture.items()}
    worst = min(distances, key=lambda picture: distances[picture])
    about = {"worst": distances[worst], "worst_picture": worst, "pictures": len(distances)}
    return {"mean": mean(distances.values())} | about


def read_results(files: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """What earlier runs printed, each with its file's name. Raises UsageError for a file that is none of it."""
    found = []
    for file in files:
        try:
            result = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"--with {file}: cannot be read ({error})") from None
        if not isinstance(result, dict) or result.get("benchmark") != "frontier":
            raise UsageError(f"--with {file}: should be what `python bench/frontier.py --json` printed")
        found.append((str(file), result))
    return found


def join(now: dict[str, Any], earlier: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """``now`` with the rows of ``earlier`` results (each with its file's name) of the cases that ``now`` has.

    Where ``now`` has no rows, all cases of ``earlier`` stand in the result. Raises UsageError for another crop, for a
    picture damaged otherwise, for a name that stands for two contenders.
    """
    rows, joined = list(now["rows"]), []
    contenders = {contender["name"]: contender for contender in now["contenders"]}
    cases = {key_of(row, CASE): row.get("case") for row in rows}
    only = set(cases) if rows else None
    for file, result in earlier:
        if result["crop"] != now["crop"]:
            sizes = ["whole" if one["crop"] is None else one["crop"] for one in (result, now)]
            raise UsageError(f"--with {file}: its crop is {sizes[0]}, should be {sizes[1]}")
        given = [row | {"picture": picture_name(row["picture"])} for row in result["rows"]]
        taken = [row for row in given if only is None or key_of(row, CASE) in only]
        for row in taken:
            digests = {row.get("case"), cases.setdefault(key_of(row, CASE), row.get("case"))}
            if len(digests - {None}) > 1:
                raise UsageError(
                    f"--with {file}: its {row['picture']} with {row['damage']} is another picture or damage"
                )
        unlisted = [{"name": name, "preset": name, "sets": []} for (name,) in grouped(taken, "contender")]
        for contender in result.get("contenders") or unlisted:
            if contenders.setdefault(contender["name"], contender) != contender:
                raise UsageError(f"--with {file}: {contender['name']} is another contender there")
        had = {key_of(row, FIT) for row in rows}
        rows += [row for row in taken if key_of(row, FIT) not in had]
        joined.append({"file": file, "machine": result["machine"], "left_out": len(given) - len(taken)})
    listed = list(contenders.values())
    return now | {"rows": rows, "contenders": listed, "joined": joined, "summary": summarize(rows, references(listed))}


def print_standing(result: dict[str, Any], console: Console) -> None:
    """The summary as a table for each damage."""
    crop = result["crop"]
    size = "of the whole size" if crop is None else f"at {crop}×{crop}"
    for (damage,), rows in grouped(result["summary"], "damage").items():
        console.print(_table(rows, f"{damage}, returned pictures {size}"))


def _table(rows: Sequence[Row], title: str) -> Table:
    words = [word for word in ("bm3d", "original") if any(word in row["against"] for row in rows)]
    partial = any(row["pictures"] < row["pictures_of_all"] for row in rows)
    forms = {"of all": "{pictures}/{pictures_of_all}"} if partial else {}
    forms |= {"PSNR ± seeds": "{psnr:.2f}{seeds}", "peak": "{peak:.2f}", "SSIM": "{ssim:.3f}"}
    for word in words:
        forms[f"to {word}: mean, worst"] = f"{{against[{word}][mean]:+.2f}}, {{against[{word}][worst]:+.2f}}"
    forms |= {"steps": "{steps:.0f}", "TFLOP": "{tera:.2f}"}
    forms |= {"wall s": "{seconds:.1f}", "cpu s": "{processor_seconds:.1f}"}
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", min_width=10, overflow="fold")
    for heading in forms:
        table.add_column(heading, justify="right", min_width=6)
    return fill(table, map(_shown, rows), ["{contender}", *forms.values()])


def _shown(row: Row) -> Row:
    tera = {"tera": row["flops"] / 1e12} if "flops" in row else {}
    return row | tera | {"seeds": "" if row["spread"] is None else f" ± {row['spread']:.2f}"}
