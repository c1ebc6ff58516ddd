"""pydantic's errors in a user's words: the rule, the value, and the right spelling where one is near.

This file knows the schema and what pydantic reports about it; it knows no file and no place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError

from dipfast.manifest.scan import Path
from dipfast.manifest.yaml import quoted
from dipfast.settings.document import Document, Entry, Settings
from dipfast.settings.rules import either
from dipfast.settings.section import Section, sections
from dipfast.settings.task import LATER_TASKS

Raw = dict[str, Any]  # one entry of ValidationError.errors()


class Finding(NamedTuple):
    """One mistake in a settings tree: the key it is about, and what to say."""

    path: Path
    text: str
    on_key: bool = False
    partial: bool = False  # what is missing here, another layer may bring


MAX_ERRORS = 1000
TOP: Path = ("top level",)
NOT_SET: tuple[Path, ...] = (TOP, ("defaults",), ("items",))  # sections whose keys have no dotted name for --set
KINDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
RULES: dict[str, Callable[[Raw], str]] = {
    "finite_number": lambda ctx: "a finite number",
    "greater_than": lambda ctx: f"above {_number(ctx['gt'])}",
    "greater_than_equal": lambda ctx: f"at least {_number(ctx['ge'])}",
    "less_than": lambda ctx: f"below {_number(ctx['lt'])}",
    "less_than_equal": lambda ctx: f"at most {_number(ctx['le'])}",
    "too_short": lambda ctx: f"a list of at least {ctx['min_length']}",
    "too_long": lambda ctx: f"a list of at most {ctx['max_length']}",
    "string_too_short": lambda ctx: "text that is not empty",
    "string_too_long": lambda ctx: f"text of at most {ctx['max_length']} characters",
}


def explain(error: ValidationError, model: type[Section]) -> list[Finding]:
    """Return what is wrong with a tree that ``model``, or a part of it, refused: one finding for each key."""
    groups: dict[Path, list[Raw]] = {}
    holders: dict[Path, type[Section]] = {}
    for raw in error.errors(include_url=False)[:MAX_ERRORS]:
        path, holder = _route(raw["loc"], model)
        groups.setdefault(path, []).append(dict(raw))
        holders[path] = holder
    shadowed = {path[:-1] for path in groups if path and isinstance(path[-1], int)}
    return [_finding(path, raws, holders[path]) for path, raws in groups.items() if path not in shadowed]


def _route(loc: tuple[str | int, ...], model: type[Section]) -> tuple[Path, type[Section]]:
    """Return ``loc`` without the union tags that pydantic puts in, and the section where it ends."""
    path: list[str | int] = []
    parts = iter(loc)
    for part in parts:
        path.append(part)
        field = model.model_fields.get(str(part))
        choices = sections(field) if field else {}
        if not choices:
            path += [rest for rest in parts if isinstance(rest, int)]
        elif len(choices) == 1:
            model = next(iter(choices.values()))
        else:
            model = choices.get(str(next(parts, "")), model)
    return tuple(path), model


def _finding(path: Path, raws: list[Raw], holder: type[Section]) -> Finding:
    first = raws[0]
    match first["type"]:
        case "extra_forbidden":
            text = unknown_key(str(path[-1]), path[:-1], holder)
            return Finding(path, _about(path[:-1], text), on_key=True)
        case "missing":
            return Finding(path, f"{dotted(path)}: is missing{_meaning(path, holder)}", partial=True)
        case "union_tag_invalid":
            return Finding((*path, "type"), _about((*path, "type"), _bad_type(path, first)))
        case "union_tag_not_found":
            types = either(_tags(path))
            return Finding(path, f"{dotted(path)}.type: is missing; should be {types}", partial=True)
    return Finding(path, _about(path, _bad_value(raws)), partial=isinstance(first["input"], dict))


def _meaning(path: Path, holder: type[Section]) -> str:
    field = holder.model_fields.get(str(path[-1]))
    return f" ({field.description})" if field and field.description else ""


def _bad_value(raws: list[Raw]) -> str:
    """Return what a plain value should be. Of a union, the branches that know the value's type are named."""
    own = [raw for raw in raws if raw["type"] == "value_error"]
    if own:
        message, value = str(own[0]["ctx"]["error"]), own[0]["input"]
        about_value = message.startswith("should") and not isinstance(value, dict)
        return f"{message}, is {quoted(value)}" if about_value else message
    value = raws[0]["input"]
    ranges = [raw for raw in raws if raw["type"] in RULES]
    words = [_rule(raw) for raw in ranges or raws]
    text = f"should be {either(dict.fromkeys(words))}, is {quoted(value)}"
    options = [option for raw in raws if raw["type"] == "literal_error" for option in _options(raw)]
    return text + _nearest(value, options)


