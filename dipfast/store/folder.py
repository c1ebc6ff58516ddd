"""What a run has done, on disk: append-only events and commit records.

A record is written last and is what makes an item done; it names the hashes of the files that it vouches for. The
ledger tells the story, for people and for the reasons of failures; nothing is read from it that a record decides.

A folder may come from anyone. So the names that its files hold are checked, and every file in it is reached by `at`,
which follows no link.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipfast.files import open_regular, sha256_of, within, write_atomic
from dipfast.record import Record, now

Event = dict[str, Any]
Shard = tuple[int, int]  # part I of N, I from 1


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, and its records and events."""

    root: Path

    def at(self, path: str) -> Path:
        """Return the file at ``path`` in the folder. Raises OSError where '..' or a link would lead out of it."""
        return Path(within(self.root, path))

    def put(self, path: str, data: bytes) -> None:
        """Put ``data`` there in one step; a link of that name is replaced, not followed. Raises OSError."""
        write_atomic(self.at(path), data)

    def read(self, path: str) -> bytes:
        """Return the bytes of a regular file of the folder. Raises OSError for another, and for a link."""
        with open_regular(self.at(path), follow=False) as file:
            return file.read()

    @property
    def images(self) -> Path:
        return self.root / "images"

    @property
    def damaged(self) -> Path:
        """Inputs that a `degrade` section damaged: they exist nowhere else."""
        return self.root / "damaged"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def generators(self) -> Path:
        return self.root / "generators"

    def checkpoint(self, id: str) -> Path:
        """Return where the fit of item ``id`` is saved while it runs."""
        return self.root / "checkpoints" / f"{id}.safetensors"

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    @property
    def index(self) -> Path:
        return self.root / ".index"

    def log(self, worker: str, event: str, **facts: Any) -> None:
        """Append one event to the worker's ledger, in one write: a crash can tear the last line only."""
        line = json.dumps({"time": now(), "event": event, **facts}, ensure_ascii=False)
        append_line(self.at(f"ledger/{worker}.jsonl"), line)

    def events(self) -> Iterator[Event]:
        """Return every event that can be read, oldest first. A torn line is passed over."""
        events = [event for line in self._lines() if (event := _event(line)) is not None]
        return iter(sorted(events, key=lambda event: str(event.get("time"))))

    def _lines(self) -> Iterator[bytes]:
        for path in sorted(self.ledger.glob("*.jsonl")):
            with suppress(OSError):  # a link or a pipe is no ledger
                yield from self.read(f"ledger/{path.name}").splitlines()

    def commit(self, record: Mapping[str, Any]) -> None:
        """Write the record of an item whose files are all there. Raises OSError."""
        self.put(f"records/{record['id']}.json", dumps(dict(record)))

    def record(self, id: str) -> Record | None:
        """Return the record of ``id``; None where there is none that can be read."""
        try:
            record = Record.from_json(json.loads(self.read(f"records/{id}.json")))
        except (OSError, ValueError):
            return None
        return record if record is not None and record.id == id else None

    def forget(self, id: str) -> None:
        """Take back the record of an item that is to be fitted again. Raises OSError."""
        self.at(f"records/{id}.json").unlink(missing_ok=True)

    def all_records(self) -> list[Record]:
        """Return every readable record, in the order of the ids."""
        found = (self.record(path.stem) for path in sorted(self.records.glob("*.json")))
        return [record for record in found if record is not None]

    def holds(self, record: Record) -> bool:
        """Return whether every file that ``record`` vouches for is there, with the hash that it names."""
        return all(self._has_hash(path, digest) for path, digest in record.files.items())

    def _has_hash(self, path: str, digest: str) -> bool:
        try:
            return sha256_of(self.at(path), follow=False) == digest
        except OSError:
            return False


def suffix(shard: Shard | None) -> str:
    """Return what the files of a shard have in their names: ``.1-of-2``; nothing for a whole run."""
    return "" if shard is None else f".{shard[0]}-of-{shard[1]}"


def failures(folder: RunFolder) -> dict[str, Event]:
    """Return the last failure of every id or path that failed and was not done since: id or path → event."""
    if not any(_tells_failure(line) for line in folder._lines()):
        return {}
    last: dict[str, Event] = {}
    for event in folder.events():
        if event["event"] in ("failed", "quarantined"):
            last[event.get("id") or event.get("path") or ""] = event
        elif event["event"] == "done":
            last.pop(event.get("id") or "", None)
            last.pop(event.get("path") or "", None)
    return last


def _tells_failure(line: bytes) -> bool:
    return b'"event": "failed"' in line or b'"event": "quarantined"' in line


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(event, dict) and isinstance(event.get("event"), str)):
        return None
    words = (event.get(name) for name in ("id", "path", "kind", "reason"))
    return event if all(word is None or isinstance(word, str) for word in words) else None


def append_line(path: Path, line: str) -> None:
    """Append ``line`` in one write: a crash can tear the last line only, and no later one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
    data = (("\n" if torn else "") + line + "\n").encode("utf-8", "backslashreplace")
    no_link = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # and no pipe
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | no_link, 0o644)
    try:
        if os.write(descriptor, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def dumps(value: Any) -> bytes:
    """Return JSON as this project writes it to files: indented, UTF-8, no NaN; odd bytes of file names as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def _ends_with_newline(path: Path) -> bool:
    with open_regular(path, follow=False) as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
