"""The command line's settings: ``--set fit.lr=3`` and the flags that are short for one.

Each option becomes a layer of its own, so that what is wrong with it is reported under its own words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipfast.manifest import yaml
from dipfast.manifest.layers import Layer, Tree
from dipfast.manifest.problems import Problem
from dipfast.remote import is_remote

FLAGS = {
    "task": ("task", "type"),
    "preset": ("preset",),
    "seed": ("fit", "seed"),
    "engine": ("fit", "engine"),
    "precision": ("fit", "precision"),
    "reference": ("reference",),
}
NOT_SETTABLE = ("version", "items")
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Options:
    """Layers above every item, layers above the document's own keys, and what could not be read."""

    settings: tuple[Layer, ...] = ()
    document: tuple[Layer, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_options(sets: Sequence[str], flags: Mapping[str, object]) -> Options:
    """Flags first, then ``sets`` in their order: the later one wins. A flag that is None was not given."""
    read: list[Layer | Problem] = [_flag(name, value) for name, value in flags.items() if value is not None]
    read += [_set(text) for text in sets]
    layers = [one for one in read if isinstance(one, Layer)]
    problems = tuple(one for one in read if isinstance(one, Problem))
    document = tuple(layer for layer in layers if _is_document(layer.tree))
    return Options(tuple(layer for layer in layers if layer not in document), document, problems)


def _flag(name: str, value: object) -> Layer:
    origin = f"--{name} {value}"
    if name == "reference":
        path = str(value) if is_remote(str(value)) else str(Path(str(value)).absolute())
        value = path.replace("{", "{{").replace("}", "}}")
    return Layer(nested(FLAGS[name], value), origin)


def _set(text: str) -> Layer | Problem:
    """``KEY=VALUE``. A value that is no YAML is text: ``{name}_x.png`` needs no quotes."""
    origin = f"--set {text}" if len(text) <= MAX_SHOWN else f"--set {text[:MAX_SHOWN]}…"
    dotted, equals, value = text.partition("=")
    keys = [key.strip() for key in dotted.removeprefix("defaults.").split(".")]
    if not equals or not all(keys):
        return Problem(origin, "should be KEY=VALUE with a dotted key, like fit.steps=500")
    if keys[0] in NOT_SETTABLE:
        return Problem(origin, f"{keys[0]} cannot be set here, only in a manifest")
    tree = yaml.load(value)
    if tree.whole and tree.flaws:
        return Problem(origin, tree.flaws[0].text)
    return Layer(nested(keys, tree.data if tree.whole else value), origin)


def nested(keys: Sequence[str], value: Any) -> Tree:
    """``("fit", "steps"), 5`` → ``{"fit": {"steps": 5}}``."""
    tree = value
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)


def _is_document(tree: Tree) -> bool:
    """`output` is the run's folder when it is text, and the section of the items when it is a mapping."""
    key, value = next(iter(tree.items()))
    return key in ("root", "export", "report") or (key == "output" and not isinstance(value, dict))
