"""What a run has done, on disk: append-only events, commit records, and the lock on a run's folder.

A record is written last and is what makes an item done; it names the hashes of the files that it vouches for. The
ledger tells the story, for people and for the reasons of failures; nothing is read from it that a record decides.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dipfast.errors import UsageError
from dipfast.files import sha256_of, write_atomic

Record = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, and its records and events."""

    root: Path

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

    @property
    def ledger(self) -> Path:
        return self.root / "ledger"

    def log(self, worker: str, event: str, **facts: Any) -> None:
        """Append one event to the worker's ledger, in one write: a crash can tear the last line only."""
        self.ledger.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"time": now(), "event": event, **facts}, ensure_ascii=False) + "\n"
        path = self.ledger / f"{worker}.jsonl"
        torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, (("\n" if torn else "") + line).encode("utf-8", "backslashreplace"))
        finally:
            os.close(descriptor)

    def events(self) -> Iterator[Record]:
        """Every event that can be read, oldest first. A torn line is passed over."""
        events = []
        for path in sorted(self.ledger.glob("*.jsonl")):
            for line in path.read_bytes().splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                if isinstance(event, dict) and "event" in event:
                    events.append(event)
        return iter(sorted(events, key=lambda event: event.get("time", "")))

    def commit(self, record: Record) -> None:
        """Write the record of an item whose files are all there. Raises OSError."""
        write_atomic(self.records / f"{record['id']}.json", dumps(record))

    def record(self, id: str) -> Record | None:
        """The record of ``id``, or None where there is none that can be read."""
        try:
            record = json.loads((self.records / f"{id}.json").read_bytes())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("id") == id else None

    def all_records(self) -> list[Record]:
        """Every readable record, in the order of the ids."""
        found = (self.record(path.stem) for path in sorted(self.records.glob("*.json")))
        return [record for record in found if record is not None]

    def holds(self, record: Record) -> bool:
        """Whether every file that ``record`` vouches for is there, with the hash that it names."""
        files = {f"images/{path}": record["output"]["sha256"] for path in record["output"]["paths"]}
        files[record["generator"]["path"]] = record["generator"]["sha256"]
        return all(_has_hash(self.root / path, digest) for path, digest in files.items())

    def lock(self) -> FileLock:
        """Take the folder for this process. Raises UsageError naming the process that has it."""
        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise UsageError(f"{self.root}: another run writes here ({self._owner()})") from None
        write_atomic(self.root / ".owner.json", dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        return lock

    def _owner(self) -> str:
        try:
            owner = json.loads((self.root / ".owner.json").read_bytes())
            return f"pid {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "its pid is unknown"


def failures(folder: RunFolder) -> dict[str, Record]:
    """The last failure of every id or path that failed and was not done since: id → event."""
    last: dict[str, Record] = {}
    for event in folder.events():
        key = event.get("id") or event.get("path")
        if key is None:
            continue
        if event["event"] in ("failed", "quarantined"):
            last[key] = event
        elif event["event"] in ("done", "claimed"):
            last.pop(key, None)
    return last


def dumps(value: Any) -> bytes:
    """JSON as this project writes it to files: indented, UTF-8, no NaN; odd bytes of file names as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def now() -> str:
    """UTC, to the millisecond, sortable as text."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _has_hash(path: Path, digest: str) -> bool:
    try:
        return sha256_of(path) == digest
    except OSError:
        return False
