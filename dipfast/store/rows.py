"""Every item of a run as it stands on disk.

`items.jsonl` maps every item to its content id, so that `status`, `report` and `retry` need neither the inputs nor the
manifest's own file. A run of a shard writes its own part, `items.1-of-2.jsonl`; all parts together are the run. What
earlier runs of other sources have done in the folder stands in `items.earlier.jsonl`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from dipfast.errors import DipfastError, UsageError
from dipfast.files import open_regular, stays_inside, write_atomic
from dipfast.manifest.yaml import collector_paused
from dipfast.record import ID, Record
from dipfast.store.folder import Event, RunFolder, Shard, failures, suffix
from dipfast.store.index import Index

EARLIER = "items.earlier.jsonl"
AT_ONCE = 10_000  # lines of a list
Entry = Mapping[str, Any]  # path, output, id, and what was seen of the input


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a run as it stands: done (with its short record), failed (with a reason), or pending.

    ``known``: the record, or what reads it: a million are not held at once. ``pixels``: of what is pending, its
    input's, where its header has been read.
    """

    path: str
    output: str
    id: str | None
    status: Literal["done", "failed", "pending"]
    known: Record | dict[str, Any] | Callable[[], Record | None] | None = None
    kind: str | None = None
    reason: str | None = None
    pixels: int | None = None

    @property
    def record(self) -> dict[str, Any] | None:
        """The short record as plain data, read anew each time."""
        known = self.known() if callable(self.known) else self.known
        return known.to_json() if isinstance(known, Record) else known


def done_rows(items: Iterable[tuple[str, str, str]], index: Index) -> list[Row]:
    """Return the rows of a run that found all done: it has just seen every file. ``items``: path, output and id."""
    with collector_paused():
        return [Row(path, output, id, "done", partial(index.record, id)) for path, output, id in items]


def rows_of(folder: RunFolder, entries: Iterable[Entry] | None = None, index: Index | None = None) -> list[Row]:
    """Return every item of the folder's last run, or of ``entries``. Raises UsageError where it holds no run."""
    with collector_paused():
        entries = read_entries(folder) if entries is None else entries
        failed, known = failures(folder), index or Index(folder)
        return [_row(entry, known, failed) for entry in entries]


def _row(entry: Entry, index: Index, failed: Mapping[str, Event]) -> Row:
    """Return the row of an item, which is done where it has a record whose hashes hold."""
    about = entry["path"], entry["output"], entry["id"]
    held = index.row(entry["id"], entry["output"]) if entry["id"] else None
    if held is not None and entry["output"] in held[1]:
        return Row(*about, "done", held[0])
    failure = failed.get(entry["id"] or entry["path"])
    if failure is not None:
        return Row(*about, "failed", kind=failure.get("kind"), reason=failure.get("reason"))
    record = None if held is None else Row(*about, "done", held[0]).record
    lost = record is not None and entry["output"] in record["output"]["paths"]
    reason = "its picture is gone or was changed" if lost else None
    return Row(*about, "pending", reason=reason, pixels=_pixels(entry.get("shape")))


def _pixels(shape: object) -> int | None:
    """Return the pixels of a picture of ``shape`` [C, H, W]; None for what is no shape."""
    if not (isinstance(shape, list) and len(shape) == 3 and all(type(side) is int and side > 0 for side in shape)):
        return None
    return int(shape[1] * shape[2])


def row_as_json(row: Row) -> dict[str, Any]:
    """Return a row without its record, for `status --json`."""
    return {name: getattr(row, name) for name in ("path", "output", "id", "status", "kind", "reason")}


def write_entries(
    folder: RunFolder, entries: Sequence[Entry], shard: Shard | None = None, before: Sequence[Entry] = ()
) -> None:
    """Write the items of a run, or of a shard, in place of those divided in another way. Raises OSError.

    Where they are as they were ``before``, in a list of the same name, nothing is written.
    """
    mine = list_of(folder, shard)
    if _parts(folder) == [mine] and entries == before:
        return
    write_atomic(mine, _lines(entries))
    for path in lists_beside(folder, shard):
        path.unlink(missing_ok=True)


