"""A run in which all is done, as its files were then: a line for each item, in the manifest's order.

A line has the item's input with its stat, its output, the name of its settings, and its line of the index. A later run
makes the lines anew, from the files as they are. Where all are the same, all is done: no list, no index and no record
is read, and one line is held at a time. At the first that differs the run looks at each item, as without a snapshot.

What it trusts is what `prepare` and `Index` trust, and it names no file that the manifest and the item's id do not.
Runs whose items share fits, or have masks, references, several generators or a mirror, are not known by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from dipfast.batch.prepare import Known, SettingsBook
from dipfast.files import open_regular, replacing
from dipfast.manifest import Item
from dipfast.record import ID
from dipfast.store.file_stat import FileStat, FileStats, files_in, stat_of
from dipfast.store.folder import RunFolder, Shard, suffix
from dipfast.store.index import Index
from dipfast.store.inputs import path_of, stat_at
from dipfast.store.rows import EARLIER, list_of, lists_beside


def done_before(folder: RunFolder, items: Sequence[Item], shard: Shard | None) -> list[str] | None:
    """Return the ids of all items, where every file is as it was when all were done; None otherwise."""
    ids = []
    with suppress(OSError), open_regular(folder.at(_name(shard)), follow=False) as file:
        lines = (line.decode(errors="surrogateescape").rstrip("\n") for line in file)
        if next(lines, None) != _head(folder, shard, len(items)):
            return None
        stats, line_of = FileStats(str(folder.root)), _Writer()
        for item, line in zip(items, lines, strict=False):
            id = line[: line.find("\t")]
            if not ID.fullmatch(id) or item.mask is not None or item.reference is not None:
                return None
            files = line[line.rfind("\t") + 1 :]
            if line != line_of(item, id, stat_at(path_of(item.path)), files):
                return None
            if not stats.match(files, id, (item.output,)):
                return None
            ids.append(id)
    return ids if len(ids) == len(items) else None


def keep(folder: RunFolder, items: Sequence[Item], entries: Sequence[Known], index: Index, shard: Shard | None) -> None:
    """Write the snapshot of a run whose ``entries`` are all done, as ``index`` saw their files."""
    with suppress(_NoLineError, OSError), replacing(folder.at(_name(shard))) as file:
        file.write(f"{_head(folder, shard, len(items))}\n".encode())
        for line in _lines(items, entries, index):
            file.write(f"{line}\n".encode("utf-8", "surrogateescape"))


def _lines(items: Sequence[Item], entries: Sequence[Known], index: Index) -> Iterator[str]:
    line_of = _Writer()
    for item, entry in zip(items, entries, strict=True):
        found, stat = index.lines.get(entry["id"], ""), entry.get("stamp")
        alone = item.mask is None and item.reference is None and len(files_in(found)) in (3, 4)
        if not alone or stat is None or "\n" in item.path:
            raise _NoLineError
        yield line_of(item, entry["id"], stat, found)


class _NoLineError(Exception):
    """An item that has more, or less, to be looked at than a line says."""


class _Writer:
    """Makes lines of items."""

    def __init__(self) -> None:
        self.book = SettingsBook()

    def __call__(self, item: Item, id: str, stat: FileStat | None, found: str) -> str:
        shared = self.book[item]
        return (
            f"{id}	{item.path}	{stat}	{item.output}	{shared.limits_name} {shared.rule_of(item)}	{found}"
        )


def _head(folder: RunFolder, shard: Shard | None, count: int) -> str:
    """Return what the snapshot begins with: the lists are as they were, and the run is divided in no other way."""
    other = lists_beside(folder, shard)
    stats = [stat_of(str(path), follow=False) for path in (list_of(folder, shard), folder.root / EARLIER)]
    return f"{count} items, listed {stats} {len(other)}"


def _name(shard: Shard | None) -> str:
    return f".index/done{suffix(shard)}.txt"
