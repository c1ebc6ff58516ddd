"""Addresses such as ``s3://bucket/scans/a.png`` through fsspec: listed, read and written, no more than that.

What brings a protocol (s3fs, gcsfs, adlfs …) is installed by whoever wants it, and finds its credentials where it
always does. An address that holds credentials is refused, because addresses go into records, and so is a chain of
them (``zip::s3://…``), which can unpack without end. Nothing is cached on a disk.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import posixpath
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dipfast import files
from dipfast.errors import MachineError, UsageError

Stamp = list[Any]  # size in bytes, and a tag that changes with the content
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://(.*)", re.DOTALL)
_WILD = re.compile(r"[*?\[]")
_WEB = ("http", "https")
_SECRET = re.compile(r"KEY|SECRET|TOKEN|PASSWORD|CREDENTIAL", re.IGNORECASE)
_TRIES, _PAUSE = 3, 0.5  # of a write, and seconds before the second try
_KEPT_BYTES = 1 << 26  # the last object read is kept up to this size: it is hashed and decoded
_last = threading.local()


def is_remote(path: str) -> bool:
    """Whether ``path`` is an address that fsspec reads; ``file://`` is a local path."""
    return "://" in path and not path.startswith("file://") and _ADDRESS.match(path) is not None


def checked(address: str) -> str:
    """``address`` without '.' and '..' in its path. Raises UsageError for one that may not be used."""
    found = _ADDRESS.fullmatch(address)
    if found is None:
        raise UsageError(f"should be PROTOCOL://PATH, is {address!r}")
    scheme, rest = found[1].lower(), found[2]
    host, slash, path = rest.partition("/")
    if "::" in address:
        raise UsageError(f"should be one address, not a chain of them: {scheme}://")
    user, at, _ = host.rpartition("@")
    if at and (":" in user or scheme in _WEB):
        raise UsageError(f"should hold no credentials, for it goes into records; {scheme}:// finds them by itself")
    if scheme in _WEB and re.search(r"[?#]", path):
        raise UsageError(f"should have no '?' and '#', for what is behind them may be a key: {scheme}://{host}/…")
    if "\0" in address:
        raise UsageError("should hold no NUL character")
    protocol(scheme)
    tail = posixpath.normpath("/" + path.lstrip("/"))[1:] if path else ""
    return f"{scheme}://{host}{slash}{tail}"


def joined(base: str, path: str) -> str:
    """``path`` seen from the address ``base``; an address stays itself. Raises UsageError as `checked` does."""
    return checked(path if is_remote(path) else f"{base.rstrip('/')}/{path}")


def protocol(scheme: str) -> Any:
    """fsspec's class for a protocol. Raises MachineError where it is not installed, UsageError where there is none."""
    try:
        import fsspec
    except ImportError:
        raise MachineError(f"{scheme}://: fsspec is not installed; pip install 'dipfast[remote]'") from None
    try:
        return fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise UsageError(f"should be a local path or an address that fsspec knows, is {scheme}://…") from None
    except ImportError as error:
        raise MachineError(f"{scheme}://: {_line(error)}") from None


def listed(address: str) -> list[str]:
    """The objects below a folder's ``address``, or those that match one with wildcards. Raises OSError."""
    with _speaking(address):
        system, path = _system(address)
        if not _WILD.search(address):
            return sorted(_named(address, one) for one in system.find(path))
        found = system.glob(path, detail=True)
        return sorted(_named(address, one) for one, about in found.items() if about.get("type") == "file")


def literal(address: str) -> str:
    """``address`` as a pattern that matches it alone."""
    return glob.escape(address) if _WILD.search(address) else address


def exists(address: str) -> bool:
    """Whether there is an object of that address. Raises OSError where that cannot be known."""
    with _speaking(address):
        system, path = _system(address)
        return bool(system.isfile(path))


def stamp(address: str) -> Stamp | None:
    """Size of an object, and its ETag, checksum or time; None where it is not there, or none of them is known."""
    try:
        about = _about(address)
    except OSError:
        return None
    tags = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "last_modified", "LastModified", "updated", "created")
    tag = next((str(about[name]) for name in tags if about.get(name)), None)
    return None if tag is None or about.get("size") is None else [about["size"], tag]


def size(address: str) -> int | None:
    """The bytes of an object, as far as they are known before it is read. Raises OSError where there is none."""
    found = _about(address)
    if found.get("type", "file") != "file":
        raise OSError(errno.EINVAL, "not a regular file")
    return found["size"] if isinstance(found.get("size"), int) else None


def read(address: str, most: int) -> bytes:
    """The bytes of an object; of a larger one than ``most`` one byte more than that. Raises OSError."""
    with _speaking(address):
        mark = stamp(address)
        if mark is not None and getattr(_last, "key", None) == (address, mark, most):
            data: bytes = _last.data
            return data
        system, path = _system(address)
        size(address)
        with system.open(path, "rb", cache_type="none") as file:
            data = file.read(most + 1)
    if mark is not None and len(data) <= _KEPT_BYTES:
        _last.key, _last.data = (address, mark, most), data
    return data


def sha256_of(path: str, most: int) -> str:
    """Hex SHA-256 of a file, or of an object of at most ``most`` bytes. Raises OSError."""
    return hashlib.sha256(read(path, most)).hexdigest() if is_remote(path) else files.sha256_of(path)


def holds(path: str, digest: str, most: int = 1 << 30) -> bool:
    """Whether a file or an object is there, with that SHA-256."""
    try:
        return sha256_of(path, most) == digest
    except (OSError, ValueError):
        return False


def put(address: str, data: bytes) -> None:
    """Write an object whole. Tried a few times, for a network fails now and then. Raises OSError."""
    for left in reversed(range(_TRIES)):
        try:
            with _speaking(address):
                system, path = _system(address)
                if "/" in path.strip("/"):
                    system.makedirs(posixpath.dirname(path), exist_ok=True)  # on object storage: nothing
                system.pipe_file(path, data)
                return
        except (FileNotFoundError, PermissionError):
            raise
        except OSError:
            if not left:
                raise
            time.sleep(_PAUSE * (_TRIES - left))


def _system(address: str) -> tuple[Any, str]:
    """The file system of an address, with no listing remembered, and the path in it."""
    scheme = address.partition("://")[0]
    system = protocol(scheme)(use_listings_cache=False)
    return system, system._strip_protocol(address)


def _named(address: str, path: str) -> str:
    """The address of a path that a file system gave."""
    return path if is_remote(path) else f"{address.partition('://')[0]}://{path}"


def _about(address: str) -> dict[str, Any]:
    with _speaking(address):
        system, path = _system(address)
        found: dict[str, Any] = system.info(path)
        return found


@contextmanager
def _speaking(address: str) -> Iterator[None]:
    """Turn what the many protocols raise into an OSError with one line, in which no secret stands."""
    try:
        yield
    except (UsageError, MachineError):
        raise
    except FileNotFoundError:
        raise FileNotFoundError(2, "No such object, bucket or folder") from None
    except PermissionError as error:
        raise PermissionError(13, f"permission denied ({_line(error)})") from None
    except Exception as error:  # botocore, aiohttp and others have no common type
        raise OSError(5, getattr(error, "strerror", None) or f"{type(error).__name__}: {_line(error)}") from None


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    for name, value in os.environ.items():
        if len(value) >= 8 and _SECRET.search(name):
            text = text.replace(value, "…")
    return text[:200]
