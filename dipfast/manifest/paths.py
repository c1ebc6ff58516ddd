"""A path, folder or glob of the manifest → files, in natural order.

Names are plain strings here, not `pathlib` objects: there may be a million of them. Bytes that are not UTF-8
travel in them as surrogates. Links to files are listed; links to folders are followed only where the pattern
spells the level, never by `**`, so that no loop of links is endless. Folders of runs are left out, lest a run
restore its own results. Addresses of object storage are listed by `dipfast.remote`. This file opens no image.
"""
# ruff: noqa: PTH100, PTH109, PTH110, PTH112, PTH113, PTH117, PTH118, PTH119, PTH122, PTH206

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from hashlib import sha256
from itertools import groupby
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

from dipfast import remote
from dipfast.errors import UsageError
from dipfast.manifest.schema import EXTENSIONS, SUFFIXES

SAMPLE = "sample:"
FILE_URL = "file://"
WILD = re.compile(r"[*?\[]")
HAS_WILD = WILD.search
RUN_FILES = ("items.jsonl", "manifest.resolved.yaml")  # a folder with one of them is a run's
RUN_PICTURES = ("images", "damaged", "export")  # what a run writes and what is no input of the next


class PathError(Exception):
    """What is wrong with a path, without its place."""


class Found(NamedTuple):
    """Files, and the folder that was looked through; '' where a single file was named."""

    files: list[str]
    base: str


def natural_key(text: str) -> tuple[object, ...]:
    """Sorts ``img2`` before ``img10``, folder by folder, capitals beside small letters."""
    return tuple(_chunks(part) for part in text.casefold().split("/")), text


def _chunks(part: str) -> tuple[object, ...]:
    pieces = re.split(r"([0-9]+)", part)
    return tuple(int(piece[:400]) if index % 2 else piece for index, piece in enumerate(pieces))


def local(text: str, base: str) -> str:
    """The absolute path or the address that ``text`` means, seen from ``base``. ``file:///a%20b`` spells any bytes."""
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
    """An absolute path as a ``file:///`` address, which is neither a pattern nor ever ambiguous."""
    raw = os.fsencode(path).replace(os.sep.encode(), b"/")
    return FILE_URL + "/" * (not raw.startswith(b"/")) + quote_from_bytes(raw, safe="/")


