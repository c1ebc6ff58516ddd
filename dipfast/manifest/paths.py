"""A path, folder or glob of the manifest → files, in natural order.

Names are plain strings here, not `pathlib` objects: there may be a million of them. Bytes that are not UTF-8
travel in them as surrogates. Folders are looked through by `dipfast.manifest.search`, addresses of object storage
are listed by `dipfast.remote`. This file opens no image.
"""
# ruff: noqa: PTH100, PTH109, PTH112, PTH117, PTH118, PTH119, PTH122, PTH206

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dipfast import remote
from dipfast.errors import UsageError
from dipfast.manifest.search import HAS_WILD, Search, kind_of, spells_ending
from dipfast.settings.files import EXTENSIONS, SUFFIXES

SAMPLE = "sample:"
FILE_URL = "file://"


class PathError(Exception):
    """What is wrong with a path, without its place."""


@dataclass(frozen=True)
class Found:
    """What a path, folder or glob names.

    ``base``: the folder that was looked through, '' where a single file was named. ``left_out``: what lies there and is
    not taken, with its kind; ``unlisted``: the folders that cannot be listed, with the reason.
    """

    files: list[str]
    base: str
    left_out: dict[str, str] = field(default_factory=dict)
    unlisted: dict[str, str] = field(default_factory=dict)


def natural_key(text: str) -> tuple[object, ...]:
    """Return a key that sorts ``img2`` before ``img10``, folder by folder, capitals beside small letters."""
    return tuple(_chunks(part) for part in text.casefold().split("/")), text


def _chunks(part: str) -> tuple[object, ...]:
    pieces = re.split(r"([0-9]+)", part)
    return tuple(int(piece[:400]) if index % 2 else piece for index, piece in enumerate(pieces))


def local(text: str, base: str) -> str:
    """Return the absolute path or address that ``text`` means from ``base``. ``file:///a%20b`` spells any bytes."""
    if text.startswith(FILE_URL):
        return os.path.normpath(os.fsdecode(_unquoted(text)))
    if remote.is_remote(text) or (remote.is_remote(base) and not os.path.isabs(text)):
        return _address(base, text)
    if "\0" in text:
        raise PathError("should hold no NUL character")
    return os.path.normpath(os.path.join(base, text))


def _address(base: str, text: str) -> str:
    try:
        return remote.joined(base, text)
    except UsageError as error:
        raise PathError(str(error)) from None


def _unquoted(url: str) -> bytes:
    path = url.removeprefix(FILE_URL).removeprefix("localhost")
    if not path.startswith("/"):
        raise PathError(f"should start with file:///, is {url!r}")
    raw = unquote_to_bytes(path[1:] if re.match(r"/[A-Za-z]:", path) and os.name == "nt" else path)
    if b"\0" in raw:
        raise PathError("should hold no NUL character")
    return raw


def url(path: str) -> str:
    """Return an absolute path as a ``file:///`` address, which is neither a pattern nor ever ambiguous."""
    raw = os.fsencode(path).replace(os.sep.encode(), b"/")
    return FILE_URL + "/" * (not raw.startswith(b"/")) + quote_from_bytes(raw, safe="/")


def title(source: str) -> str:
    """Return a folder's name for the runs of a SOURCE: its last plain part, and digits that no other source has.

    The digits are of the path from the working directory, so that a project can be moved with its runs.
    """
    if source.startswith(SAMPLE):
        name, path = source.removeprefix(SAMPLE), source
    else:
        path = os.path.relpath(source)
        base = split(source, os.getcwd())[0] if HAS_WILD(source) and not os.path.lexists(source) else source
        name = os.path.basename(os.path.abspath(base))
        name = name if os.path.isdir(base) else os.path.splitext(name)[0]
    readable = re.sub(r"[^\w.-]+", "_", name).strip("._-") or "run"
    return f"{readable}-{sha256(os.fsencode(path)).hexdigest()[:6]}"


def expand(text: str, root: str, formats: Collection[str]) -> Found:
    """Return the files that ``text`` names: itself, what lies in it, or what it matches; in natural order.

    A name with an image's ending is a file, whether it exists or not. A folder gives the images in it of the
    ``formats``, hidden ones left out. A pattern goes by its own ending, in capitals or not, where it spells
    one, and else by the ``formats``. Raises `PathError` for a path that can be none, and for object storage that is not
    there.
    """
    path = local(text, root)
    if remote.is_remote(path):
        return _listed(path, _endings(formats))
    is_literal = text.startswith(FILE_URL)
    if HAS_WILD(text) and not is_literal and not os.path.lexists(path):
        return _searched(*split(text, root), formats)
    if (is_literal or not path.lower().endswith(SUFFIXES)) and os.path.isdir(path):
        return _searched(path, ("**", "*"), formats)
    return Found([path], "")


def _searched(base: str, parts: tuple[str, ...], formats: Collection[str]) -> Found:
    search = Search(parts, _endings(formats))
    search.through(base)
    unlisted = {folder: search.unlisted[folder] for folder in _sorted(search.unlisted, base)}
    return Found(_sorted(search.files, base), base, search.left_out, unlisted)


def _listed(address: str, endings: tuple[str, ...]) -> Found:
    """Return the objects that an address stands for. What it spells with an ending is not looked for."""
    wild = HAS_WILD(address)
    if not wild and address.lower().endswith(SUFFIXES):
        return Found([address], "")
    base = (address[: wild.start()].rpartition("/")[0] if wild else address).rstrip("/")
    try:
        files = remote.listed(address)
    except FileNotFoundError as error:
        raise PathError(f"{address} cannot be listed: {error.strerror}") from None
    except OSError as error:
        return Found([], base, unlisted={address: error.strerror or str(error)})
    spelled = wild is not None and spells_ending(address.rpartition("/")[2])
    if "/." not in address[len(base) :]:
        files = [file for file in files if "/." not in file[len(base) :]]  # no hidden ones
    kept = [file for file in files if spelled or file.lower().endswith(endings)]
    others = {file: kind_of(file) for file in set(files).difference(kept)}
    return Found(sorted(kept, key=natural_key), base, others)


def _endings(formats: Collection[str]) -> tuple[str, ...]:
    return tuple(f".{ext}" for name in formats for ext in EXTENSIONS[name])


def _sorted(files: Iterable[str], base: str) -> list[str]:
    start = len(base.rstrip(os.sep)) + 1
    return sorted(files, key=lambda file: natural_key(file[start:].replace(os.sep, "/")))


def split(pattern: str, root: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder in front of the first wildcard, and the parts of the pattern from there on.

    A folder whose name looks like a wildcard and is there by that name is no wildcard.
    """
    parts = os.path.normpath(pattern).split(os.sep)
    folders = [os.sep.join(parts[: index + 1]) for index in range(len(parts) - 1)]
    is_wild = [HAS_WILD(parts[i]) and not os.path.isdir(os.path.join(root, path)) for i, path in enumerate(folders)]
    first = next((index for index, wild in enumerate(is_wild) if wild), len(folders))
    base = os.sep.join(parts[:first]) or (os.sep if first else "")
    tail = [part for part, run in groupby(parts[first:]) for _ in ([0] if part == "**" else run)]
    return os.path.normpath(os.path.join(root, base)), (*tail, "*") if tail[-1] == "**" else tuple(tail)
