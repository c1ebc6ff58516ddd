"""Two runs side by side, item by item, matched by the names of their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dipfast.batch.ledger import RunFolder
from dipfast.report.facts import facts

if TYPE_CHECKING:
    from dipfast.batch.run import Row


@dataclass(frozen=True)
class Pair:
    """One image in both runs: PSNR in dB and seconds, None where a run has none."""

    output: str
    psnr: float | None
    other_psnr: float | None
    seconds: float | None
    other_seconds: float | None

    @property
    def gain(self) -> float | None:
        """PSNR of this run above the other's, in dB."""
        return None if self.psnr is None or self.other_psnr is None else self.psnr - self.other_psnr

    @property
    def speedup(self) -> float | None:
        """How many times as fast this run was."""
        return self.other_seconds / self.seconds if self.seconds and self.other_seconds else None


@dataclass(frozen=True)
class Comparison:
    """``name`` and ``other``: the two runs. ``mean``: over the items that have the value in both."""

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
    psnr = [(pair.psnr, pair.other_psnr) for pair in pairs]
    seconds = [(pair.seconds, pair.other_seconds) for pair in pairs]
    return Pair("mean of both", *_means(psnr), *_means(seconds))


def _means(values: Sequence[tuple[float | None, float | None]]) -> tuple[float | None, float | None]:
    both = [(one, two) for one, two in values if one is not None and two is not None]
    if not both:
        return None, None
    return sum(one for one, _ in both) / len(both), sum(two for _, two in both) / len(both)
