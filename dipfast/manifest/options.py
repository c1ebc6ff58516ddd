"""Settings that no manifest brings: flags and ``--set`` of the command line, and Python's keyword arguments.

Each option and each argument becomes a layer of its own, so that what is wrong with it is reported under its own words.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dipfast.errors import UsageError
from dipfast.manifest import yaml
from dipfast.manifest.items import companions, words_of
from dipfast.manifest.layers import Layer, Tree, resolve
from dipfast.manifest.paths import PathError, url
from dipfast.manifest.problems import Problem
from dipfast.manifest.spelling import AUTO, as_section
from dipfast.manifest.wording import dotted, unknown_key
from dipfast.remote import is_remote
from dipfast.settings.document import Settings
from dipfast.settings.fit import Fit
from dipfast.settings.section import sections
from dipfast.settings.task import ALPHA

FLAGS = {
    "task": ("task", "type"),
    "preset": ("preset",),
    "seed": ("fit", "seed"),
    "engine": ("fit", "engine"),
    "precision": ("fit", "precision"),
    "strength": ("output", "strength"),
    "reference": ("reference",),
    "sigma": ("task", "noise", "sigma"),
    "force": ("task", "noise", "force"),
    "quality": ("task", "quality"),
    "mask": ("task", "mask"),
    "scale": ("task", "scale"),
}
TASKS = {"sigma": "denoise", "force": "denoise", "quality": "jpeg", "mask": "inpaint", "scale": "superres"}  # of flags
KEYWORDS = {name: FLAGS[name] for name in ("sigma", "strength")}  # of Python, beside the keys of sections
NOT_SETTABLE = ("version", "items")
MAX_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Options:
    """Layers above every item, layers above the document's own keys, and what could not be read."""

    settings: tuple[Layer, ...] = ()
    document: tuple[Layer, ...] = ()
    problems: tuple[Problem, ...] = ()


def read_options(sets: Sequence[str], flags: Mapping[str, object]) -> Options:
    """Return the layers of the flags and then of ``sets`` in their order: later ones win. None: a flag not given."""
    given = {name: value for name, value in flags.items() if value is not None}
    wrong = _contradictions(given)
    read: list[Layer | Problem] = [wrong.get(name) or _flag(name, value) for name, value in given.items()]
    read += [_set(text) for text in sets]
    layers = [one for one in read if isinstance(one, Layer)]
    problems = tuple(one for one in read if isinstance(one, Problem))
    document = tuple(layer for layer in layers if _is_document(layer.tree))
    return Options(tuple(layer for layer in layers if layer not in document), document, problems)


def _contradictions(flags: Mapping[str, object]) -> dict[str, Problem]:
    """Return a problem for each flag that is for another task than --task, or than the first such flag."""
    found = {}
    said, task = f"--task {flags.get('task')}", flags.get("task", AUTO)
    for name in (name for name in TASKS if name in flags):
        if task == AUTO:
            said, task = f"--{name}", TASKS[name]
        elif task != TASKS[name]:
            text = f"belongs to task {TASKS[name]}, but {said} asks for task {task}: leave out one of them"
            found[name] = Problem(_origin(name, flags[name]), text)
    return found


def _origin(name: str, value: object) -> str:
    return f"--{name}" if value is True else f"--{name} {value}"


def _flag(name: str, value: object) -> Layer:
    origin = _origin(name, value)
    if name == "reference":
        path = str(value) if is_remote(str(value)) else str(Path(str(value)).absolute())
        value = path.replace("{", "{{").replace("}", "}}")
    elif name == "mask":
        value = _mask(str(value))
    elif name in TASKS and isinstance(value, str):
        tree = yaml.load(value)
        value = tree.data if tree.whole and not tree.flaws else value
    return Layer(nested(FLAGS[name], value), origin, TASKS.get(name, ""))


def _mask(text: str) -> str:
    """Return the template of a mask that --mask names from the working directory.

    Placeholders such as {name} stand for parts of a picture's name, unless there is a file of just that name.
    """
    if text == ALPHA or "://" in text:
        return text
    folder, path = str(Path.cwd()), Path(text)
    if path.is_absolute() or path.exists():
        return url(str(path.absolute())) if path.exists() else text
    return str(Path(folder.replace("{", "{{").replace("}", "}}"), text))


