"""From layers of partial settings to one `Settings`: preset ← defaults ← item ← command line.

Mappings merge key by key and lists replace each other. Where two mappings carry a different `type`, the later
one replaces the earlier one whole: an item's `{type: inpaint}` knows nothing of the noise in `defaults`. A
mapping without a `type` has the one of the layer below, else the schema's. This file knows where each layer
comes from, but not where that stands in the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError

from dipfast.manifest.problems import Origin, Problem
from dipfast.manifest.scan import Path
from dipfast.manifest.spelling import AUTO, open_task, spelled_out, task_of_damage, task_of_keys
from dipfast.manifest.wording import Finding, explain
from dipfast.settings import presets
from dipfast.settings.document import Entry, Preset, Settings
from dipfast.settings.own import NOTHING, Own, checked_own, own_of
from dipfast.settings.rules import conflicts
from dipfast.settings.section import Section, sections

Tree = dict[str, Any]

MAX_CACHED = 4096


@dataclass(frozen=True, slots=True)
class Layer:
    """Partial settings and where they come from. ``task``: the type of task that an option is for."""

    tree: Tree
    origin: Origin
    task: str = ""


TO_BE_CHOSEN = Layer({"task": {"type": AUTO}}, "task")


class Resolved(NamedTuple):
    """The settings of an item: those that it shares with others, and what it has of its own."""

    shared: Settings
    own: Own = NOTHING


class Resolver:
    """Settings of items that share defaults and command line. Equal overrides are resolved once.

    Rows often differ in nothing but a seed and the names of files, so overrides that differ in no other key count as
    equal, and each row has these values as its own.
    """

    def __init__(self, defaults: Layer, options: Sequence[Layer], *, choosing: bool = False) -> None:
        """``choosing``: a task of which no layer names the type is of type auto."""
        self.below = (TO_BE_CHOSEN, defaults) if choosing else (defaults,)
        self.options = tuple(options)
        self.known: dict[str, tuple[Settings, Own]] = {}  # with a mark for each value that a row decides about
        self.plain: Resolved | None = None  # of a row that is a path alone

    def settings(self, overrides: Tree, origin: Origin) -> Settings | list[Problem]:
        """Return one item's settings, or what is wrong with them."""
        found = self.resolved(overrides, origin)
        return found.own.settings(found.shared) if isinstance(found, Resolved) else found

    def is_open(self, overrides: Tree) -> bool:
        """Return whether the picture itself is to tell the item's task, for nothing else does."""
        trees = [spelled_out(layer.tree) for layer in self._layers(overrides, ())]
        return open_task(trees) == {} and not any(tree.get("degrade") for tree in trees)

    def resolved(self, overrides: Tree, origin: Origin, task: Tree | None = None) -> Resolved | list[Problem]:
        """Return one item's settings in their two parts, or what is wrong with them.

        ``task`` is what was chosen for an item whose task `is_open`.
        """
        if task is not None:
            overrides = {**overrides, "task": task}
        if not overrides:
            if self.plain is None:
                found = self._resolve(overrides, origin)
                if not isinstance(found, Settings):
                    return found
                self.plain = Resolved(found)
            return self.plain
        own = checked_own(overrides)
        blanks = own.blanks()
        shape = blanks.tree(overrides)
        key = repr((shape, task is None))
        if key in self.known:
            shared, free = self.known[key]
            return Resolved(shared, own if free == blanks else own.only(free))
        result = self._resolve(shape, origin, chosen=task is not None)
        if not isinstance(result, Settings):
            result = self._resolve(overrides, origin, chosen=task is not None)
            return Resolved(result) if isinstance(result, Settings) else result
        if len(self.known) >= MAX_CACHED:
            self.known.clear()
        free = Own._make(blank if blank == there else None for blank, there in zip(blanks, own_of(result), strict=True))
        shared = own.only(free).settings(result)  # the first such row's: a layer above may have replaced a value
        self.known[key] = shared, free
        return Resolved(shared)

    def _layers(self, overrides: Tree, origin: Origin) -> list[Layer]:
        return [*self.below, Layer(overrides, origin), *self.options]

    def _resolve(self, overrides: Tree, origin: Origin, *, chosen: bool = False) -> Settings | list[Problem]:
        layers = self._layers(overrides, origin)
        return resolve([*layers, Layer({"task": overrides["task"]}, origin)] if chosen else layers)


def resolve(layers: Sequence[Layer], *, with_mask: bool = True) -> Settings | list[Problem]:
    """Return the settings that ``layers`` make, lowest first. ``with_mask=False``: the caller brings the mask."""
    layers = [replace(layer, tree=spelled_out(layer.tree)) for layer in layers]
    tree, base = _stack(layers)
    try:
        settings = Settings.model_validate(tree)
    except ValidationError as error:
        findings = [_blame_preset(finding, layers, base) for finding in explain(error, Entry)]
    else:
        findings = [Finding(path, text) for path, text in conflicts(settings, with_mask)]
        if not findings:
            return settings
    return [locate(finding, layers) for finding in findings]


