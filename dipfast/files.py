"""Files that are whole or not there, their hashes, and folders that nothing leaves."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

DISK_IS_OUT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0)


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Put ``data`` at ``path`` in one step, as `replacing` does."""
    with replacing(path) as file:
        file.write(data)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A temporary file beside ``path``, synced and renamed to it when what is inside is done. Makes the folders.

    Raises OSError; after any error the old file is still there, and no temporary one.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """A rename is durable once its folder is."""
    with suppress(OSError):  # some network file systems have no such call; the file itself is synced
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def stays_inside(path: str) -> bool:
    """Whether ``path``, '/' between its parts, names something below the folder that it starts from."""
    if os.sep != "/":
        path = path.replace(os.sep, "/")
    is_relative = path != "" and not path.startswith("/") and not (os.name == "nt" and ":" in path)
    return is_relative and "\0" not in path and (".." not in path or ".." not in path.split("/"))


def within(root: str | os.PathLike[str], path: str) -> str:
    """``root/path``, where neither '..' nor a linked folder leads out of ``root``. Raises OSError otherwise."""
    if not stays_inside(path):
        raise OSError(errno.EPERM, f"{path!r} would leave the folder")
    here = os.fspath(root)
    for folder in path.split("/")[:-1]:
        here = f"{here}/{folder}"
        if os.path.islink(here):  # noqa: PTH114
            raise OSError(errno.ELOOP, f"{here} is a link, and no link is followed there")
    return f"{os.fspath(root)}/{path}"


def open_regular(path: str | os.PathLike[str], *, follow: bool = True) -> BufferedReader:
    """Open a file to read, or with ``follow`` what a link leads to. Raises OSError for a pipe, a device or a folder.

    It neither waits for a pipe nor touches a device, even where one takes the file's place in between.
    """
    if not stat.S_ISREG(os.stat(path, follow_symlinks=follow).st_mode):  # noqa: PTH116 - a plan opens a million files
        raise OSError(errno.EINVAL, "not a regular file")
    more = _NO_WAITING | (0 if follow else _NO_LINKS)
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | more))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file")
    return file


def read_small(path: str, most: int) -> bytes | None:
    """The bytes of a regular file of at most ``most`` bytes; None of a larger one. Raises OSError as `open_regular`.

    A third of the time that opening, asking and reading take each for itself.
    """
    found = os.stat(path)  # noqa: PTH116 - a plan opens a million files
    if found.st_size > most:
        return None
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file")
    descriptor = os.open(path, os.O_RDONLY | _NO_WAITING)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = os.read(descriptor, most + 1)
        return data if len(data) == found.st_size else None  # it changes, or the file system reads in parts
    finally:
        os.close(descriptor)


def sha256_of(path: str | os.PathLike[str], *, follow: bool = True) -> str:
    """Hex SHA-256 of a regular file's bytes. Raises OSError."""
    with open_regular(path, follow=follow) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