def _set(text: str) -> Layer | Problem:
    """Read ``KEY=VALUE``. A value that is no YAML is text: ``{name}_x.png`` needs no quotes."""
    origin = f"--set {text}" if len(text) <= MAX_SHOWN else f"--set {text[:MAX_SHOWN]}…"
    name, equals, value = text.partition("=")
    keys = [key.strip() for key in name.removeprefix("defaults.").split(".")]
    if not equals or not all(keys):
        return Problem(origin, "should be KEY=VALUE with a dotted key, like fit.steps=500")
    if keys[0] in NOT_SETTABLE:
        return Problem(origin, f"{keys[0]} cannot be set here, only in a manifest")
    tree = yaml.load(value)
    if tree.whole and tree.flaws:
        return Problem(origin, tree.flaws[0].text)
    return Layer(nested(keys, tree.data if tree.whole else value), origin)


def nested(keys: Sequence[str], value: Any) -> Tree:
    """Return nested mappings: ``("fit", "steps"), 5`` gives ``{"fit": {"steps": 5}}``."""
    tree = value
    for key in reversed(keys):
        tree = {key: tree}
    return dict(tree)


def _is_document(tree: Tree) -> bool:
    """Return whether a key is the document's. `output` is when it is text, the run's folder, not a mapping."""
    key, value = next(iter(tree.items()))
    return key in ("root", "export", "report") or (key == "output" and not isinstance(value, dict))


def settings_from(
    task: str | Mapping[str, Any] | None,
    preset: str | None,
    overrides: Mapping[str, Any],
    place: str = "restore()",
) -> Settings:
    """Return the settings of Python's keywords: keys of `fit` and the task, `sigma`, `strength`, and sections by name.

    Text stands for a section of that type: ``stop="discrepancy"``. Whether an inpainting has its mask is left
    to the caller. Raises `UsageError`, one line for each argument that is wrong.
    """
    given = {name: value for name, value in (("task", task), ("preset", preset)) if value is not None}
    given |= _flat(overrides)
    prefixes = {name: _keyword(name) for name in given}
    layers = [
        Layer(nested(prefix, as_section(prefix, _plain(given[name]))), name)
        for name, prefix in prefixes.items()
        if prefix
    ]
    result = resolve(layers or [Layer({}, place)], with_mask=False)
    lines = [_unknown(name) for name, prefix in prefixes.items() if not prefix]
    if isinstance(result, list):
        lines += [_by_keyword(problem, prefixes) for problem in result]
    if lines or isinstance(result, list):
        raise UsageError("\n".join(f"{place}: {line}" for line in lines))
    return result


def files_beside(image: str, settings: Settings, place: str = "restore()") -> tuple[str | None, str | None]:
    """Return the mask and reference that ``settings`` name for the file ``image``, seen from the working directory."""
    try:
        return companions(settings, words_of(image, "", settings), str(Path.cwd()))
    except PathError as error:
        raise UsageError(f"{place}: {error}") from None


def _flat(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of `fit` beside the others: ``restore`` takes them as its own keywords."""
    fit = overrides.get("fit")
    if not isinstance(fit, Mapping):
        return dict(overrides)
    return {**{name: value for name, value in overrides.items() if name != "fit"}, **fit}


def _unknown(name: str) -> str:
    return unknown_key(name, (), Fit).replace("key", "argument", 1)


def _keyword(name: str) -> tuple[str, ...]:
    """Return where a keyword stands in the settings; empty for one that stands nowhere."""
    if name in KEYWORDS:
        return KEYWORDS[name]
    if name in Settings.model_fields:
        return (name,)
    if name in Fit.model_fields:
        return ("fit", name)
    tasks = sections(Settings.model_fields["task"]).values()
    return ("task", name) if any(name in model.model_fields and name != "type" for model in tasks) else ()


def _plain(value: Any) -> Any:
    """Return a plain number, list or text for Python's and NumPy's other ways to write them."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value


def _by_keyword(problem: Problem, prefixes: Mapping[str, tuple[str, ...]]) -> str:
    """Return the text of a problem under the name of its argument: ``steps: …`` for ``fit.steps: …``."""
    name = str(problem.origin)
    if name == "sigma" and problem.text.startswith("task: unknown key 'noise'"):
        return "sigma belongs to task denoise"
    prefix = dotted(prefixes.get(name, ()))
    if prefix and problem.text.startswith((f"{prefix}:", f"{prefix}.", f"{prefix}[")):
        return name + problem.text.removeprefix(prefix)
    return problem.text
