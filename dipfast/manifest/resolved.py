"""`Manifest`, and `manifest.resolved.yaml`: the same with every default filled in and every pattern expanded.

Loading it gives the same items, settings and outputs, wherever it lies: root and output are absolute. A path
that plain text could not spell without doubt (wildcards, bytes that are not UTF-8) is written as ``file:///…``.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dipfast.manifest.items import Item, relative
from dipfast.manifest.paths import SAMPLE, url
from dipfast.manifest.search import HAS_WILD
from dipfast.manifest.yaml import resolve
from dipfast.remote import is_remote, literal
from dipfast.settings.document import VERSION, Export, Report, Settings
from dipfast.settings.own import BLANK, NOTHING, Own, own_of
from dipfast.settings.rules import doubts
from dipfast.settings.section import Section

SIMPLE = re.compile(r"[A-Za-z0-9_-][\w./-]*\.\w+", re.ASCII)  # a relative path that means nothing else
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that one SOURCE asks for."""

    source: str
    root: str  # absolute
    output: str | None  # the run's folder, absolute, where the manifest names one
    items: tuple[Item, ...]
    export: Export
    report: Report
    folder: str | None = None  # of several SOURCEs, the one that holds them all, which names the run
    left_out: str = ""  # what lies where it looks and is not taken, in words: 2 .CR2, 1 linked folder

    def doubts(self) -> list[str]:
        """Return a question about each value that is valid and hardly meant."""
        shared = {id(item.shared): item.shared for item in self.items}
        return list(dict.fromkeys(text for settings in shared.values() for text in doubts(settings)))

    def resolved(self) -> str:
        """Return the manifest as YAML with every default filled in. Loading it gives the same items and outputs."""
        usual = _most_common(self.items)
        lines = [f"version: {VERSION}", f"root: {flow(_spelled(self.root))}"]
        if self.output is not None:
            lines.append(f"output: {flow(_spelled(self.output))}")
        lines.append("defaults:")
        lines += [f"  {key}: {flow(value)}" for key, value in _tree(usual).items()]
        lines.append("items:")
        rows = _Rows(self.root, usual)
        lines += [f"  - {rows.row(item)}" for item in self.items]
        lines += [f"export: {flow(_tree(self.export))}", f"report: {flow(_tree(self.report))}"]
        return "\n".join(lines) + "\n"


def _most_common(items: Sequence[Item]) -> Settings:
    """Return the settings that most items have, of several the first."""
    alike: dict[Settings, int] = {}  # settings less what can be an item's own, numbered
    kinds: dict[int, tuple[int, Own]] = {}
    counts: Counter[tuple[int, Own]] = Counter()
    first: dict[tuple[int, Own], Item] = {}
    for item in items:
        if id(item.shared) not in kinds:
            own = own_of(item.shared)
            kinds[id(item.shared)] = alike.setdefault(own.blanks().settings(item.shared), len(alike)), own
        number, own = kinds[id(item.shared)]
        kind = number, own if item.own is NOTHING else item.own.over(own)
        counts[kind] += 1
        first.setdefault(kind, item)
    return first[counts.most_common(1)[0][0]].settings


def _tree(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json")


class _Rows:
    """Rows that say what differs from the usual settings. Sections that items share are written once."""

    def __init__(self, root: str, usual: Settings) -> None:
        self.root = root
        self.inside = root if root.endswith(os.sep) else root + os.sep
        self.usual = dict(usual)
        self.differences: dict[int, str] = {}
        self.sections: dict[tuple[int, str], str] = {}  # with marks for what is an item's own

    def row(self, item: Item) -> str:
        if item.own is not NOTHING:
            return "{" + self.words(item) + self.difference(item) + "}"
        if id(item.shared) not in self.differences:
            self.differences[id(item.shared)] = self.difference(item)
        return "{" + self.words(item) + self.differences[id(item.shared)] + "}"

    def words(self, item: Item) -> str:
        """Return the path and, where it does not follow from that, the relpath."""
        short = item.path.removeprefix(self.inside)
        if SIMPLE.fullmatch(short) and item.relpath == short.rpartition("/")[0]:
            return f'path: "{short}"'  # as most of a million are
        words = {"path": _item_path(item, self.root)}
        if item.relpath != (relative(item.path, self.root) or ""):
            words["relpath"] = re.sub(r"[\udc80-\udcff]", "\ufffd", item.relpath)
        return pairs(words)

    def difference(self, item: Item) -> str:
        differing = (key for key, value in item.settings if not _equal(value, self.usual[key]))
        return "".join(f", {key}: {self.section(item, key)}" for key in differing)

    def section(self, item: Item, key: str) -> str:
        """Return the item's value of ``key``: the text that items share, with the item's own values for the marks."""
        place = id(item.shared), key
        if place not in self.sections:
            marked = own_of(item.shared).blanks().settings(item.shared)
            self.sections[place] = flow(_dumped(getattr(marked, key)))
        text = self.sections[place]
        for own, usual, blank in zip(item.own, own_of(item.shared), BLANK, strict=True):
            text = text.replace(flow(blank), flow(usual if own is None else own))
        return text


def _equal(one: object, other: object) -> bool:
    return one is other or one == other


def _dumped(value: object) -> Any:
    return _tree(value) if isinstance(value, Section) else value


def _item_path(item: Item, root: str) -> str:
    prefix = root if root.endswith(os.sep) else root + os.sep
    if item.path.startswith(SAMPLE):
        return item.path
    if is_remote(item.path):
        return literal(item.path)
    return _spelled(item.path, item.path.removeprefix(prefix))


def _spelled(path: str, short: str | None = None) -> str:
    """Return ``short`` where it can only mean ``path``, else the path as an address."""
    if is_remote(path):
        return path
    text = path if short is None else short
    doubtful = HAS_WILD(text) or re.search(r"^sample:|^\s|\s$|://|[\ud800-\udfff]", text) or not text
    return url(path) if doubtful else text


def flow(value: Any) -> str:
    """Return a value in YAML's flow style, as `yaml.py` here reads it: YAML 1.2."""
    if isinstance(value, dict):
        return "{" + pairs(value) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(flow(entry) for entry in value) + "]"
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value)


def pairs(tree: dict[str, Any]) -> str:
    """Return what stands between the braces of a flow mapping."""
    return ", ".join(f"{key}: {flow(value)}" for key, value in tree.items())


def _text(value: str) -> str:
    if PLAIN.fullmatch(value) and isinstance(resolve(value), str):
        return value
    is_simple = value.isprintable() and '"' not in value and "\\" not in value
    return f'"{value}"' if is_simple else '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
