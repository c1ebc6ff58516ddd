"""Rows of `bench frontier` to one standing: means, what seeds do to them, and distances picture by picture.

Rows of earlier runs may join, since a whole comparison takes hours: where the crop, the damage, the picture and the
seed of its damage are the same.
"""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dipfast.bench.cases import picture_name
from dipfast.errors import UsageError

Row = dict[str, Any]
Key = tuple[str, str, int]  # damage, picture, seed of the damage

AVERAGED = ("before", "psnr", "peak", "ssim", "steps", "flops", "seconds", "processor_seconds")


def summarize(rows: Sequence[Row], references: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
    """Means for each damage and contender, the spread of PSNR over seeds, distances to each of ``references``.

    ``references``: what a reference is called (`bm3d`, `original`), and the name of the contender that it is.
    """
    found = []
    for damage in dict.fromkeys(row["damage"] for row in rows):
        here = [row for row in rows if row["damage"] == damage]
        for name in dict.fromkeys(row["contender"] for row in here):
            mine = [row for row in here if row["contender"] == name]
            against = {
                word: _distance(mine, [row for row in here if row["contender"] == other])
                for word, other in (references or {}).items()
                if other != name
            }
            places = len({row["picture"] for row in mine}), len({row["picture"] for row in here})
            about = {"damage": damage, "contender": name, "pictures": places[0], "pictures_of_all": places[1]}
            against = {word: distance for word, distance in against.items() if distance}
            found.append(about | _means(mine) | _spreads(mine) | {"fits": len(mine), "against": against})
    return found


def references(contenders: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """BM3D, and the original: its own loop or what was called so, else the preset `paper` as it is."""
    listed = list(contenders)
    named = {kind: row["name"] for kind in ("paper", "original", "bm3d") for row in listed if _is(row, kind)}
    original = named.get("original", named.get("paper"))
    return {word: name for word, name in (("bm3d", named.get("bm3d")), ("original", original)) if name is not None}


def _is(contender: Mapping[str, Any], kind: str) -> bool:
    if kind == "original" and "original" in (contender["name"], contender["preset"]):
        return True
    return bool(contender["preset"] == kind and not contender["sets"])


def _means(rows: Sequence[Row]) -> dict[str, float]:
    keys = [key for key in AVERAGED if all(row.get(key) is not None for row in rows)]
    return {key: statistics.mean(row[key] for row in rows) for key in keys}


def _spreads(rows: Sequence[Row]) -> dict[str, float | None]:
    """Deviations of PSNR: of one picture over all its seeds, over those of the damage (of the mean over weights), over
    those of the weights alone; and of the mean over the pictures, from seeds to seeds.
    """
    weights = _grouped(rows, "picture", "noise_seed")
    noises = defaultdict(list)
    for (picture, _), values in weights.items():
        noises[picture].append(statistics.mean(values))
    means = [statistics.mean(values) for values in _grouped(rows, "noise_seed", "weight_seed").values()]
    return {
        "spread": _deviation(_grouped(rows, "picture").values()),
        "spread_noise": _deviation(noises.values()),
        "spread_weights": _deviation(weights.values()),
        "spread_of_mean": _deviation([means]),
    }


def _grouped(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], list[float]]:
    groups: dict[tuple[Any, ...], list[float]] = defaultdict(list)
    for row in rows:
        groups[tuple(row.get(key, 0) for key in keys)].append(row["psnr"])
    return groups


def _deviation(groups: Iterable[Sequence[float]]) -> float | None:
    """The mean of the groups' deviations, those of one value left out."""
    found = [statistics.stdev(values) for values in groups if len(values) > 1]
    return statistics.mean(found) if found else None


def _distance(mine: Sequence[Row], theirs: Sequence[Row]) -> dict[str, Any] | None:
    """PSNR less the reference's on the same damaged picture: the mean over the pictures both have, and the worst."""
    reference = _grouped(theirs, "picture", "noise_seed")
    by_picture = defaultdict(list)
    for row in mine:
        there = reference.get((row["picture"], row.get("noise_seed", 0)))
        if there:
            by_picture[row["picture"]].append(row["psnr"] - statistics.mean(there))
    distances = {picture: statistics.mean(values) for picture, values in by_picture.items()}
    if not distances:
        return None
    worst = min(distances, key=lambda picture: distances[picture])
    return {
        "mean": statistics.mean(distances.values()),
        "worst": distances[worst],
        "worst_picture": worst,
        "pictures": len(distances),
    }


def read_results(files: Sequence[Path]) -> list[tuple[str, dict[str, Any]]]:
    """What earlier runs printed, each with its file's name. Raises UsageError for a file that is none of it."""
    found = []
    for file in files:
        try:
            result = json.loads(file.read_bytes())
        except (OSError, ValueError) as error:
            raise UsageError(f"--with {file}: cannot be read ({error})") from None
        if not isinstance(result, dict) or result.get("benchmark") != "frontier":
            raise UsageError(f"--with {file}: should be what `dipfast bench frontier --json` printed")
        found.append((str(file), result))
    return found


def join(now: dict[str, Any], earlier: Sequence[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """``now`` with the rows of ``earlier`` results (each with its file's name) of the cases that ``now`` has.

    Where ``now`` has no rows, all cases of ``earlier`` stand in the result. Raises UsageError for another crop, for a
    picture damaged otherwise, for a name that stands for two contenders.
    """
    rows, joined = list(now["rows"]), []
    contenders = {contender["name"]: contender for contender in now["contenders"]}
    cases = {_key(row): row.get("case") for row in rows}
    only = set(cases) if rows else None
    for file, result in earlier:
        if result["crop"] != now["crop"]:
            raise UsageError(f"--with {file}: its crop is {result['crop']}, should be {now['crop']}")
        given = [row | {"picture": picture_name(row["picture"])} for row in result["rows"]]
        taken = [row for row in given if only is None or _key(row) in only]
        for row in taken:
            if None not in (row.get("case"), cases.setdefault(_key(row), row.get("case"))):
                _agree(file, row, cases[_key(row)])
        for contender in result.get("contenders") or _named(taken):
            if contenders.setdefault(contender["name"], contender) != contender:
                raise UsageError(f"--with {file}: {contender['name']} is another contender there")
        had = {_identity(row) for row in rows}
        rows += [row for row in taken if _identity(row) not in had]
        joined.append({"file": file, "machine": result["machine"], "left_out": len(given) - len(taken)})
    listed = list(contenders.values())
    return now | {"rows": rows, "contenders": listed, "joined": joined, "summary": summarize(rows, references(listed))}


def _key(row: Row) -> Key:
    return row["damage"], row["picture"], row.get("noise_seed", 0)


def _identity(row: Row) -> tuple[Any, ...]:
    return (*_key(row), row["contender"], row.get("weight_seed", 0))


def _named(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The contenders of a result that does not list them, each taken for what it is called."""
    return [{"name": name, "preset": name, "sets": []} for name in dict.fromkeys(row["contender"] for row in rows)]


def _agree(file: str, row: Row, case: Any) -> None:
    if row["case"] != case:
        raise UsageError(f"--with {file}: its {row['picture']} with {row['damage']} is another picture or damage")


def print_standing(result: dict[str, Any], console: Console) -> None:
    """The summary as a table for each damage."""
    summary = result["summary"]
    for damage in dict.fromkeys(row["damage"] for row in summary):
        console.print(_table([row for row in summary if row["damage"] == damage], damage, result["crop"]))


def _table(rows: Sequence[Row], damage: str, crop: int) -> Table:
    words = [word for word in ("bm3d", "original") if any(word in row["against"] for row in rows)]
    titles = ("PSNR ± seeds", "peak", "SSIM", *(f"to {word}: mean, worst" for word in words))
    partial = any(row["pictures"] < row["pictures_of_all"] for row in rows)
    table = Table(title=f"{damage}, returned pictures at {crop}×{crop}", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("contender", min_width=10, overflow="fold")
    for title in (*(["of all"] if partial else []), *titles, "steps", "TFLOP", "wall s", "cpu s"):
        table.add_column(title, justify="right", min_width=6)
    for row in rows:
        spread = "" if row["spread"] is None else f" ± {row['spread']:.2f}"
        quality = f"{row['psnr']:.2f}{spread}", _cell(row, "peak", ".2f"), _cell(row, "ssim", ".3f")
        distances = (_apart(row["against"].get(word)) for word in words)
        tera = f"{row['flops'] / 1e12:.2f}" if "flops" in row else ""
        seconds = _cell(row, "seconds", ".1f"), _cell(row, "processor_seconds", ".1f")
        of_all = [f"{row['pictures']}/{row['pictures_of_all']}"] if partial else []
        table.add_row(row["contender"], *of_all, *quality, *distances, _cell(row, "steps", ".0f"), tera, *seconds)
    return table


def _cell(row: Mapping[str, Any], key: str, form: str) -> str:
    return format(row[key], form) if key in row else ""


def _apart(distance: Mapping[str, Any] | None) -> str:
    return "" if distance is None else f"{distance['mean']:+.2f}, {distance['worst']:+.2f}"
