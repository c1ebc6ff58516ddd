"""Strict YAML: text → plain dicts, lists and scalars, and where each of them stands.

PyYAML's own constructor keeps the last of two equal keys, reads `1e-3` as text, `no` as false and `12:30` as
750, and lets aliases explode. So only its parser is used (`scan.py`), and the tree is built here from the
events, by the YAML 1.2 core schema and under caps. This file knows no key of the manifest.

One trade-off: positions are not stored. Only the rows of a top-level list get theirs while they are read; any
other is found by going over the text again, which only happens when there is something to complain about.
"""

from __future__ import annotations

import gc
import re
from array import array
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from yaml import events

from dipfast.manifest.scan import Flaw, Mark, Path, Place, StopError, find, mark_at, mark_of, scan

MAX_BYTES = 2**30
MAX_NODES = 100_000_000
MAX_DEPTH = 40
MAX_DIGITS = 400
MAX_FLAWS = 1000
FREE_COPIES = 10_000  # nodes that aliases may stand for in any file …
COPIES_PER_NODE = 20  # … and for each node that is written out
MEMO_SIZE = 65_536

NULL = frozenset(("", "~", "null", "Null", "NULL"))
BOOL = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
OTHER = {
    ".inf": "inf", ".Inf": "inf", ".INF": "inf", "+.inf": "inf", "+.Inf": "inf", "+.INF": "inf",
    "-.inf": "-inf", "-.Inf": "-inf", "-.INF": "-inf", ".nan": "nan", ".NaN": "nan", ".NAN": "nan",
}  # fmt: skip
MAY_BE_NO_TEXT = frozenset("-+.0123456789~ntfNTF")


@dataclass(slots=True)
class Tree:
    """What a text says. ``data`` is only good when ``whole``: else the last flaw ended the reading."""

    source: bytes
    data: Any = None
    whole: bool = False
    flaws: list[Flaw] = field(default_factory=list)
    rows: dict[str, array[int]] = field(default_factory=dict)  # key → line, column, line, column, …

    def row(self, key: str, index: int) -> Mark:
        """Return where entry ``index`` of the top-level list ``key`` stands."""
        marks = self.rows[key]
        return Mark(marks[2 * index], marks[2 * index + 1])

    def places(self, wanted: Collection[Path]) -> dict[Path, Place]:
        """Return where the nodes at ``wanted`` stand. What an alias stands for is missing: it stands elsewhere."""
        return find(self.source, set(wanted))


def load(text: str | bytes) -> Tree:
    """Read one document. Never raises: what is wrong stands in ``flaws``."""
    try:
        source = text if isinstance(text, bytes) else text.encode()
    except UnicodeEncodeError as error:
        return Tree(b"", flaws=[Flaw(mark_at(str(text), error.start), "holds half of a surrogate pair")])
    tree = Tree(source)
    try:
        _check_bytes(source)
        with collector_paused():
            tree.data = _Builder(tree).build()
        tree.whole = True
    except StopError as stop:
        tree.flaws.append(stop.flaw)
    return tree


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pause the garbage collector inside: it would look at a million live rows again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _check_bytes(source: bytes) -> None:
    start = Mark(1, 1)
    if len(source) > MAX_BYTES:
        raise StopError(Flaw(start, f"should be at most {MAX_BYTES} bytes, is {len(source)}"))
    if source.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise StopError(Flaw(start, "should be UTF-8, is UTF-16 or UTF-32"))
    try:
        source.decode()
    except UnicodeDecodeError as error:
        before = source[: error.start].decode()
        mark = mark_at(before, len(before))
        raise StopError(Flaw(mark, f"should be UTF-8, has byte 0x{source[error.start]:02x} here")) from None


def _short(tag: str) -> str:
    return quoted(tag.replace("tag:yaml.org,2002:", "!!"))


class _Anchor(NamedTuple):
    value: Any
    nodes: int
    height: int


