"""The few settings that differ from item to item where all others are shared: a seed and the names of three files.

A million items can each have their own. Settings are resolved and checked once for all that share the others; these
keys decide about no other key, so each is checked by itself and put in where the whole settings are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from dipfast.settings.document import Settings
from dipfast.settings.section import Section, sections

S = TypeVar("S", bound=Section)
Tree = Mapping[str, Any]
Path = tuple[str, ...]


class Own(NamedTuple):
    """What an item has of its own beside shared settings; None where it has what they have."""

    seed: int | None = None
    template: str | None = None
    mask: str | None = None
    reference: str | None = None

    def settings(self, shared: Settings) -> Settings:
        """Return ``shared`` with these values, which have been checked."""
        for path, value in self._given():
            shared = _replaced(shared, path, value)
        return shared

    def tree(self, shared: dict[str, Any]) -> dict[str, Any]:
        """Return ``shared``, settings as plain data, with these values."""
        for path, value in self._given():
            shared = _replaced_in_tree(shared, path, value)
        return shared

    def blanks(self) -> Own:
        """Return a mark from `BLANK` for each value that is given."""
        return Own._make(None if value is None else blank for value, blank in zip(self, BLANK, strict=True))

    def over(self, below: Own) -> Own:
        """Return these values, and those of ``below`` for what is not given."""
        return Own._make(other if value is None else value for value, other in zip(self, below, strict=True))

    def only(self, where: Own) -> Own:
        """Return the values that are given in ``where`` too."""
        return Own._make(None if other is None else value for value, other in zip(self, where, strict=True))

    def _given(self) -> Iterator[tuple[Path, Any]]:
        return ((path, value) for path, value in zip(PATHS, self, strict=True) if value is not None)


PATHS: tuple[Path, ...] = (("fit", "seed"), ("output", "template"), ("task", "mask"), ("reference",))
NOTHING = Own()
BLANK = Own(2**63 - 1, "\ue000.png", "\ue001", "\ue002")  # valid values that nobody means: marks of places


def own_of(settings: Settings) -> Own:
    """Return the values that ``settings`` have for the keys of `Own`; None where they have none."""
    return Own._make(_at(settings, path) for path in PATHS)


def checked_own(tree: Tree) -> Own:
    """Return the values that ``tree`` gives for the keys of `Own`, but None for those with which something is wrong."""
    return Own._make(_checked(tree, path) if path[0] in tree else None for path in PATHS)


def _checked(tree: Tree, path: Path) -> Any:
    value = _at(tree, path)
    try:
        return None if value is None else ADAPTERS[path].validate_python(value)
    except ValidationError:
        return None


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else getattr(tree, key, None)
    return tree


def _adapter(path: Path) -> TypeAdapter[Any]:
    """Return what checks the one key at ``path`` as its section does."""
    models: list[type[Section]] = [Settings]
    for key in path[:-1]:
        models = [section for model in models for section in sections(model.model_fields[key]).values()]
    field = next(model.model_fields[path[-1]] for model in models if path[-1] in model.model_fields)
    annotation: Any = field.annotation
    for rule in field.metadata:
        annotation = Annotated[annotation, rule]
    return TypeAdapter(annotation, config=Section.model_config)


ADAPTERS = {path: _adapter(path) for path in PATHS}


def _replaced(model: S, path: Path, value: Any) -> S:
    """Return a copy of ``model`` with another value. To halve its size it shares the set of given keys."""
    key, *inner = path
    new = _replaced(getattr(model, key), tuple(inner), value) if inner else value
    changed = model.model_copy(update={key: new})
    object.__setattr__(changed, "__pydantic_fields_set__", model.model_fields_set)
    return changed


def _replaced_in_tree(tree: Tree, path: Path, value: Any) -> dict[str, Any]:
    key, *inner = path
    return {**tree, key: _replaced_in_tree(tree[key], tuple(inner), value) if inner else value}
