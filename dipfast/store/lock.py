"""Who may write into a run's folder: one whole run, or one run of each shard, on as many machines as there are.

Every run passes the gate, `.lock`. A whole run keeps it; a shard takes its own lock inside and lets the gate go. The
locks are the kernel's, so those of a dead process are free. Their trade-off: the file system must carry `flock`
between machines, as NFS and most cluster file systems do; where it has none, filelock uses files that exist.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from dipfast.errors import MachineError, UsageError
from dipfast.files import write_atomic
from dipfast.store.folder import RunFolder, Shard, dumps, suffix

GATE_SECONDS = 1.0  # a shard is through the gate in less
REPORT_SECONDS = 60.0


@contextmanager
def claimed(folder: RunFolder, shard: Shard | None = None) -> Iterator[None]:
    """Hold the folder, or one shard of it.

    Raises UsageError naming the process that has what is asked for, or where the folder cannot be one; OSError.
    """
    with writing(folder):
        try:
            folder.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"output {folder.root}: cannot be written ({error.strerror})") from None
        lock = _take(folder, shard)
    try:
        yield
    finally:
        lock.release()


def _take(folder: RunFolder, shard: Shard | None) -> FileLock:
    gate = _acquired(folder, None, GATE_SECONDS)
    try:
        for other in _others(folder, shard):
            _acquired(folder, other, 0).release()
        mine = gate if shard is None else _acquired(folder, shard, 0)
        owner = {"pid": os.getpid(), "host": socket.gethostname()}
        write_atomic(_owner_file(folder, shard), dumps(owner))
    except BaseException:
        gate.release()
        raise
    if mine is not gate:
        gate.release()
    return mine


def _others(folder: RunFolder, shard: Shard | None) -> list[Shard]:
    """Return the shards whose runs exclude this one: those that divide the items another way."""
    found = [_shard_of(path.name) for path in folder.root.glob(".lock.*-of-*")]
    return [other for other in found if shard is None or other[1] != shard[1]]


def _shard_of(name: str) -> Shard:
    index, _, count = name.removeprefix(".lock.").partition("-of-")
    return int(index), int(count)


def _acquired(folder: RunFolder, shard: Shard | None, seconds: float) -> FileLock:
    lock = FileLock(folder.root / f".lock{suffix(shard)}")
    try:
        lock.acquire(timeout=seconds, poll_interval=0.02)
    except Timeout:
        raise UsageError(f"{folder.root}: another run writes here ({_owner(folder, shard)})") from None
    return lock


def _owner_file(folder: RunFolder, shard: Shard | None) -> Path:
    return folder.root / f".owner{suffix(shard)}.json"


def _owner(folder: RunFolder, shard: Shard | None) -> str:
    what = f"shard {shard[0]}/{shard[1]}, " if shard else ""
    try:
        owner = json.loads(_owner_file(folder, shard).read_bytes())
        return f"{what}pid {owner['pid']} on {owner['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{what}its pid is unknown"


@contextmanager
def reporting(folder: RunFolder) -> Iterator[None]:
    """Hold the summary and the report, which all shards of a folder write: who comes last has seen everything."""
    lock = FileLock(folder.root / ".lock.report")
    with suppress(Timeout):
        lock.acquire(timeout=REPORT_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def writing(folder: RunFolder) -> Iterator[None]:
    """Turn an OSError, such as a full disk, into the one line that a user needs: a MachineError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise MachineError(f"{folder.root}: cannot be written ({reason}); what is done stays done") from None
