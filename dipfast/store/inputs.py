"""The inputs that a manifest names: hash, size, time and shape of each.

Where there are many, several processes read them: most of what a header costs is spent in Python. A file that cannot
be read is an answer like any other.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from typing import Any

from dipfast import remote
from dipfast.errors import ItemError
from dipfast.image import Limits, probe
from dipfast.samples import PREFIX as SAMPLE
from dipfast.samples import locate
from dipfast.settings.document import Settings
from dipfast.store.file_stat import stat_of
from dipfast.threads import cores

MANY, CORES = 20_000, 4  # inputs and cores for which processes pay: each costs as much again to start and to hear
CHUNK = 500
MOST = Limits().max_bytes
Facts = dict[str, Any]
Request = tuple[str, Limits]


def look_at(requests: Sequence[Request], hashing: bool) -> Iterator[Facts | ItemError]:
    """Return SHA-256 (empty unless ``hashing``), stat and shape of each input in turn, or why it cannot be read."""
    seen = 0
    if len(requests) >= MANY and cores() >= CORES:
        try:
            for found in _by_processes(requests, hashing):
                yield from found
                seen += len(found)
        except BrokenProcessPool:  # something killed one; what is left is read here
            pass
    for request in requests[seen:]:
        yield look(request, hashing)


def _by_processes(requests: Sequence[Request], hashing: bool) -> Iterator[list[Facts | ItemError]]:
    chunks = (requests[start : start + CHUNK] for start in range(0, len(requests), CHUNK))
    with ProcessPoolExecutor(cores(), get_context("spawn"), _leave_signals) as pool:
        yield from pool.map(partial(_look_at_chunk, hashing=hashing), chunks)


def _leave_signals() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # this process decides what a Ctrl-C means


def _look_at_chunk(requests: Sequence[Request], hashing: bool) -> list[Facts | ItemError]:
    return [look(request, hashing) for request in requests]


def look(request: Request, hashing: bool) -> Facts | ItemError:
    """Return what `look_at` does of one input."""
    path, limits = request
    try:
        file = path_of(path)
        stat = stat_at(file)
        header = probe(file, limits)
        shape = [header.channels, header.height, header.width]
        return {"sha256": hash_of(file, limits.max_bytes) if hashing else "", "stamp": stat, "shape": shape}
    except ItemError as error:
        return ItemError(error.kind, str(error))  # without what it came from, which may not travel


def limits_of(settings: Settings) -> Limits:
    """Return what an item's settings allow of its files."""
    return Limits(**dict(settings.input))


def path_of(path: str) -> str:
    """Return the file that a path or the name of a sample stands for."""
    return locate(path) if path.startswith(SAMPLE) else path


def stat_at(path: str) -> list[Any] | None:
    """Return what tells a file or an object from a later one at the same path; None where there is none."""
    return remote.stamp(path) if remote.is_remote(path) else stat_of(path)


def hash_of(path: str, most: int = MOST) -> str:
    """Return the SHA-256 of an input, a file or an object of at most ``most`` bytes. Raises ItemError."""
    try:
        return remote.sha256_of(path, most)
    except OSError as error:
        raise ItemError("unreadable", f"{path}: {error.strerror or error}") from None
