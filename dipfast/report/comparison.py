"""Two runs side by side, item by item, matched by the names of their outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dipfast.report.facts import facts
from dipfast.store.folder import RunFolder
from dipfast.text import count, gain

if TYPE_CHECKING:
    from dipfast.store.rows import Row


@dataclass(frozen=True)
class Pair:
    """One image in both runs: PSNR in dB and seconds, None where a run has none. PSNR of equal pictures is infinite."""

    output: str
    psnr: float | None
    other_psnr: float | None
    seconds: float | None
    other_seconds: float | None

    @property
    def gain(self) -> float | None:
        """PSNR of this run above the other's, in dB."""
        return gain(self.other_psnr, self.psnr)

    @property
    def speedup(self) -> float | None:
        """How many times as fast this run was."""
        return self.other_seconds / self.seconds if self.seconds and self.other_seconds else None


@dataclass(frozen=True)
class Comparison:
    """``name`` and ``other``: the two runs. ``mean``: over the items that have a finite value in both."""

    name: str
    other: str
    pairs: list[Pair]
    mean: Pair


def compare_rows(folder: RunFolder, rows: Sequence[Row], other: RunFolder, other_rows: Sequence[Row]) -> Comparison:
    """What is done in either run, in this one's order, then what only the other has."""
    ours, theirs = _scores(rows), _scores(other_rows)
    nothing = (None, None)
    pairs = []
    for output in ours | theirs:
        (psnr, seconds), (other_psnr, other_seconds) = ours.get(output, nothing), theirs.get(output, nothing)
        pairs.append(Pair(output, psnr, other_psnr, seconds, other_seconds))
    return Comparison(*_names(folder, other), pairs, _mean(pairs))


def _scores(rows: Sequence[Row]) -> dict[str, tuple[float | None, float | None]]:
    known = [facts(row) for row in rows if row.status == "done"]
    return {item["output"]: (item["psnr"], item["seconds"]) for item in known}


def _names(folder: RunFolder, other: RunFolder) -> tuple[str, str]:
    """The folders' names, or their paths where those are the same."""
    paths = folder.root.resolve(), other.root.resolve()
    if paths[0].name == paths[1].name:
        return str(paths[0]), str(paths[1])
    return paths[0].name, paths[1].name


def _mean(pairs: Sequence[Pair]) -> Pair:
    both = [(pair.psnr, pair.other_psnr) for pair in pairs if pair.psnr is not None and pair.other_psnr is not None]
    finite = [values for values in both if not any(map(math.isinf, values))]
    seconds = [(pair.seconds, pair.other_seconds) for pair in pairs]
    known = [(one, two) for one, two in seconds if one is not None and two is not None]
    return Pair(_name_of_mean(len(finite), len(both)), *_means(finite), *_means(known))


def _name_of_mean(finite: int, both: int) -> str:
    if finite == both:
        return "mean of both"
    identical = f"{both - finite} identical"
    return (
        f"mean of both, of {count(finite, 'image')}, and {identical}" if finite else f"mean of both; PSNR: {identical}"
    )


def _means(values: Sequence[tuple[float, float]]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    return sum(one for one, _ in values) / len(values), sum(two for _, two in values) / len(values)
