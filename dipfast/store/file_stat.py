"""What the file system says of a file, by which one that was changed is told from one that was not, without reading it.

Size and modification time alone do not tell: `cp -p`, `touch -r` and programs that keep a file's time replace its bytes
and leave both. No program sets the time of the last change (ctime) or chooses an inode. A file that was copied, moved
to another disk or restored from a backup has another stamp and the same bytes: it is hashed again, and no more.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from json.encoder import encode_basestring_ascii as as_json

from dipfast.files import within
from dipfast.record import uncertainty_of

Stamp = list[int]  # size in bytes, modification time in nanoseconds, inode, time of the last change in nanoseconds


def stamp_of(path: str, *, follow: bool = True) -> Stamp | None:
    """The stamp of a file; None where there is none, and without ``follow`` for a link."""
    try:
        found = os.stat(path, follow_symlinks=follow)  # noqa: PTH116 - a million times
    except (OSError, ValueError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ino, found.st_ctime_ns]


class Stamps:
    """Of files in the folder ``root`` that are its own: no links, and not behind one."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.sound: dict[str, bool] = {}  # folder → whether no link leads to it; looked for once

    def of(self, path: str) -> Stamp | None:
        """The stamp of the file at ``path``, from the root."""
        return stamp_of(f"{self.root}/{path}", follow=False) if self._is_sound(path) else None

    def is_line(self, line: str, id: str, pictures: Sequence[str]) -> bool:
        """Whether ``line`` is what the index would say of an item with just these pictures, as its files are now.

        Beside record, pictures and generator it may have a map of deviations. To make a line and compare it takes
        half as long as to parse the one that is there.
        """
        paths = [f"records/{id}.json", *(f"images/{path}" for path in pictures), f"generators/{id}.safetensors"]
        if '"uncertainty/' in line:
            paths.append(uncertainty_of(pictures[0]))
        return line == self._line(id, paths)

    def _line(self, id: str, paths: Sequence[str]) -> str:
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
