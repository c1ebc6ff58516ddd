"""The commit record of an item: what was asked, what ran, what came out, and the hashes of the files that hold it.

A record is written last, and makes its item done. `dipfast.restoration.line` builds it, the worker that saves the files
completes it, and store, report and render read it. A file may be old, damaged or anyone's, so `Record.from_json` checks
what the files of the run are found by; any other part is what the file says, and may be missing or of another type.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from dipfast.files import stays_inside

ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")  # a plain name: files are called by it
FURTHER = ("samples", "checkpoints", "seeds")  # further generators of one item, in its record's `generator`
BULK = ("losses", "stop_curve", "stop", "facts", "rollbacks", "seed")  # for the page of the item alone
KEPT: dict[str, tuple[str, ...]] = {  # of parts of a short record
    "settings": ("task", "preset", "degrade"),
    "input": ("path", "width", "height", "reference"),
}


@dataclass(frozen=True, eq=False)
class Record(Mapping[str, Any]):
    """A commit record, which is also the mapping that its file holds: a part that is None is not in it.

    ``output`` names no files until they are written; `generator["path"]` and the hashes are there from then on.
    """

    version: Any = None
    id: str = ""
    input: Any = None
    settings: Any = None
    seed: Any = None
    ran: Any = None
    steps: Any = None
    chosen_step: Any = None
    stop: Any = None
    why: Any = None
    samples: Any = None
    rollbacks: Any = None
    losses: Any = None
    stop_curve: Any = None
    generator: dict[str, Any] = field(default_factory=dict)
    facts: Any = None
    warnings: Any = None
    seconds: Any = None
    metrics: Any = None
    finished: Any = None
    output: dict[str, Any] = field(default_factory=dict)
    unknown: Mapping[str, Any] = field(default_factory=dict)  # parts that this version does not write

    @classmethod
    def from_json(cls, tree: Any) -> Record | None:
        """Return the record that ``tree`` holds; None where its files cannot be checked or lie outside of the run."""
        if not _is_record(tree):
            return None
        known = {name: value for name, value in tree.items() if name in NAMES}
        unknown = {} if len(known) == len(tree) else {name: tree[name] for name in tree if name not in NAMES}
        return cls(**known, unknown=unknown)

    @cached_property
    def _tree(self) -> dict[str, Any]:
        parts: dict[str, Any] = {name: value for name in NAMES if (value := getattr(self, name)) is not None}
        if not self.output:
            del parts["output"]
        return parts | dict(self.unknown)

    def to_json(self) -> dict[str, Any]:
        """Return what the record's file holds."""
        return dict(self._tree)

    def __getitem__(self, name: str) -> Any:
        return self._tree[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tree)

    def __len__(self) -> int:
        return len(self._tree)

    @property
    def pictures(self) -> list[str]:
        """The restored pictures, relative to `images/`; all have the hash `output["sha256"]`."""
        paths: list[str] = self.output["paths"]
        return paths

    @property
    def files(self) -> dict[str, str]:
        """The files that the record vouches for, relative to the run's folder, and their SHA-256."""
        return {f"images/{path}": self.output["sha256"] for path in self.pictures} | self.files_beside_pictures

    @property
    def files_beside_pictures(self) -> dict[str, str]:
        """The generators, and the map of deviations where there is one, with their SHA-256 as in `files`."""
        parts = [self.generator, self.output.get("uncertainty")]
        parts += [part for kind in FURTHER for part in self.generator.get(kind, ())]
        return {part["path"]: part["sha256"] for part in parts if part}

    def short(self) -> Record:
        """Return the record without what only the page of its item shows."""
        parts: dict[str, Any] = dict.fromkeys(BULK)
        for name, keys in KEPT.items():
            if isinstance(part := getattr(self, name), dict):
                parts[name] = {key: part[key] for key in keys if key in part}
        if isinstance(self.ran, dict) and isinstance(memory := self.ran.get("memory"), dict):
            parts["ran"] = self.ran | {"memory": {key: memory[key] for key in memory if key != "free"}}  # ever another
        return replace(self, **parts)


NAMES = {one.name: None for one in fields(Record) if one.name != "unknown"}  # in the order of the file


def _is_record(tree: object) -> bool:
    """Whether ``tree`` has what a record's files are checked by, and names none outside of the run's folder."""
    if not (isinstance(tree, dict) and isinstance(tree.get("id"), str) and ID.fullmatch(tree["id"])):
        return False
    output, generator = tree.get("output"), tree.get("generator")
    if not (isinstance(output, dict) and isinstance(generator, dict)):
        return False
    paths, further = output.get("paths"), [generator.get(kind, []) for kind in FURTHER]
    if not (isinstance(paths, list) and isinstance(output.get("sha256"), str)):
        return False
    if not all(isinstance(parts, list) for parts in further):
        return False
    parts = [generator, *(part for part in (output.get("uncertainty"), *chain.from_iterable(further)) if part)]
    return all(map(_is_part, parts)) and all(isinstance(path, str) and stays_inside(path) for path in paths)


def _is_part(part: object) -> bool:
    """Whether ``part`` names a file of the run's folder and its hash."""
    if not isinstance(part, dict):
        return False
    path, digest = part.get("path"), part.get("sha256")
    return isinstance(path, str) and stays_inside(path) and isinstance(digest, str)


def damaged_of(output: str) -> str:
    """Return where the damaged input of the picture ``output`` lies, relative to the run's folder: always a PNG."""
    return Path("damaged", output).with_suffix(".png").as_posix()


def uncertainty_of(output: str) -> str:
    """Return where the map of deviations of the picture ``output`` lies, relative to the run's folder: a PNG."""
    return f"uncertainty/{output}" if output.lower().endswith(".png") else f"uncertainty/{output}.png"


def now() -> str:
    """Return the time in UTC, to the millisecond, sortable as text."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
