"""What is known of a run's files without reading them: which records were found to hold, and when that was seen.

A line names an item's files, with the size and the modification time at which their hashes were last found right;
behind a tab stands the record without its bulk. A file with another size or time is hashed again; losing the index
costs time only. It does not know of a file changed behind an unchanged size and modification time.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress

from dipfast.batch.ledger import Record, RunFolder, append_line, files_of, is_record, posterior_files
from dipfast.files import sha256_of, stays_inside, within

Stamp = list[int]  # size in bytes, modification time in nanoseconds
BULK = ("losses", "stop_curve")
SETTINGS = ("task", "preset", "degrade")  # that a brief record keeps


class Index:
    """The index of one run's folder. ``owner``: whose file new findings go to; None writes nothing."""

    def __init__(self, folder: RunFolder, owner: str | None = None) -> None:
        self.folder, self.owner = folder, owner
        self.root = str(folder.root)
        self.lines: dict[str, bytes] = {}
        self.sound: dict[str, bool] = {}  # folder → whether no link leads to it
        for path in sorted(folder.index.glob("*.jsonl")):
            with suppress(OSError):
                self._learn(folder.read(f".index/{path.name}"))

    def _learn(self, data: bytes) -> None:
        for line in data.splitlines():
            self.lines[line[8 : line.find(b'"', 8)].decode(errors="replace")] = line

    def held(self, id: str) -> tuple[Record, set[str]] | None:
        """The brief record of ``id`` and those of its pictures whose hashes hold; None without record or generator."""
        own = f"records/{id}.json"
        stamp = self._stamp(own)
        if stamp is None:
            return None
        files, record = self._entry(id)
        if record is None or files.get(own) != stamp:
            record = self.folder.record(id)
            if record is None:
                return None
            files, record = {own: stamp}, brief(record)
        known = dict(files)
        intact = {path for path, digest in files_of(record).items() if self._is_intact(path, digest, known)}
        if known != files:
            self._write(id, known, record)
        if not {record["generator"]["path"], *posterior_files(record)} <= intact:
            return None
        return record, {path for path in record["output"]["paths"] if f"images/{path}" in intact}

    def pictures(self, id: str) -> set[str]:
        """The pictures of ``id`` whose hashes hold: what `held` finds, without the record where nothing changed."""
        files = self._files(self.lines.get(id, b"").partition(b"\t")[0])
        if files and all(self._stamp(path) == stamp for path, stamp in files.items()):
            return {path.removeprefix("images/") for path in files if path.startswith("images/")}
        held = self.held(id)
        return set() if held is None else held[1]

    def _entry(self, id: str) -> tuple[dict[str, Stamp], Record | None]:
        files, _, text = self.lines.get(id, b"").partition(b"\t")
        try:
            record = json.loads(text)
        except ValueError:  # torn, or not there
            return {}, None
        return self._files(files), record if is_record(record) else None

    def _files(self, text: bytes) -> dict[str, Stamp]:
        try:
            files = json.loads(text)["files"]
        except (ValueError, KeyError, TypeError):
            return {}
        return files if isinstance(files, dict) and all(map(stays_inside, files)) else {}

    def _is_intact(self, path: str, digest: str, known: dict[str, Stamp]) -> bool:
        stamp = self._stamp(path)
        if stamp is None:
            known.pop(path, None)
            return False
        if known.get(path) == stamp:
            return True
        known.pop(path, None)
        try:
            if sha256_of(f"{self.root}/{path}") != digest:
                return False
        except OSError:
            return False
        known[path] = stamp
        return True

    def _stamp(self, path: str) -> Stamp | None:
        """Of a file that is one of the run's own: no link, and not behind one."""
        folder = path.rpartition("/")[0]
        if folder not in self.sound:
            self.sound[folder] = self._is_sound(path)
        return stamp_of(f"{self.root}/{path}", follow=False) if self.sound[folder] else None

    def _is_sound(self, path: str) -> bool:
        try:
            within(self.root, path)
        except OSError:
            return False
        return True

    def _write(self, id: str, files: dict[str, Stamp], record: Record) -> None:
        line = json.dumps({"id": id, "files": files}) + "\t" + json.dumps(record)
        self.lines[id] = line.encode()
        if self.owner is not None:
            with suppress(OSError):
                append_line(self.folder.at(f".index/{self.owner}.jsonl"), line)


def stamp_of(path: str, *, follow: bool = True) -> Stamp | None:
    """Size and modification time of a file; None where there is none, and without ``follow`` for a link."""
    try:
        found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - a million times
    except (OSError, ValueError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns]


def brief(record: Record) -> Record:
    """The record without what only its own page needs."""
    short = {key: value for key, value in record.items() if key not in BULK}
    settings = record.get("settings")
    if isinstance(settings, dict):
        short["settings"] = {key: settings[key] for key in SETTINGS if key in settings}
    return short