def write_earlier(folder: RunFolder, entries: Sequence[Entry]) -> None:
    """Write what runs of other sources have done in the folder, where it is not written already. Raises OSError."""
    if not entries:
        (folder.root / EARLIER).unlink(missing_ok=True)
        return
    lines, there = _lines(entries), None
    with suppress(OSError):
        there = folder.read(EARLIER)
    if there != lines:
        folder.put(EARLIER, lines)


def _lines(entries: Sequence[Entry]) -> bytes:
    encode = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode
    return "".join(f"{encode(entry)}\n" for entry in entries).encode("utf-8", "backslashreplace")


def list_of(folder: RunFolder, shard: Shard | None) -> Path:
    """Return the list of a run's items, or of a shard's."""
    return folder.root / f"items{suffix(shard)}.jsonl"


def lists_beside(folder: RunFolder, shard: Shard | None) -> list[Path]:
    """Return the lists of runs that divided the items in another way."""
    others = [path for path in _parts(folder) if path != list_of(folder, shard)]
    return [path for path in others if shard is None or not path.name.endswith(f"-of-{shard[1]}.jsonl")]


def read_entries(folder: RunFolder, shard: Shard | None = None) -> Iterator[Entry]:
    """Return the items of the folder's last run, then what is done of other sources; or those of one shard.

    Raises UsageError where there is no list, DipfastError where one is damaged.
    """
    parts = _parts(folder) if shard is None else [list_of(folder, shard)]
    if not parts:
        planned = (folder.root / "manifest.resolved.yaml").is_file()  # as a submitted job's that waits
        found = "its run has not begun yet" if planned else "holds no run"
        raise UsageError(f"{folder.root}: {found} (it has no items.jsonl)")
    for path in parts:
        yield from _entries(path)
    if shard is None:
        yield from earlier_entries(folder)


def earlier_entries(folder: RunFolder) -> Iterator[Entry]:
    """Return what runs of other sources have done in the folder. Raises as `read_entries`."""
    if os.path.lexists(folder.root / EARLIER):
        yield from _entries(folder.root / EARLIER)


def _parts(folder: RunFolder) -> list[Path]:
    return sorted([*folder.root.glob("items.jsonl"), *folder.root.glob("items.*-of-*.jsonl")])


def _entries(path: Path) -> Iterator[Entry]:
    number = 0
    try:
        with open_regular(path, follow=False) as file:
            while lines := list(islice(file, AT_ONCE)):
                for entry in _parsed_together([line.rstrip(b"\r\n") for line in lines]):
                    number += 1
                    if not _is_entry(entry):
                        raise DipfastError(f"{path}:{number}: is damaged; run the manifest again")
                    yield entry
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _parsed_together(lines: list[bytes]) -> list[Any]:
    """Return what each of ``lines`` says: many at once share their keys, and cost less."""
    try:
        entries = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        entries = []
    return entries if len(entries) == len(lines) else [_parsed(line) for line in lines]


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    path, output, id = entry.get("path"), entry.get("output"), entry.get("id", 0)
    if not (isinstance(path, str) and isinstance(output, str) and stays_inside(output)):
        return False
    return id is None or (isinstance(id, str) and ID.fullmatch(id) is not None)


def entries_before(folder: RunFolder) -> tuple[list[Entry], list[Entry]]:
    """Return what the last run saw of each input, and earlier runs of other sources. A damaged list counts as none."""
    found: list[list[Entry]] = [[], []]
    with suppress(DipfastError):
        found[0] = [entry for path in _parts(folder) for entry in _entries(path)]
    with suppress(DipfastError):
        found[1] = list(earlier_entries(folder))
    return found[0], found[1]


def by_path(entries: Iterable[Entry]) -> dict[str, Entry]:
    """Return the entries of inputs that were read, by path."""
    return {entry["path"]: entry for entry in entries if entry["id"] is not None}
