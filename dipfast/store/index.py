"""The index of a run's folder: which records were found to hold, and what their files were like then.

A line names all files of an item with the stats at which their hashes were found right. The short record stands in a
file of its own, which is read where records are asked for: a run that finds all as it was asks for none. What many
records have in common (settings, and what ran) stands there once, under a key. A file with another stat is hashed
again; losing lines of the index costs time only.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

from dipfast.files import sha256_of, stays_inside
from dipfast.record import Record
from dipfast.store.file_stat import FileStat, FileStats, files_in, id_in, line_of
from dipfast.store.folder import RunFolder, append_line

SHORT_RECORDS = ".records.jsonl"  # how files with short records end
IN_COMMON = ("version", "settings", "ran")  # mostly the same in all records of a worker
DOUBTFUL = re.compile(
    r'\.\.|\\|"/|""' if os.name != "nt" else ""
)  # what a path that leads out of the folder would have in it


class Index:
    """The index of one run's folder. ``owner``: whose file new findings go to; None writes nothing."""

    def __init__(self, folder: RunFolder, owner: str | None = None) -> None:
        self.folder, self.owner = folder, owner
        self.stats = FileStats(str(folder.root))
        self.short_records: dict[str, str] = {}  # of an id its short record, of a key what records have in common
        self.short_records_read = False
        self.common: dict[str, dict[str, Any]] = {}  # parts of records that have been parsed, by key
        self.written: set[str] = set()  # keys of this owner's file
        self.added = 0  # findings that are new

    @cached_property
    def lines(self) -> dict[str, str]:
        """The line with the stats of its files, for each id."""
        return dict(self._read(of_records=False))

    def _read(self, of_records: bool) -> Iterator[tuple[str, str]]:
        """Return every line of the files of one kind, with the id or key that it begins with. The last one counts."""
        for path in sorted(self.folder.index.glob("*.jsonl")):
            if path.name.endswith(SHORT_RECORDS) == of_records:
                with suppress(OSError):
                    text = self.folder.read(f".index/{path.name}").decode(errors="replace")
                    yield from ((id_in(line), line) for line in text.split("\n"))

    def held(self, id: str) -> tuple[Record, set[str]] | None:
        """Return the short record of ``id`` and its pictures whose hashes hold; None without record or generator."""
        files = self._files(id)
        record = self._record(id) if files else None
        if record is not None and self._unchanged(files):
            return record, _pictures(files)
        return self._looked_at(id, files, record)

    def pictures(self, id: str, likely: Sequence[str] = ()) -> set[str]:
        """Return the pictures of ``id`` whose hashes hold, as `held` does, without the record where nothing changed.

        ``likely``: what it should have. Where it has just these, as they were, its line needs no parsing.
        """
        if likely and self._as_it_was(id, likely):
            return set(likely)
        files = self._files(id)
        if files and self._unchanged(files):
            return _pictures(files)
        held = self._looked_at(id, files, self._record(id))
        return set() if held is None else held[1]

    def row(self, id: str, likely: str) -> tuple[Record | Callable[[], Record | None], set[str]] | None:
        """Return what `held` does, with the record to be read when it is asked for, where nothing changed."""
        if self._as_it_was(id, (likely,)):
            return partial(self.record, id), {likely}
        files = self._files(id)
        if files and self._unchanged(files):
            return partial(self.record, id), _pictures(files)
        return self._looked_at(id, files, self._record(id))

    def record(self, id: str) -> Record | None:
        """Return the short record of ``id``, whatever became of its files; None where there is none."""
        found = self._record(id)
        if found is not None:
            return found
        whole = self.folder.record(id)
        return None if whole is None else whole.short()

    def _as_it_was(self, id: str, pictures: Sequence[str]) -> bool:
        """Return whether the line of ``id`` is what would be written now, if ``pictures`` are all that it has."""
        return id in self.lines and self.stats.match(self.lines[id], id, pictures)

    def _unchanged(self, files: Mapping[str, FileStat]) -> bool:
        return all(self.stats.of(path) == known for path, known in files.items())

    def _looked_at(self, id: str, files: dict[str, FileStat], record: Record | None) -> tuple[Record, set[str]] | None:
        """Return what `held` does where a file is new, changed or gone."""
        own = f"records/{id}.json"
        stat = self.stats.of(own)
        if stat is None:
            return None
        if record is None or files.get(own) != stat:
            whole = self.folder.record(id)
            if whole is None:
                return None
            files, record = {own: stat}, whole.short()
        known, vouched = dict(files), record.files
        intact = {path for path, digest in vouched.items() if self._is_intact(path, digest, known)}
        if not record.files_beside_pictures.keys() <= intact:
            return None
        if known != files and len(known) == 1 + len(intact) == 1 + len(vouched):
            self._write(id, {path: known[path] for path in (own, *vouched)}, record)
        return record, {path for path in record.pictures if f"images/{path}" in intact}

    def _files(self, id: str) -> dict[str, FileStat]:
        """Return the files of ``id`` as they were last found right; none where its line is not there, or torn."""
        line = self.lines.get(id, "")
        files = files_in(line)
        return {} if DOUBTFUL.search(line) and not all(map(stays_inside, files)) else files

    def _record(self, id: str) -> Record | None:
        """Return the short record of ``id``; None where a part of it is missing or torn."""
        if not self.short_records_read:
            self.short_records = dict(self._read(of_records=True)) | self.short_records
            self.short_records_read = True
        try:
            _, key, own = self.short_records.get(id, "").split("\t")
            if key not in self.common:
                self.common[key] = json.loads(self.short_records[key].partition("\t")[2])
            return Record.from_json({**self.common[key], **json.loads(own)})
        except (ValueError, KeyError, TypeError):
            return None

    def _is_intact(self, path: str, digest: str, known: dict[str, FileStat]) -> bool:
        stat = self.stats.of(path)
        if stat is None:
            known.pop(path, None)
            return False
        if known.get(path) == stat:
            return True
        known.pop(path, None)
        try:
            if sha256_of(f"{self.folder.root}/{path}") != digest:
                return False
        except OSError:
            return False
        known[path] = stat
        return True

    def _write(self, id: str, files: Mapping[str, FileStat], record: Record) -> None:
        common = json.dumps({name: record[name] for name in IN_COMMON if name in record})
        own = json.dumps({name: value for name, value in record.items() if name not in IN_COMMON})
        key = sha256(common.encode()).hexdigest()[:16]
        new = {} if key in self.written else {key: f"{json.dumps({'id': key})}\t{common}"}
        new[id] = f"{json.dumps({'id': id})}\t{key}\t{own}"
        self.lines[id] = line_of(id, files)
        self.short_records |= new
        self.added += 1
        if self.owner is not None:
            with suppress(OSError):  # the record comes first: a file's stats never stand beside an older one
                for line in new.values():
                    append_line(self.folder.at(f".index/{self.owner}{SHORT_RECORDS}"), line)
                append_line(self.folder.at(f".index/{self.owner}.jsonl"), self.lines[id])
                self.written.add(key)


def _pictures(files: Mapping[str, FileStat]) -> set[str]:
    return {path[7:] for path in files if path.startswith("images/")}
