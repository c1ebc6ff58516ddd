"""A run whose results go to object storage: the folder here is the run, and its mirror holds what is done.

An item's files are uploaded once it is done here, and its record last: there, too, done means that the record is there
and its hashes hold. A run on another machine takes back what is done, each file hashed. What the mirror does not do:
it has no locks, so two runs to one address are for their users to keep apart (shards are: each uploads its own items);
checkpoints stay here, and so does the decision what is done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from dipfast import remote
from dipfast.errors import MachineError, UsageError
from dipfast.record import Record, damaged_of
from dipfast.store.folder import RunFolder, dumps

FILE = "remote.json"  # in the run's folder: where its results go
UPLOADS = 4  # at a time
MOST = 1 << 32  # bytes of a file that is taken back
WHOLE_RUN = ("manifest.resolved.yaml", "items*.jsonl", "environment*.json", "ledger/*.jsonl", "summary.json")
PAGES = ("results.csv", "report.html", "report.md", "export/*")


def mark(folder: RunFolder, address: str) -> None:
    """Have the results of the run in ``folder`` go to ``address``. Raises UsageError where they go elsewhere."""
    before = address_of(folder)
    if before is not None and before != address:
        raise UsageError(f"{folder.root}: its results go to {before}, not to {address}; give another -o")
    folder.put(FILE, dumps({"address": address}))


def address_of(folder: RunFolder) -> str | None:
    """Return where the results of the run in ``folder`` go, beside the folder. Raises UsageError for a bad address."""
    try:
        tree = json.loads(folder.read(FILE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder.root / FILE}: cannot be read ({error})") from None
    address = tree.get("address") if isinstance(tree, dict) else None
    if not (isinstance(address, str) and remote.is_remote(address)):
        raise UsageError(f"{folder.root / FILE}: should hold an address, is {tree!r}")
    return remote.checked(address)


@contextmanager
def mirrored(folder: RunFolder) -> Iterator[Mirror]:
    """Open the folder's mirror, which does nothing where it has none. Raises MachineError if an upload failed."""
    mirror = Mirror(folder, address_of(folder))
    try:
        yield mirror
    finally:
        mirror.pool.shutdown()
    mirror.check()


def publish(folder: RunFolder) -> None:
    """Upload what is of the whole run: its lists, ledger, summary, report and models. Raises MachineError."""
    with mirrored(folder) as mirror:
        for pattern in (*WHOLE_RUN, *PAGES):
            for path in sorted(folder.root.glob(pattern)):
                mirror.send([path.relative_to(folder.root).as_posix()])


class Mirror:
    """Uploads and takes back the items of one run."""

    def __init__(self, folder: RunFolder, address: str | None) -> None:
        self.folder, self.address = folder, address
        self.pool = ThreadPoolExecutor(UPLOADS)
        self.sent: list[Future[None]] = []

    def held(self) -> set[str]:
        """Return the ids whose records are there. Raises MachineError."""
        if self.address is None:
            return set()
        try:
            found = remote.listed(f"{self.address}/records")
        except FileNotFoundError:
            return set()
        except OSError as error:
            raise MachineError(f"{self.address}: cannot be read ({error.strerror})") from None
        return {Path(path).stem for path in found if path.endswith(".json")}

    def take_back(self, ids: Sequence[str], there: set[str]) -> None:
        """Bring what is done there and not here."""
        for id in ids:
            if id in there and self.folder.record(id) is None:
                with suppress(OSError, ValueError):  # what does not come whole is fitted again
                    self._take_back(id)

    def _take_back(self, id: str) -> None:
        record = Record.from_json(json.loads(self._fetch(f"records/{id}.json")))
        if record is None or record.id != id:
            return
        for path, digest in record.files.items():
            data = self._fetch(path)
            if sha256(data).hexdigest() != digest:
                return
            self.folder.put(path, data)
        for path in _damaged(record):
            with suppress(FileNotFoundError):
                self.folder.put(path, self._fetch(path))
        self.folder.commit(record)

    def _fetch(self, path: str) -> bytes:
        data = remote.read(f"{self.address}/{path}", MOST)
        if len(data) > MOST:
            raise ValueError(path)
        return data

    def done(self, id: str) -> None:
        """Upload an item that is done here, its record last, while others are fitted."""
        record = None if self.address is None else self.folder.record(id)
        if record is not None:
            beside = [path for path in _damaged(record) if (self.folder.root / path).is_file()]
            self.send([*beside, *record.files, f"records/{id}.json"])

    def send(self, paths: Sequence[str]) -> None:
        """Upload files of the folder, one after the other."""
        if self.address is not None:
            self.sent.append(self.pool.submit(self._send, paths))

    def _send(self, paths: Sequence[str]) -> None:
        for path in paths:
            remote.put(f"{self.address}/{path}", self.folder.read(path))

    def check(self) -> None:
        """Raise MachineError where anything could not be uploaded."""
        errors = [error for error in (one.exception() for one in self.sent) if error is not None]
        if errors:
            reason = getattr(errors[0], "strerror", None) or str(errors[0])
            raise MachineError(
                f"{self.address}: {len(errors)} of {len(self.sent)} could not be uploaded ({reason}); "
                f"all is in {os.fspath(self.folder.root)}, and the same command uploads it"
            )


def _damaged(record: Record) -> list[str]:
    return [damaged_of(output) for output in record.pictures]
