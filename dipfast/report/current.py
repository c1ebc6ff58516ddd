"""Whether a run's summary and report are those of the run as it stands, so that they need not be written again.

They follow from the list of items, the ledger and the records. Instead of a million records it looks at the index,
which has a line for each that was written or found right. Size and time of these few files are kept beside the index.
A run that finds nothing to do changes none of them.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dipfast.report.summary import print_summary, summarize
from dipfast.store.file_stat import stat_of
from dipfast.store.folder import RunFolder, dumps

if TYPE_CHECKING:
    from dipfast.store.rows import Row

NOTE = ".index/reported.json"
SOURCES = ("items*.jsonl", "ledger/*.jsonl", ".index/*.jsonl")
PRODUCTS = ("summary.json", "results.csv", "report.md", "report.html")


def note_current(folder: RunFolder) -> None:
    """Remember what the summary and the report, which have just been written, follow from."""
    with suppress(OSError):
        folder.put(NOTE, dumps(_state(folder)))


def current_summary(folder: RunFolder, html: bool) -> dict[str, Any] | None:
    """The summary, where it and all products are as they were written, and nothing changed that they follow from."""
    try:
        known = json.loads(folder.read(NOTE))
        summary = json.loads(folder.read("summary.json"))
    except (OSError, ValueError):
        return None
    state = _state(folder)
    wanted = PRODUCTS if html else PRODUCTS[:-1]
    whole = known == state and all(state["products"].get(name) for name in wanted)
    return summary if whole and _prints(summary) else None


def summary_of(folder: RunFolder, rows: Sequence[Row]) -> dict[str, Any]:
    """The summary of a run that stands as ``rows`` say: the one that was written with its report, where that holds.

    Whoever made the rows has looked at every file. No record is read where what was counted is as it was.
    """
    states = Counter(row.status for row in rows)
    known = current_summary(folder, html=False)
    if known is not None and all(known[state] == states[state] for state in ("done", "failed", "pending")):
        return known
    return summarize(rows)


def _prints(summary: Any) -> bool:
    """Whether it is a summary at all: a run's folder may come from anyone, with stats to match."""
    try:
        print_summary(summary, Console(file=io.StringIO()))
    except (AttributeError, LookupError, TypeError, ValueError):
        return False
    return True


def _state(folder: RunFolder) -> dict[str, Any]:
    sources = sorted(path for pattern in SOURCES for path in folder.root.glob(pattern))
    return {
        "dipfast": version("dipfast"),
        "sources": {path.relative_to(folder.root).as_posix(): stat_of(str(path), follow=False) for path in sources},
        "products": {name: stat_of(f"{folder.root}/{name}", follow=False) for name in PRODUCTS},
    }
