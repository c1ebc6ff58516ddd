"""Short spellings of sections, and the type of a task that is left to dipfast.

``task: jpeg`` stands for ``task: {type: jpeg}``, and so for every section that has a choice of types; ``noise: 25`` for
Gaussian noise of that sigma. A task of type auto gets the type that has all the keys that are given of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, NamedTuple

from dipfast.settings.document import Settings
from dipfast.settings.files import Input
from dipfast.settings.rules import DAMAGE
from dipfast.settings.section import Section, sections

Tree = dict[str, Any]

AUTO = "auto"


class Choice(NamedTuple):
    """The task of one picture, as a manifest would spell it, and why it was chosen: words for a person."""

    task: Tree
    why: str = ""


Chooser = Callable[[str, Input], Choice]  # of a picture's path, which it may open within these limits


def spelled_out(tree: Tree) -> Tree:
    """Return ``tree`` with a mapping for each section that is spelled by its type, and for noise by its sigma."""
    return {key: as_section((key,), value) for key, value in tree.items()}


def as_section(path: tuple[str, ...], value: Any) -> Any:
    """Return the value of the key at ``path``, with a mapping for each section in it that has a short spelling."""
    if isinstance(value, dict):
        return {key: as_section((*path, key), inner) for key, inner in value.items() if isinstance(key, str)}
    if not isinstance(value, str | int | float) or isinstance(value, bool) or not _has_types(path):
        return value
    if path == ("task", "noise") and (value == AUTO or not isinstance(value, str)):
        return {"type": "gaussian", "sigma": value}
    return {"type": value} if isinstance(value, str) else value


@cache
def _has_types(path: tuple[str, ...]) -> bool:
    """Return whether the key at ``path`` holds a section of several types."""
    models: list[type[Section]] = [Settings]
    for part in path:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        models = [model for field in fields for model in sections(field).values()]
    return len(models) > 1


def open_task(trees: Iterable[Tree]) -> Tree | None:
    """Return the keys that ``trees``, lowest first, give of a task of type auto; None where the type is named."""
    kind: object = None
    keys: Tree = {}
    for tree in trees:
        task = tree.get("task")
        if not isinstance(task, dict):
            continue
        named = task.get("type")
        given = {key: value for key, value in task.items() if key != "type"}
        keys = given if named == AUTO and kind not in (None, AUTO) else keys | given
        kind = kind if named is None else named
    return keys if kind == AUTO else None


def task_of_keys(keys: Tree) -> Tree:
    """Return a task of the type that has all ``keys``; where none has, of one that has some of them."""
    types = sections(Settings.model_fields["task"])
    for fit in (all, any):
        for name, model in types.items():
            if fit(key in model.model_fields for key in keys):
                return {"type": name}
    return {"type": "denoise"}


def task_of_damage(damage: Any) -> Tree:
    """Return the task that undoes a ``degrade`` section."""
    kind = damage.get("type") if isinstance(damage, dict) else None
    name = next((task for task, kinds in DAMAGE.items() if kind in kinds), "denoise")
    return {"type": name} | ({"scale": damage["scale"]} if name == "superres" and "scale" in damage else {})
