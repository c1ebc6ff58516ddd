"""A run in which all is done, as its files were then: a line for each item, in the manifest's order.

A line has the item's input with its stamp, its output, the name of its settings, and its line of the index. A later run
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
from dipfast.store.file_stat import Stamp, Stamps, stamp_of
from dipfast.store.folder import ID, RunFolder, Shard, suffix
from dipfast.store.index import Index
from dipfast.store.inputs import path_of, stamp_at
from dipfast.store.rows import EARLIER, list_of, lists_beside


def done_before(folder: RunFolder, items: Sequence[Item], shard: Shard | None) -> list[str] | None:
    """The ids of all items, where every file is as it was when all were done; None otherwise."""
    ids = []
    with suppress(OSError), open_regular(folder.at(_name(shard)), follow=False) as file:
        lines = (line.decode(errors="surrogateescape").rstrip("\n") for line in file)
        if next(lines, None) != _head(folder, shard, len(items)):
            return None
        stamps, line_of = Stamps(str(folder.root)), _Writer()
        for item, line in zip(items, lines, strict=False):
            id = line[: line.find("\t")]
            if not ID.fullmatch(id) or item.mask is not None or item.reference is not None:
                return None
            files = line[line.rfind("\t") + 1 :]
            if line != line_of(item, id, stamp_at(path_of(item.path)), files):
                return None
            if not stamps.is_line(files, id, (item.output,)):
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
        found, stamp = index.stamped.get(entry["id"], ""), entry.get("stamp")
        alone = item.mask is None and item.reference is None and found.count('": [') in (3, 4)
        if not alone or stamp is None or "\n" in item.path:
            raise _NoLineError
        yield line_of(item, entry["id"], stamp, found)


class _NoLineError(Exception):
    """An item that has more, or less, to be looked at than a line says."""


class _Writer:
    """Makes lines of items."""

    def __init__(self) -> None:
        self.book = SettingsBook()

    def __call__(self, item: Item, id: str, stamp: Stamp | None, found: str) -> str:
        shared = self.book[item]
        return f"{id}\t{item.path}\t{stamp}\t{item.output}\t{shared.limits_name} {shared.rule_of(item)}\t{found}"


def _head(folder: RunFolder, shard: Shard | None, count: int) -> str:
    """What the snapshot begins with: the lists are as they were, and no other way of dividing the run is there."""
    other = lists_beside(folder, shard)
    stamps = [stamp_of(str(path), follow=False) for path in (list_of(folder, shard), folder.root / EARLIER)]
    return f"{count} items, listed {stamps} {len(other)}"


def _name(shard: Shard | None) -> str:
    return f".index/done{suffix(shard)}.txt"
