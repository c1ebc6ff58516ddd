"""The YAML parser's events, and where in the text a node stands.

PyYAML is used no further than this: libyaml's parser where there is one, its own otherwise. What the events
mean is `dipfast/manifest/yaml.py`'s business.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml import events

Path = tuple[str | int, ...]

LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Mark(NamedTuple):
    """A place in the text, counted from 1."""

    line: int
    column: int


class Place(NamedTuple):
    """Where a node stands, and its key where it has one."""

    key: Mark
    value: Mark


class Flaw(NamedTuple):
    """Something that the text may not hold."""

    mark: Mark
    text: str


class StopError(Exception):
    """A flaw after which there is no reading on."""

    def __init__(self, flaw: Flaw) -> None:
        self.flaw = flaw
        super().__init__(flaw.text)


def scan(source: bytes) -> Iterator[Any]:
    """Return the events of ``source``, which is UTF-8. A syntax error becomes a `StopError`."""
    try:
        parser = LOADER(source)
        while True:
            event = parser.get_event()
            yield event
            if type(event) is events.StreamEndEvent:
                return
    except yaml.reader.ReaderError as error:
        raise StopError(_unreadable(source.decode(), error.character)) from None
    except yaml.MarkedYAMLError as error:
        raise StopError(_syntax(error)) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise StopError(Flaw(Mark(1, 1), f"cannot be parsed: {str(error).splitlines()[0]}")) from None


def mark_of(event: Any) -> Mark:
    """Return where an event begins."""
    at = event.start_mark
    return Mark(at.line + 1, at.column + 1)


def mark_at(text: str, offset: int) -> Mark:
    """Return where character ``offset`` of ``text`` stands."""
    return Mark(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))


def _unreadable(text: str, character: int) -> Flaw:
    offset = max(text.find(chr(character)), 0)
    return Flaw(mark_at(text, offset), f"character #x{character:04x} is not allowed in YAML")


def _syntax(error: yaml.MarkedYAMLError) -> Flaw:
    at = error.problem_mark or error.context_mark
    begun = f" {error.context}" if error.context else ""
    if error.context_mark and error.problem_mark and error.context_mark.line != error.problem_mark.line:
        begun += f" begun at line {error.context_mark.line + 1}"
    problem = " ".join((error.problem or "cannot be parsed").split())
    return Flaw(Mark(at.line + 1, at.column + 1) if at else Mark(1, 1), f"syntax error{begun}: {problem}")


def find(source: bytes, wanted: set[Path]) -> dict[Path, Place]:
    """Return where the nodes at ``wanted`` stand, as far as the text can be read. Of two equal keys the first."""
    finder = _Finder(wanted)
    try:
        for event in scan(source):
            if isinstance(event, events.CollectionEndEvent):
                finder.close()
            elif isinstance(event, events.NodeEvent):
                finder.node(event)
    except StopError:
        pass
    return finder.found


class _Finder:
    """State of one pass that looks for the places of nodes."""

    def __init__(self, wanted: set[Path]) -> None:
        self.wanted = wanted
        self.found: dict[Path, Place] = {}
        self.path: list[Any] = []  # of the node that comes next
        self.keys: list[Mark | None] = []  # for each open container: the key that waits for its value
        self.maps: list[bool] = []

    def node(self, event: Any) -> None:
        if self.maps and self.maps[-1] and self.keys[-1] is None:
            self.path[-1] = getattr(event, "value", "")
            self.keys[-1] = mark_of(event)
            return
        path = tuple(self.path)
        if path in self.wanted and path not in self.found:
            key = self.keys[-1] if self.keys else None
            self.found[path] = Place(key or mark_of(event), mark_of(event))
        if isinstance(event, events.CollectionStartEvent):
            self.open(is_map=isinstance(event, events.MappingStartEvent))
        else:
            self.advance()

    def open(self, is_map: bool) -> None:
        self.maps.append(is_map)
        self.path.append("" if is_map else 0)
        self.keys.append(None)

    def close(self) -> None:
        self.maps.pop()
        self.path.pop()
        self.keys.pop()
        self.advance()

    def advance(self) -> None:
        if self.maps and self.maps[-1]:
            self.keys[-1] = None
        elif self.maps:
            self.path[-1] += 1