def check_alone(layer: Layer) -> list[Problem]:
    """Return what is wrong with a layer whatever the others bring."""
    layer = replace(layer, tree=spelled_out(layer.tree))
    try:
        Settings.model_validate(_stack([layer])[0])
    except ValidationError as error:
        return [locate(finding, [layer]) for finding in explain(error, Entry) if not finding.partial]
    return []


def _stack(layers: Sequence[Layer]) -> tuple[Tree, Tree]:
    """Return all layers in one tree, and the preset's tree at its bottom."""
    layers = [*layers, *_decided(layers)]
    base = _preset(layers)
    tree = base
    for layer in layers:
        tree = with_types(merge(tree, layer.tree), Settings)
    return tree, base


def _decided(layers: Sequence[Layer]) -> list[Layer]:
    """Return a layer with a task for ``layers`` that make one of type auto."""
    keys = open_task(layer.tree for layer in layers)
    if keys is None:
        return []
    damages = [layer.tree["degrade"] for layer in layers if layer.tree.get("degrade")]
    damage = {key: value for tree in damages if isinstance(tree, dict) for key, value in tree.items()}
    task = task_of_keys(keys) if keys or not damage else task_of_damage(damage)
    return [Layer({"task": keys | task}, "task")]


def _preset(layers: Sequence[Layer]) -> Tree:
    """Return the tree of the preset that ``layers`` name; empty when they name none or their task is no good."""
    task: Tree = {}
    name: Any = "balanced"
    for layer in layers:
        name = layer.tree.get("preset", name)
        if "task" in layer.tree:
            task = with_types(merge(task, {"task": layer.tree["task"]}), Settings)
    try:
        settings = Settings.model_validate(task)
    except ValidationError:
        return {}
    return presets.preset(name, settings.task.model_dump()) if name in get_args(Preset) else {}


def merge(below: Any, above: Any) -> Any:
    """Return ``above`` merged over ``below``. Neither is changed, and the result may share parts with both.

    Keys that stand under a type of auto stay under any other.
    """
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    if "type" in below and "type" in above and below["type"] not in (AUTO, above["type"]):
        return above
    return below | {key: merge(below[key], value) if key in below else value for key, value in above.items()}


def with_types(tree: Tree, model: type[Section]) -> Tree:
    """Return ``tree`` with the schema's `type` in each section that has a choice and names none."""
    out = dict(tree)
    for name, choices, usual in _choices(model):
        inner = out.get(name)
        if not isinstance(inner, dict):
            continue
        if usual is not None and "type" not in inner:
            inner = {"type": usual, **inner}
        kind = inner.get("type") if len(choices) > 1 else next(iter(choices))
        out[name] = with_types(inner, choices[kind]) if isinstance(kind, str) and kind in choices else inner
    return out


@cache
def _choices(model: type[Section]) -> list[tuple[str, dict[str, type[Section]], str | None]]:
    """Return, for each section in ``model``, its name, what it may be, and its usual type where there is a choice."""
    found = [(name, sections(field), field.default) for name, field in model.model_fields.items()]
    return [
        (name, choices, getattr(default, "type", None) if len(choices) > 1 else None)
        for name, choices, default in found
        if choices
    ]


def locate(finding: Finding, layers: Sequence[Layer]) -> Problem:
    """Attribute a finding to the topmost layer that holds its key, or what is around it."""
    for length in range(len(finding.path), 0, -1):
        path = finding.path[:length]
        for layer in reversed(layers):
            if _holds(layer.tree, path):
                if layer.task and finding.on_key and path == finding.path[:2]:
                    return Problem(layer.origin, f"belongs to task {layer.task}, and the task here is another")
                origin = layer.origin if isinstance(layer.origin, str) else (*layer.origin, *path)
                return Problem(origin, finding.text, finding.on_key and length == len(finding.path))
    return Problem(layers[-1].origin, finding.text)


def _holds(tree: Any, path: Path) -> bool:
    for part in path:
        known = tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, (list, tuple)) else ()
        if part not in known:
            return False
        tree = tree[part]
    return True


def _blame_preset(finding: Finding, layers: Sequence[Layer], base: Tree) -> Finding:
    """Say so where a finding speaks of a generator setting that nobody wrote but the preset."""
    for name in base.get("generator", {}):
        written = any(_holds(layer.tree, ("generator", name)) for layer in layers)
        if finding.text.startswith(f"generator: {name} ") and not written:
            return finding._replace(text=f"{finding.text}; {name} comes from the preset")
    return finding
