"""What a folder holds: the files that a pattern matches, and what lies there and is not taken.

Links to files are listed; links to folders are followed only where the pattern spells the level, never by `**`, so that
no loop of links is endless. Folders of runs are left out, lest a run restore its own results. A folder that cannot be
listed is noted, and the others are searched. This file opens no image.
"""
# ruff: noqa: PTH110, PTH112, PTH113, PTH118, PTH119, PTH122

from __future__ import annotations

import fnmatch
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

from dipfast.settings.files import SUFFIXES, UNREAD

HAS_WILD = re.compile(r"[*?\[]").search
RUN_FILES = ("items.jsonl", "manifest.resolved.yaml")  # a folder with one of them is a run's
RUN_PICTURES = ("images", "damaged", "export")  # what a run writes and what is no input of the next
LINK, RUN, HIDDEN, SPECIAL, OTHER = "linked folder", "folder of a run", "hidden picture", "pipe or device", "other file"
MASK = "mask"  # of another picture
PLURALS = {RUN: "folders of runs", SPECIAL: "pipes or devices"}
MOST_KINDS = 8  # that are named one by one


class Search:
    """State of looking through a folder for what matches the ``parts`` of a pattern.

    ``endings``: those of the files that are taken, where the last part spells none. ``files``: each file once, in no
    order; ``left_out``: path → kind of what is not taken, though it lies where the pattern looks; ``unlisted``: folders
    that cannot be listed → why.
    """

    def __init__(self, parts: Sequence[str], endings: tuple[str, ...]) -> None:
        self.parts, self.endings = parts, endings
        self.files: list[str] = []
        self.left_out: dict[str, str] = {}
        self.unlisted: dict[str, str] = {}

    def through(self, base: str) -> None:
        """Look through ``base`` and what is below it. One that is not there holds nothing."""
        seen: set[tuple[str, int]] = set()
        todo = [(base, 0)]
        while todo:
            here = todo.pop()
            if here in seen:
                continue
            seen.add(here)
            folder, index = here
            if index == len(self.parts) - 1:
                self.take(folder, self.parts[index])
            else:
                todo += self.deeper(folder, index)
        for folder, _ in seen:
            self.left_out.pop(folder, None)  # a link that another part of the pattern spells

    def take(self, folder: str, part: str) -> None:
        """Take the files in ``folder`` that match the pattern's last ``part``, and note the others."""
        spelled = spells_ending(part)
        for entry in self.entries(folder):
            fits = spelled or entry.name.lower().endswith(self.endings)
            if fits and _matching(entry.name, part, ignore_ending_case=True):
                if _is_file(entry):
                    self.files.append(entry.path)
                elif not _is_folder(entry, follow=True):
                    self.left_out[entry.path] = SPECIAL
            elif not spelled and _pattern(part).match(entry.name):
                kind = kind_of(entry.path)
                if kind and not _is_folder(entry, follow=True):
                    self.left_out[entry.path] = kind

    def deeper(self, folder: str, index: int) -> list[tuple[str, int]]:
        """Return the folders to look through next, and the part that is next there."""
        part = self.parts[index]
        if part == "**":
            inner = [path for path in self.folders(folder, follow=False) if not _hidden(path)]
            return [(folder, index + 1), *((path, index) for path in inner)]
        if not HAS_WILD(part):
            path = os.path.join(folder, part)
            return [(path, index + 1)] if os.path.isdir(path) else []
        inner = [path for path in self.folders(folder, follow=True) if _matching(os.path.basename(path), part)]
        return [(path, index + 1) for path in inner]

    def folders(self, folder: str, *, follow: bool) -> list[str]:
        """Return the folders in ``folder`` that may hold inputs: no runs, and none of a run's own pictures."""
        products = RUN_PICTURES if _is_run(folder) else ()
        found = []
        for entry in self.entries(folder):
            if not _is_folder(entry, follow=True) or entry.name in products:
                continue
            if _is_run(entry.path):
                self.left_out[entry.path] = RUN
            elif follow or not entry.is_symlink():
                found.append(entry.path)
            elif not _hidden(entry.path):
                self.left_out[entry.path] = LINK
        return found

    def entries(self, folder: str) -> list[os.DirEntry[str]]:
        """Return what ``folder`` holds; nothing where it is gone, or where it cannot be listed, which is noted."""
        try:
            with os.scandir(folder) as entries:
                return list(entries)
        except FileNotFoundError:
            return []
        except OSError as error:
            self.unlisted[folder] = error.strerror or str(error)
            return []


def kind_of(path: str) -> str:
    """Return the kind of a file that is not taken: its ending where that is a picture's; '' for one to leave unsaid."""
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1]
    is_picture = ending.lower() in UNREAD or ending.lower() in SUFFIXES
    if name.startswith("."):  # '._a.jpg' is what macOS keeps beside 'a.jpg' on foreign disks
        return HIDDEN if is_picture and not name.startswith("._") else ""
    return ending if is_picture else OTHER


def left_out(kinds: Iterable[str]) -> str:
    """Return ``2 .CR2, 1 linked folder, 3 other files``: what was not taken, in words; '' where there is nothing."""
    counts: Counter[str] = Counter()
    spellings: dict[str, str] = {}  # of an ending, the most usual
    for kind, number in Counter(kinds).most_common():
        counts[spellings.setdefault(kind.lower(), kind)] += number
    others = counts.pop(OTHER, 0)
    ordered = sorted(counts, key=lambda kind: (not kind.startswith("."), kind.lower()))
    others += sum(counts[kind] for kind in ordered[MOST_KINDS:])
    words = [_counted(counts[kind], kind) for kind in ordered[:MOST_KINDS]]
    return ", ".join(words + [_counted(others, OTHER)] * bool(others))


def _counted(number: int, kind: str) -> str:
    several = kind if kind.startswith(".") else PLURALS.get(kind, f"{kind}s")
    return f"{number} {kind if number == 1 else several}"


def spells_ending(part: str) -> bool:
    """Return whether the last part of a pattern says itself which ending its files have."""
    return "." in part and not HAS_WILD(part.rpartition(".")[2][:1])


def _is_run(folder: str) -> bool:
    return any(os.path.isfile(os.path.join(folder, name)) for name in RUN_FILES)


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Return whether it is a file or a link. A broken link counts, so that its item fails by name; a pipe does not."""
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