class _Builder:
    """State of one pass over the events: the open containers, the anchors so far, and what they cost."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.root: Any = None
        self.top: dict[str, Any] | list[Any] | None = None  # the innermost open container
        self.key: str | None = None  # of the mapping on top, when it waits for that key's value
        self.dropped = False  # the value of a key that cannot be kept
        self.key_lines: dict[str, int] = {}
        self.height = 0  # of what `top` holds so far
        self.stack: list[tuple[Any, ...]] = []
        self.anchors: dict[str, _Anchor] = {}
        self.nodes = 0
        self.copies = 0
        self.documents = 0
        self.keys: dict[str, str] = {}
        self.memo: dict[str, Any] = {}

    def build(self) -> Any:
        """Return the document's data."""
        handlers: dict[type, Callable[[Any], None]] = {
            events.ScalarEvent: self.scalar,
            events.MappingStartEvent: self.open,
            events.SequenceStartEvent: self.open,
            events.MappingEndEvent: self.close,
            events.SequenceEndEvent: self.close,
            events.AliasEvent: self.alias,
            events.DocumentStartEvent: self.document,
        }
        for event in scan(self.tree.source):
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
        return self.root

    def document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise StopError(Flaw(mark_of(event), "should be one YAML document, a second one starts here"))

    def flaw(self, event: Any, text: str) -> None:
        self.tree.flaws.append(Flaw(mark_of(event), text))
        if len(self.tree.flaws) >= MAX_FLAWS:
            raise StopError(Flaw(mark_of(event), "too much is wrong to read on"))

    def scalar(self, event: Any) -> None:
        if event.tag is not None:
            self.flaw(event, f"tag {_short(event.tag)} is not allowed; quote a value that should be text")
        plain = event.implicit[0]
        if type(self.top) is dict and self.key is None:
            self.take_key(event, plain)
            return
        value = self.plain(event) if plain else event.value
        if event.anchor is not None:
            self.anchors[event.anchor] = _Anchor(value, 1, 0)
        self.put(value, event)

    def take_key(self, event: Any, plain: bool) -> None:
        """Take the next key of the mapping on top. One that cannot be kept drops its value."""
        key: str = self.keys.setdefault(event.value, event.value)
        self.key = key
        if plain and key == "<<":
            self.flaw(event, "merge keys (<<) are not in YAML 1.2; put what is shared into defaults")
        elif plain and not isinstance(self.plain(event), str):
            self.flaw(event, f"a key should be text, is {key or 'empty'}; quote it")
        elif key in self.key_lines:
            self.flaw(event, f"duplicate key {quoted(key)}; the first is at line {self.key_lines[key]}")
        else:
            self.key_lines[key] = event.start_mark.line + 1
            return
        self.dropped = True

    def plain(self, event: Any) -> Any:
        """Return the value of an unquoted scalar."""
        text = event.value
        if text and (text[0] not in MAY_BE_NO_TEXT or "/" in text):  # no number has a slash, most paths do
            return text
        if text in self.memo:
            return self.memo[text]
        if len(text) > MAX_DIGITS and INT.fullmatch(text):
            self.flaw(event, f"a number should have at most {MAX_DIGITS} digits, has {len(text)}")
            return 0
        value = resolve(text)
        if len(self.memo) < MEMO_SIZE:
            self.memo[text] = value
        return value

    def put(self, value: Any, event: Any) -> None:
        """Hand a finished or newly opened value to the container on top."""
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise StopError(Flaw(mark_of(event), f"should hold at most {MAX_NODES} values"))
        top = self.top
        if type(top) is list:
            top.append(value)
            if len(self.stack) == 2:
                self.note_row(event)
        elif top is None:
            self.root = value
        else:
            assert type(top) is dict
            assert self.key is not None
            if not self.dropped:
                top[self.key] = value
            self.key, self.dropped = None, False

    def note_row(self, event: Any) -> None:
        key = self.stack[1][1]
        if key is not None:
            at = event.start_mark
            self.tree.rows.setdefault(key, array("I")).extend((at.line + 1, at.column + 1))

    def open(self, event: Any) -> None:
        """Begin a mapping or a list."""
        if event.tag is not None:
            self.flaw(event, f"tag {_short(event.tag)} is not allowed")
        if type(self.top) is dict and self.key is None:
            raise StopError(Flaw(mark_of(event), "a key should be text, is a mapping or a list"))
        if len(self.stack) >= MAX_DEPTH:
            raise StopError(Flaw(mark_of(event), f"should be at most {MAX_DEPTH} levels deep"))
        value: Any = {} if type(event) is events.MappingStartEvent else []
        key = None if self.dropped else self.key
        self.put(value, event)
        self.stack.append((self.top, key, self.key_lines, self.height, event.anchor, self.nodes))
        self.top, self.height, self.key_lines = value, 0, {}

    def close(self, event: Any) -> None:
        """Finish the container on top."""
        value, height = self.top, self.height + 1
        self.top, _, self.key_lines, self.height, anchor, before = self.stack.pop()
        self.height = max(self.height, height)
        if anchor is not None:
            self.anchors[anchor] = _Anchor(value, self.nodes - before + 1, height)

    def alias(self, event: Any) -> None:
        """Use a value that is already there once more. It costs no memory, but time wherever the tree is walked."""
        if type(self.top) is dict and self.key is None:
            raise StopError(Flaw(mark_of(event), "a key should be text, is an alias"))
        anchor = self.anchors.get(event.anchor)
        if anchor is None:
            raise StopError(Flaw(mark_of(event), f"alias *{event.anchor} has no finished anchor before it"))
        if len(self.stack) + anchor.height > MAX_DEPTH:
            raise StopError(Flaw(mark_of(event), f"should be at most {MAX_DEPTH} levels deep"))
        self.put(anchor.value, event)
        self.nodes += anchor.nodes - 1
        self.copies += anchor.nodes
        self.height = max(self.height, anchor.height)
        if self.copies > FREE_COPIES + COPIES_PER_NODE * (self.nodes - self.copies):
            raise StopError(Flaw(mark_of(event), "aliases stand for far more than the file holds (a YAML bomb)"))


def resolve(text: str) -> Any:
    """Return the value of a plain scalar by the YAML 1.2 core schema (YAML 1.2.2, section 10.3.2)."""
    if text in NULL:
        return None
    if text in BOOL:
        return BOOL[text]
    if len(text) <= MAX_DIGITS and INT.fullmatch(text):
        return int(text)
    if FLOAT.fullmatch(text):
        return float(text)
    if text in OTHER:
        return float(OTHER[text])
    if re.fullmatch(r"0o[0-7]{1,100}", text):
        return int(text, 8)
    if re.fullmatch(r"0x[0-9a-fA-F]{1,100}", text):
        return int(text, 16)
    return text


def quoted(value: object, limit: int = 60) -> str:
    """Return a value as an error shows it: short, on one line, in YAML's words."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(quoted(entry, 20) for entry in value)}]" if len(value) <= 8 else "a long list"
    text = repr(value[: limit + 1]) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit + 2 else text[:limit] + "…"
