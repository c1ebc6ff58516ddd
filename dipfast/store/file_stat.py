"""File stats, which tell a file that was changed from one that was not without reading it, and lines of the index.

Size and modification time alone do not tell: `cp -p`, `touch -r` and programs that keep a file's time replace its bytes
and leave both. No program sets the time of the last change (ctime) or chooses an inode. A file that was copied, moved
to another disk or restored from a backup has another stat and the same bytes: it is hashed again, and no more.

A line of the index has the id of an item and the stats of its files. A run that finds a million items done has 30 s
for all of it, so lines are made and compared here rather than parsed. Microseconds an item, by 60,000 items of
`bench/million.py` on one core of a busy machine: the id is cut out in 0.5, where `json.loads` takes 7; a line is made
anew and compared in 24, most of it in `lstat`, where parsing it and comparing the stats takes 27, and three times the
memory.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from json.encoder import encode_basestring_ascii as as_json
from typing import Any

from dipfast.files import within
from dipfast.record import uncertainty_of

FileStat = list[int]  # size in bytes, modification time in nanoseconds, inode, time of the last change in nanoseconds


def stat_of(path: str, *, follow: bool = True) -> FileStat | None:
    """Return the stat of a file; None where there is none, and without ``follow`` for a link."""
    try:
        found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - a million times
    except (OSError, ValueError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


def line_of(id: str, files: Mapping[str, FileStat]) -> str:
    """Return the index's line of an item with ``files``, relative to the run's folder."""
    return json.dumps({"id": id, "files": files})


def id_in(line: str) -> str:
    """Return the id that a line of the index begins with; any text for a line that `line_of` did not make."""
    return line[8 : line.find('"', 8)]


def files_in(line: str) -> dict[str, Any]:
    """Return the files of a line of the index with their stats; none for a line that is torn or no such line."""
    try:
        files = json.loads(line)["files"]
    except (ValueError, KeyError, TypeError):
        return {}
    return files if isinstance(files, dict) else {}


class FileStats:
    """The stats of files in the folder ``root`` that are its own: no links, and not reached through one."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.sound: dict[str, bool] = {}  # folder → whether no link leads to it; looked for once

    def of(self, path: str) -> FileStat | None:
        """Return the stat of the file at ``path``, relative to the root."""
        return stat_of(f"{self.root}/{path}", follow=False) if self._is_sound(path) else None

    def match(self, line: str, id: str, pictures: Sequence[str]) -> bool:
        """Return whether ``line`` is what the index would say now of an item with just these pictures.

        Beside record, pictures and generator it may have a map of deviations.
        """
        paths = [f"records/{id}.json", *(f"images/{path}" for path in pictures), f"generators/{id}.safetensors"]
        return line == self._line(id, paths) or line == self._line(id, [*paths, uncertainty_of(pictures[0])])

    def _line(self, id: str, paths: Sequence[str]) -> str:
        """Return what `line_of` would, of the files as they are now."""
        return f'{{"id": "{id}", "files": {{{", ".join(map(self._as_text, paths))}}}}}'

    def _as_text(self, path: str) -> str:
        folder = path.rpartition("/")[0]
        if not (self.sound[folder] if folder in self.sound else self._is_sound(path)):
            return ""
        try:
            found = os.lstat(f"{self.root}/{path}")
        except (OSError, ValueError):
            return ""
        if stat.S_ISLNK(found.st_mode):
            return ""
        name = as_json(path)
        return f"{name}: [{found.st_size}, {found.st_mtime_ns}, {found.st_ino}, {found.st_ctime_ns}]"

    def _is_sound(self, path: str) -> bool:
        folder = path.rpartition("/")[0]
        if folder not in self.sound:
            try:
                within(self.root, path)
                self.sound[folder] = True
            except OSError:
                self.sound[folder] = False
        return self.sound[folder]
