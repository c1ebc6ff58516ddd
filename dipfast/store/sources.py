"""What a run's folder holds of other sources: runs of other manifests, folders and images into the same folder.

What they have done stays done and listed, in `items.earlier.jsonl`, so that status, summary and report speak of all
that the folder holds. What they left undone is theirs to do: it leaves the list. No run writes over their pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from dipfast.errors import ItemError, UsageError
from dipfast.manifest import Item, Manifest, one_spelling
from dipfast.remote import is_remote
from dipfast.store.folder import RunFolder, dumps
from dipfast.store.index import Index
from dipfast.store.inputs import hash_of, path_of
from dipfast.store.rows import Entry, entries_before
from dipfast.text import count

NOTE = ".source.json"  # in the run's folder: what its lists of items are of, and what its resolved manifest is of


def source_of(manifest: Manifest, folder: RunFolder) -> str:
    """Return the source of a run: its file, folder or glob; for the folder's own manifest, the source of that."""
    source = manifest.source if is_remote(manifest.source) else str(Path(manifest.source).resolve())
    own = str((folder.root / "manifest.resolved.yaml").resolve())
    return (_noted(folder, "manifest") or source) if source == own else source


def note_source(folder: RunFolder, source: str, *, listed: bool = True) -> None:
    """Write the source of the folder's resolved manifest, and where it is ``listed``, of its lists. Raises OSError."""
    note = {"manifest": source, "lists": source if listed else _noted(folder, "lists")}
    if {name: _noted(folder, name) for name in note} != note:
        folder.put(NOTE, dumps(note))


def forget_source(folder: RunFolder) -> None:
    """Forget the source of the lists, which are of several now. Raises OSError."""
    (folder.root / NOTE).unlink(missing_ok=True)


def _noted(folder: RunFolder, name: str) -> str | None:
    try:
        source = json.loads(folder.read(NOTE))[name]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return source if isinstance(source, str) else None


class Before(NamedTuple):
    """What earlier runs listed in the folder: the last of them, and what is ``foreign`` to this run's source."""

    last: list[Entry]
    seen: list[Entry]  # all of them, the last run's at the end
    foreign: list[Entry]  # each with its source


def read_before(folder: RunFolder, source: str) -> Before:
    """Return what the folder lists, for a run of ``source``."""
    noted = _noted(folder, "lists")  # first: shards of one run may be writing lists and note, in this order
    last, earlier = entries_before(folder)
    foreign = [entry for entry in earlier if entry.get("source") != source]
    if noted != source:
        foreign += [{**entry, "source": noted} for entry in last]
    return Before(last, [*earlier, *last], foreign)


def check_free(foreign: Sequence[Entry], entries: Iterable[Entry], index: Index) -> None:
    """Raise UsageError where one of ``entries`` would write over a picture that another source has done.

    A file of the same bytes elsewhere is the same source: it was moved.
    """
    if not foreign:
        return
    mine = {one_spelling(entry["output"]): entry for entry in entries if entry["id"] is not None}
    taken = [old for old in foreign if _is_in_the_way(old, mine.get(one_spelling(old["output"])), index)]
    if taken:
        some = f"{count(len(taken), 'output')}, such as" if len(taken) > 1 else "its output"
        raise UsageError(
            f"{index.folder.root}: {some} images/{taken[0]['output']} would be written over that of another source, "
            f"{taken[0]['path']}; give another -o or output.template"
        )


def _is_in_the_way(old: Entry, new: Entry | None, index: Index) -> bool:
    if new is None or old["id"] is None or old["id"] == new["id"] or old["path"] == new["path"]:
        return False
    return not _has_bytes_of(old, new) and old["output"] in index.pictures(old["id"], (old["output"],))


def _has_bytes_of(old: Entry, new: Entry) -> bool:
    try:
        return old.get("sha256") == (new.get("sha256") or hash_of(path_of(new["path"])))
    except ItemError:
        return False


def kept_of(
    foreign: Sequence[Entry], named: Iterable[Item], entries: Iterable[Entry], folder: RunFolder
) -> tuple[list[Entry], int]:
    """Return those of ``foreign`` that are done and not ``named`` by this run's manifest, and how many are not done.

    ``entries`` are the run's own. An item of theirs that had another name, which is gone, is not listed twice.
    """
    if not foreign:
        return [], 0
    outputs, ids = {item.output for item in named}, {entry["id"] for entry in entries}
    kept: dict[str, Entry] = {}
    dropped = 0
    for old in foreign:
        id, output = old["id"], old["output"]
        if output in outputs or (id in ids and _is_gone(old["path"])):
            continue
        if id is not None and (folder.records / f"{id}.json").is_file():
            kept[output] = old
        else:
            dropped += 1
    return list(kept.values()), dropped


def _is_gone(path: str) -> bool:
    return not (is_remote(path) or os.path.lexists(path_of(path)))


def in_words(kept: Sequence[Entry], dropped: int, folder: RunFolder) -> str | None:
    """Return one line that says what of other sources is in ``folder``; None where that is nothing."""
    undone = f"{count(dropped, 'item')} of another source that {'was' if dropped == 1 else 'were'} not done"
    if not kept:
        return f"{folder.root}: no longer lists {undone}" if dropped else None
    stay = (
        "it stays, and summary and report show it" if len(kept) == 1 else "they stay, and summary and report show them"
    )
    said = f"{folder.root}: holds {count(len(kept), 'item')} of another source ({_some(kept)}); {stay} too"
    return f"{said}; no longer listed: {undone}" if dropped else said


def _some(kept: Sequence[Entry]) -> str:
    return str(kept[0]["path"]) + (f" and {len(kept) - 1} more" if len(kept) > 1 else "")
