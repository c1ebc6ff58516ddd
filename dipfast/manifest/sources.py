"""SOURCEs of the command line that are no manifest: folders, patterns, pictures, samples and addresses.

Several of them make one run. Its paths start at the folder that holds them all, so that pictures of one name in two
folders are told apart.
"""
# ruff: noqa: PTH109, PTH112, PTH113, PTH118, PTH120, PTH122, PTH208

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import takewhile

from dipfast import remote
from dipfast.errors import UsageError
from dipfast.manifest.paths import SAMPLE, PathError, local, split, url
from dipfast.manifest.search import HAS_WILD
from dipfast.settings.files import EXTENSIONS, SUFFIXES

MANIFESTS = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Sources:
    """What SOURCEs come to: rows of a manifest, and ``root``, the folder or address where their paths start.

    ``name`` stands for all of them; ``folder`` is the one that names the run of several.
    """

    name: str
    root: str
    rows: list[str]
    folder: str | None = None


def is_manifest(name: str) -> bool:
    """Return whether ``name`` is a file with the ending of a manifest."""
    return name.lower().endswith(MANIFESTS) and os.path.isfile(name)


def read_sources(names: Sequence[str]) -> Sources:
    """Return what ``names`` come to. Raises `UsageError` where one of them is nothing of the kind."""
    if not names:
        raise UsageError("SOURCE: should be given")
    if len(names) == 1:
        root, row = _bare(names[0])
        return Sources(names[0], root, [row])
    for name in names:
        if is_manifest(name):
            raise UsageError(f"SOURCE: a manifest should be given alone, {name!r} is one of {len(names)} sources")
    found = [_bare(name) for name in names]
    rows = [_whole(name, row) for name, (_, row) in zip(names, found, strict=True)]
    folder = _common([root for root, row in found if not row.startswith(SAMPLE)])
    digits = sha256("\0".join(rows).encode(errors="surrogateescape")).hexdigest()[:12]
    return Sources(f"{folder}/({len(names)} sources, {digits})", folder, rows, folder)


def _bare(source: str) -> tuple[str, str]:
    """Return the root and the row for one SOURCE."""
    if source.startswith(SAMPLE):
        return os.getcwd(), source
    if not source:
        raise UsageError("SOURCE: should be text that is not empty, is ''")
    try:
        full = local(source, os.getcwd())
    except PathError as error:
        raise UsageError(f"SOURCE: {error}") from None
    if remote.is_remote(full):
        wild = HAS_WILD(full)
        is_file = wild is None and full.lower().endswith(SUFFIXES)
        folder = full[: wild.start()] if wild else full if is_file else full + "/"
        return folder.rpartition("/")[0], full
    if os.path.isdir(full):
        return full, url(full)
    if os.path.lexists(full) and (full.lower().endswith(SUFFIXES) or not os.path.splitext(full)[1]):
        return os.path.dirname(full), url(full)
    if not os.path.lexists(full) and HAS_WILD(source):
        base, parts = split(source, os.getcwd())
        return base, "/".join(parts)
    raise UsageError(f"SOURCE: {_what_is_wrong(source, full)}")


def _what_is_wrong(source: str, path: str) -> str:
    """Return what is wrong with a SOURCE that is no folder and has no image's ending, in words."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return f"there is no file or folder {source!r}{_nearest(path)}"
    except OSError as error:
        return f"{source!r} cannot be reached: {error.strerror}"
    endings = ", ".join(f".{several[0]}" for several in EXTENSIONS.values())
    return f"should be a manifest (.yaml, .json), a folder, a glob or images ({endings}), {source!r} is another file"


def _nearest(path: str) -> str:
    """Return a question about the file beside ``path`` whose name is nearest to its own; '' where none is near."""
    folder, name = os.path.split(path)
    try:
        near = difflib.get_close_matches(name, os.listdir(folder), n=1, cutoff=0.75)
    except OSError:
        return ""
    return f"; did you mean {near[0]!r}?" if near else ""


def _whole(source: str, row: str) -> str:
    """Return ``row`` so that it means the same from any root: a pattern starts at the working directory."""
    is_pattern = not (row.startswith(SAMPLE) or "://" in row)
    return os.path.join(os.getcwd(), source) if is_pattern else row


def _common(roots: Sequence[str]) -> str:
    """Return the folder or address that holds all ``roots``; the working directory where there is none."""
    are_remote = {remote.is_remote(root) for root in roots}
    if are_remote == {True}:
        parts = zip(*(root.split("/") for root in roots), strict=False)
        same = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, parts)]
        return "/".join(same) if len(same) > 2 else os.getcwd()  # at least the protocol and the bucket
    try:
        return os.getcwd() if are_remote != {False} else os.path.commonpath(roots)
    except ValueError:  # on two drives
        return os.getcwd()