def _rule(raw: Raw) -> str:
    kind = raw["type"]
    if kind in RULES:
        return RULES[kind](raw.get("ctx", {}))
    if kind == "literal_error":
        return either(_options(raw))
    return KINDS.get(kind) or str(raw["msg"])


def _options(raw: Raw) -> list[str]:
    return [text.strip("'") for text in re.split(r", | or ", raw["ctx"]["expected"])]


def _bad_type(path: Path, raw: Raw) -> str:
    value = raw["input"].get("type") if isinstance(raw["input"], dict) else None
    if path == ("task",) and value in LATER_TASKS:
        return f"task {quoted(value)} is not in this version; there are {', '.join(_tags(path))}"
    return f"should be {either(_tags(path))}, is {quoted(value)}" + _nearest(value, _tags(path))


def _tags(path: Path) -> list[str]:
    """Return the types of the section at ``path``, over all variants of what is around it."""
    auto = ["auto"] if path == ("task",) else []
    return auto + [tag for section, _, tag in _catalogue() if section == path and tag]


def unknown_key(key: str, path: Path, holder: type[Section]) -> str:
    """Return why ``key`` is not in the section ``holder`` at ``path``, and where it would be right."""
    homes: dict[Path, list[str]] = {}
    for section, model, tag in _catalogue():
        if key in model.model_fields and key != "type":
            homes.setdefault(section, []).append(tag)
    if path in homes:
        return f"unknown key {quoted(key)}; {key} belongs {_home(path, homes[path])}"
    if homes:
        places = [_home(section, tags) for section, tags in homes.items()]
        return f"unknown key {quoted(key)}; {key} belongs {either(places[:3])}"
    near = _nearest(key, holder.model_fields)
    return f"unknown key {quoted(key)}{near or '; there are ' + ', '.join(holder.model_fields)}"


def keys_of_option(option: str, options: Sequence[str] = ()) -> list[str]:
    """Return the dotted keys, for --set, that an ``option`` which is none may mean: fit.steps for --steps.

    A spelling that is nearer to one of the ``options`` that there are means none.
    """
    keys = [
        dotted((*path, key)) for path, model, _ in _catalogue() if path not in NOT_SET for key in model.model_fields
    ]
    keys += Settings.model_fields
    name = option.strip("-").replace("-", "_")
    near = difflib.get_close_matches(name, {key.rpartition(".")[2] for key in keys}, n=1, cutoff=0.8)
    is_option = difflib.get_close_matches(option, options, cutoff=0.85)
    for meant in (name, *([] if is_option else near)):
        if found := [key for key in dict.fromkeys(keys) if f".{key}".endswith(f".{meant}")]:
            return found
    return []


def _home(section: Path, tags: list[str]) -> str:
    if section == TOP:
        return "at the top level"
    only = len(tags) == 1 and tags[0]
    return f"to {dotted(section)} {only}" if only else f"in {dotted(section)}"


@cache
def _catalogue() -> list[tuple[Path, type[Section], str]]:
    """Return every section of an item and of the document: where it stands, what it takes, its type or nothing."""
    document = _walk((), Document, skip=("defaults", "items"))
    return [
        *_walk((), Settings),
        (TOP, Document, ""),
        (("defaults",), Settings, ""),
        (("items",), Entry, ""),
        *document,
    ]


def _walk(path: Path, model: type[Section], tag: str = "", skip: Iterable[str] = ()) -> list[Any]:
    found: list[Any] = [(path, model, tag)] if path else []
    for name, field in model.model_fields.items():
        choices = {} if name in skip else sections(field)
        for kind, choice in choices.items():
            found += _walk((*path, name), choice, kind if len(choices) > 1 else "")
    return found


def _nearest(value: object, options: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(value), list(options), n=1) if isinstance(value, str) else []
    return f"; did you mean {quoted(near[0])}?" if near and near[0] != value else ""


def _about(path: Path, text: str) -> str:
    return f"{dotted(path)}: {text}" if path else text


def dotted(path: Path) -> str:
    """Return ``fit.optimizer.betas[1]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def _number(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