def title(source: str) -> str:
    """A folder's name for the runs of a SOURCE: its last plain part, and digits that no other source has.

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
    """The files that ``text`` names: itself, what lies in it, or what it matches; in natural order.

    A name with an image's ending is a file, whether it exists or not. A folder gives the images in it of the
    ``formats``, hidden ones left out. A pattern goes by its own ending, in capitals or not, where it spells
    one, and else by the ``formats``. Raises `PathError` where a folder cannot be read.
    """
    path = local(text, root)
    if remote.is_remote(path):
        return _listed(path, _endings(formats))
    is_literal = text.startswith(FILE_URL)
    if HAS_WILD(text) and not is_literal and not os.path.lexists(path):
        base, parts = split(text, root)
        return Found(_sorted(_matches(base, parts, _endings(formats)), base), base)
    if (is_literal or not path.lower().endswith(SUFFIXES)) and os.path.isdir(path):
        return Found(_sorted(_matches(path, ("**", "*"), _endings(formats)), path), path)
    return Found([path], "")


def _listed(address: str, endings: tuple[str, ...]) -> Found:
    """The objects that an address stands for. What it spells with an ending is not looked for."""
    wild = HAS_WILD(address)
    if not wild and address.lower().endswith(SUFFIXES):
        return Found([address], "")
    try:
        files = remote.listed(address)
    except OSError as error:
        raise PathError(f"{address} cannot be listed: {error.strerror}") from None
    base = (address[: wild.start()].rpartition("/")[0] if wild else address).rstrip("/")
    part = address.rpartition("/")[2]
    spelled = wild is not None and "." in part and not HAS_WILD(part.rpartition(".")[2][:1])
    kept = [file for file in files if spelled or file.lower().endswith(endings)]
    return Found(sorted(kept, key=natural_key), base)


def _endings(formats: Collection[str]) -> tuple[str, ...]:
    return tuple(f".{ext}" for name in formats for ext in EXTENSIONS[name])


def _sorted(files: Iterator[str], base: str) -> list[str]:
    start = len(base.rstrip(os.sep)) + 1
    return sorted(files, key=lambda file: natural_key(file[start:].replace(os.sep, "/")))


def split(pattern: str, root: str) -> tuple[str, tuple[str, ...]]:
    """The folder in front of the first wildcard, and the parts of the pattern from there on.

    A folder whose name looks like a wildcard and is there by that name is no wildcard.
    """
    parts = os.path.normpath(pattern).split(os.sep)
    folders = [os.sep.join(parts[: index + 1]) for index in range(len(parts) - 1)]
    is_wild = [HAS_WILD(parts[i]) and not os.path.isdir(os.path.join(root, path)) for i, path in enumerate(folders)]
    first = next((index for index, wild in enumerate(is_wild) if wild), len(folders))
    base = os.sep.join(parts[:first]) or (os.sep if first else "")
    tail = [part for part, run in groupby(parts[first:]) for _ in ([0] if part == "**" else run)]
    return os.path.normpath(os.path.join(root, base)), (*tail, "*") if tail[-1] == "**" else tuple(tail)


def _matches(base: str, parts: Sequence[str], endings: tuple[str, ...]) -> Iterator[str]:
    """Files under ``base`` that match ``parts``, each once, in no order."""
    seen: set[tuple[str, int]] = set()
    todo = [(base, 0)]
    while todo:
        here = todo.pop()
        if here in seen:
            continue
        seen.add(here)
        folder, index = here
        if index == len(parts) - 1:
            yield from _files(folder, parts[index], endings)
        else:
            todo += _deeper(folder, parts, index)


def _files(folder: str, part: str, endings: tuple[str, ...]) -> Iterator[str]:
    spells_ending = "." in part and not HAS_WILD(part.rpartition(".")[2][:1])
    for entry in _entries(folder):
        fits = spells_ending or entry.name.lower().endswith(endings)
        if fits and _matching(entry.name, part, ignore_ending_case=True) and _is_file(entry):
            yield entry.path


def _deeper(folder: str, parts: Sequence[str], index: int) -> list[tuple[str, int]]:
    """The folders to look through next, and the part that is next there."""
    part = parts[index]
    if part == "**":
        inner = [path for path in _folders(folder, follow=False) if not _hidden(path)]
        return [(folder, index + 1), *((path, index) for path in inner)]
    if not HAS_WILD(part):
        path = os.path.join(folder, part)
        return [(path, index + 1)] if os.path.isdir(path) else []
    inner = [path for path in _folders(folder, follow=True) if _matching(os.path.basename(path), part)]
    return [(path, index + 1) for path in inner]


def _folders(folder: str, *, follow: bool) -> list[str]:
    """The folders in ``folder`` that may hold inputs: no run's, and where it is itself a run's, not its pictures."""
    products = RUN_PICTURES if _is_run(folder) else ()
    inner = [entry for entry in _entries(folder) if _is_folder(entry, follow=follow)]
    return [entry.path for entry in inner if entry.name not in products and not _is_run(entry.path)]


def _is_run(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in RUN_FILES)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise PathError(f"folder {folder!r} cannot be listed: {error.strerror}") from None


def _is_file(entry: os.DirEntry[str]) -> bool:
    """A file or a link to one. A broken link counts, so that its item fails by name; a pipe does not."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:
        return True


def _is_folder(entry: os.DirEntry[str], *, follow: bool) -> bool:
    try:
        return entry.is_dir(follow_symlinks=follow)
    except OSError:
        return False


def _hidden(path: str) -> bool:
    return os.path.basename(path).startswith(".")


def _matching(name: str, part: str, *, ignore_ending_case: bool = False) -> bool:
    if name.startswith(".") and not part.startswith("."):
        return False
    if ignore_ending_case:
        name, part = _small_ending(name), _small_ending(part)
    return _pattern(part).match(name) is not None


def _small_ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return stem + dot + ending.lower()


@lru_cache(maxsize=256)
def _pattern(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))
