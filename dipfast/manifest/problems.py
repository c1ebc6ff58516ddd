"""All that is wrong with one manifest: gathered while it is read, raised once, in the order of the file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dipfast.errors import ManifestError
from dipfast.manifest.scan import Mark, Path, Place
from dipfast.manifest.yaml import Tree

Origin = str | Path  # the words of an option, or a path into the document

MAX_PROBLEMS = 1000


class Problem(NamedTuple):
    """One mistake: where it comes from, and what it is."""

    origin: Origin
    text: str
    on_key: bool = False


class Problems:
    """The mistakes of the manifest ``name``.

    Without a tree there is no file: the place of a row is the SOURCE in ``rows`` that it is of, any other ``name``.
    """

    def __init__(self, name: str, tree: Tree | None = None, rows: Sequence[str] = ()) -> None:
        self.name = name
        self.tree = tree
        self.rows = rows
        self.found: dict[Problem, None] = {}
        self.full = False

    def __bool__(self) -> bool:
        return bool(self.found) or bool(self.tree and self.tree.flaws)

    def add(self, problem: Problem) -> None:
        """Note a problem. The same one is noted once, and only the first thousand are kept."""
        self.full = len(self.found) >= MAX_PROBLEMS
        if not self.full:
            self.found[problem] = None

    def row(self, number: int) -> str:
        """Return where a row of ``items`` stands. A list that is an alias is not looked for: there will be an error."""
        if self.tree is None:
            return self.rows[number] if self.rows else self.name
        return self.at(self.tree.row("items", number) if "items" in self.tree.rows else Mark(1, 1))

    def at(self, mark: Mark) -> str:
        """Return ``file:line:column``."""
        return f"{self.name}:{mark.line}:{mark.column}"

    def raise_any(self) -> None:
        """Raise all problems as one `ManifestError`, sorted by their place; do nothing when there are none."""
        if not self:
            return
        lines = list(dict.fromkeys(text for _, text in sorted(self._in_file()))) + self._elsewhere()
        if self.full:
            lines.append(f"{self.name}: more is wrong than these {MAX_PROBLEMS}")
        raise ManifestError(lines)

    def _in_file(self) -> list[tuple[Mark, str]]:
        if self.tree is None:
            return []
        inside = [problem for problem in self.found if not isinstance(problem.origin, str)]
        wanted = {path for problem in inside for path in _prefixes(problem.origin)}
        places = self.tree.places(wanted) if wanted else {}
        marked = [(flaw.mark, flaw.text) for flaw in self.tree.flaws]
        for origin, text, on_key in inside:
            place = _nearest(places, origin)
            marked.append((place.key if on_key else place.value, text))
        return [(mark, f"{self.at(mark)}: {text}") for mark, text in marked]

    def _elsewhere(self) -> list[str]:
        outside = [p for p in self.found if self.tree is None or isinstance(p.origin, str)]
        return [f"{p.origin if isinstance(p.origin, str) else self._source(p.origin)}: {p.text}" for p in outside]

    def _source(self, origin: Path) -> str:
        """Return the SOURCE that a path into a document without a file is about."""
        match origin:
            case ("items", int(number), *_) if self.rows:
                return self.rows[number]
        return self.name


def _prefixes(path: Origin) -> list[Path]:
    return [tuple(path[:length]) for length in range(len(path) + 1)]


def _nearest(places: dict[Path, Place], path: Origin) -> Place:
    """Return the place of ``path``, or of what is around it where it is missing or part of an alias."""
    for prefix in reversed(_prefixes(path)):
        if prefix in places:
            return places[prefix]
    return Place(Mark(1, 1), Mark(1, 1))
