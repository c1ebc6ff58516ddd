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
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from dipfast.files import open_regular, sha256_of, stays_inside, within, write_atomic

ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")  # a plain name: files are called by it
Record = dict[str, Any]
Shard = tuple[int, int]  # part I of N, I from 1
FURTHER = ("samples", "checkpoints", "seeds")  # further generators of one item, in its record's `generator`


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run, and its records and events."""

    root: Path

    def at(self, path: str) -> Path:
        """The file at ``path`` in the folder. Raises OSError where '..' or a linked folder would lead out of it."""
        return Path(within(self.root, path))

    def put(self, path: str, data: bytes) -> None:
        """Put ``data`` there in one step; a link of that name is replaced, not followed. Raises OSError."""
        write_atomic(self.at(path), data)

    def read(self, path: str) -> bytes:
        """The bytes of a regular file of the folder. Raises OSError for another, and for a link."""
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
        """Where the fit of item ``id`` is saved while it runs."""
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

    def events(self) -> Iterator[Record]:
        """Every event that can be read, oldest first. A torn line is passed over."""
        events = [event for line in self._lines() if (event := _event(line)) is not None]
        return iter(sorted(events, key=lambda event: str(event.get("time"))))

    def _lines(self) -> Iterator[bytes]:
        for path in sorted(self.ledger.glob("*.jsonl")):
            with suppress(OSError):  # a link or a pipe is no ledger
                yield from self.read(f"ledger/{path.name}").splitlines()

    def commit(self, record: Record) -> None:
        """Write the record of an item whose files are all there. Raises OSError."""
        self.put(f"records/{record['id']}.json", dumps(record))

    def record(self, id: str) -> Record | None:
        """The record of ``id``, or None where there is none that can be read."""
        try:
            record = json.loads(self.read(f"records/{id}.json"))
        except (OSError, ValueError):
            return None
        return record if is_record(record) and record["id"] == id else None

    def forget(self, id: str) -> None:
        """Take back the record of an item that is to be fitted again. Raises OSError."""
        self.at(f"records/{id}.json").unlink(missing_ok=True)

    def all_records(self) -> list[Record]:
        """Every readable record, in the order of the ids."""
        found = (self.record(path.stem) for path in sorted(self.records.glob("*.json")))
        return [record for record in found if record is not None]

    def holds(self, record: Record) -> bool:
        """Whether every file that ``record`` vouches for is there, with the hash that it names."""
        return all(self._has_hash(path, digest) for path, digest in files_of(record).items())

    def _has_hash(self, path: str, digest: str) -> bool:
        try:
            return sha256_of(self.at(path), follow=False) == digest
        except OSError:
            return False


def suffix(shard: Shard | None) -> str:
    """What the files of a shard have in their names: ``.1-of-2``; nothing for a whole run."""
    return "" if shard is None else f".{shard[0]}-of-{shard[1]}"


def files_of(record: Record) -> dict[str, str]:
    """The files that ``record`` vouches for, from the run's folder, and their SHA-256."""
    pictures = {f"images/{path}": record["output"]["sha256"] for path in record["output"]["paths"]}
    return pictures | {record["generator"]["path"]: record["generator"]["sha256"]} | posterior_files(record)


def posterior_files(record: Record) -> dict[str, str]:
    """Of the files that ``record`` vouches for, the map of deviations and further generators, where there are."""
    parts = [record["output"].get("uncertainty")]
    parts += [part for kind in FURTHER for part in record["generator"].get(kind, ())]
    return {part["path"]: part["sha256"] for part in parts if part}


def damaged_of(output: str) -> str:
    """Where the damaged input of the picture ``output`` lies, from the run's folder: always a PNG."""
    return Path("damaged", output).with_suffix(".png").as_posix()


def uncertainty_of(output: str) -> str:
    """Where the map of deviations of the picture ``output`` lies, from the run's folder: a PNG of that name."""
    return f"uncertainty/{output}" if output.lower().endswith(".png") else f"uncertainty/{output}.png"


def failures(folder: RunFolder) -> dict[str, Record]:
    """The last failure of every id or path that failed and was not done since: id or path → event."""
    if not any(_tells_failure(line) for line in folder._lines()):
        return {}
    last: dict[str, Record] = {}
    for event in folder.events():
        if event["event"] in ("failed", "quarantined"):
            last[event.get("id") or event.get("path") or ""] = event
        elif event["event"] == "done":
            last.pop(event.get("id") or "", None)
            last.pop(event.get("path") or "", None)
    return last


def _tells_failure(line: bytes) -> bool:
    return b'"event": "failed"' in line or b'"event": "quarantined"' in line


def _event(line: bytes) -> Record | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    if not (isinstance(event, dict) and isinstance(event.get("event"), str)):
        return None
    words = (event.get(name) for name in ("id", "path", "kind", "reason"))
    return event if all(word is None or isinstance(word, str) for word in words) else None


def is_record(tree: object) -> bool:
    """Whether ``tree`` has what a record's files are checked by, and names none outside the run's folder."""
    if not (isinstance(tree, dict) and isinstance(tree.get("id"), str) and ID.fullmatch(tree["id"])):
        return False
    output, generator = tree.get("output"), tree.get("generator")
    if not (isinstance(output, dict) and isinstance(generator, dict)):
        return False
    paths, further = output.get("paths"), [generator.get(kind, []) for kind in FURTHER]
    if not (isinstance(paths, list) and isinstance(output.get("sha256"), str)):
        return False
    if not all(isinstance(parts, list) for parts in further):
        return False
    parts = [generator, *(part for part in (output.get("uncertainty"), *chain.from_iterable(further)) if part)]
    return all(map(_is_part, parts)) and all(isinstance(path, str) and stays_inside(path) for path in paths)


def _is_part(part: object) -> bool:
    """Whether ``part`` names a file of the run's folder and its hash."""
    if not isinstance(part, dict):
        return False
    path, digest = part.get("path"), part.get("sha256")
    return isinstance(path, str) and stays_inside(path) and isinstance(digest, str)


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
    """JSON as this project writes it to files: indented, UTF-8, no NaN; odd bytes of file names as escapes."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode("utf-8", "backslashreplace")


def now() -> str:
    """UTC, to the millisecond, sortable as text."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")


def _ends_with_newline(path: Path) -> bool:
    with open_regular(path, follow=False) as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
