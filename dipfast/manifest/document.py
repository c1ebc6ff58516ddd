"""A SOURCE (manifest, folder, glob or image) → `Manifest`: all items, or all that is wrong with it.

Nothing is written, and no image is opened. Relative paths start at `root`, which starts at the manifest's
folder, as `output` does; on the command line both start at the working directory.
"""
# ruff: noqa: PTH100, PTH109, PTH112, PTH120

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipfast import remote
from dipfast.errors import ManifestError, NothingMatchedError, UsageError
from dipfast.manifest import yaml
from dipfast.manifest.items import ItemReader
from dipfast.manifest.layers import Layer, Resolver, check_alone, locate, merge
from dipfast.manifest.options import Options, read_options
from dipfast.manifest.paths import PathError, local
from dipfast.manifest.problems import MAX_PROBLEMS, Problem, Problems
from dipfast.manifest.resolved import Manifest
from dipfast.manifest.sources import is_manifest, read_sources
from dipfast.manifest.spelling import Chooser
from dipfast.manifest.wording import explain, unknown_key
from dipfast.settings.document import VERSION, Document, Products

Tree = dict[str, Any]

PAIR = re.compile(rb"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|.)")  # an escape of JSON


def load(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    sets: Sequence[str] = (),
    task: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    engine: str | None = None,
    precision: str | None = None,
    strength: float | None = None,
    reference: str | None = None,
    short: Mapping[str, object] | None = None,
    choose: Chooser | None = None,
) -> Manifest:
    """Read a SOURCE: a manifest (.yaml, .yml, .json), a folder, a glob, one image, ``sample:NAME``, or a list of these.

    A list holds no manifest; a file that several of its entries name is one item.
    ``sets`` are ``dotted.key=value`` with a YAML value; the rest are flags of the command line, ``short`` those of a
    task's keys (sigma, scale, mask, quality, force). ``choose`` tells the task of a picture for which nothing else
    does; without it that is denoise. Raises `ManifestError` with all problems, `NothingMatchedError` where there is no
    image, and `UsageError` where SOURCE is nothing of the kind.
    """
    flags = {
        "task": task,
        "preset": preset,
        "seed": seed,
        "engine": engine,
        "precision": precision,
        "strength": strength,
        "reference": reference,
        **(short or {}),
    }
    options = read_options(sets, flags)
    names = [os.fspath(one) for one in ([source] if isinstance(source, str | os.PathLike) else source)]
    if len(names) == 1 and is_manifest(names[0]):
        return _from_text(_read(names[0]), names[0], os.path.dirname(os.path.abspath(names[0])), options, choose)
    found = read_sources(names)
    manifest = _assemble({"items": found.rows}, found.root, Problems(found.name, rows=names), options, choose)
    return replace(manifest, folder=found.folder)


def parse(
    text: str | bytes,
    name: str,
    base_dir: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
) -> Manifest:
    """Read a manifest's text; ``name`` stands in errors, paths start at ``base_dir``. Raises as `load`."""
    return _from_text(text, name, os.path.abspath(base_dir), read_options(sets, {}))


def _read(name: str) -> bytes:
    try:
        size = Path(name).stat().st_size
        if size > yaml.MAX_BYTES:
            raise UsageError(f"{name}: should be at most {yaml.MAX_BYTES} bytes, is {size}")
        text = Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None
    return PAIR.sub(_joined, text) if name.lower().endswith(".json") else text


def _joined(escape: re.Match[bytes]) -> bytes:
    """Return the character that JSON spells as a surrogate pair, unknown to YAML; other escapes as they are."""
    high, low = escape.groups()
    if high is None:
        return escape[0]
    return chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00).encode()


def _from_text(text: str | bytes, name: str, base: str, options: Options, choose: Chooser | None = None) -> Manifest:
    tree = yaml.load(text)
    problems = Problems(name, tree)
    if not tree.whole:
        problems.raise_any()
    if not isinstance(tree.data, dict):
        what = "is empty" if tree.data is None else f"should be a mapping, is {yaml.quoted(tree.data)}"
        problems.add(Problem((), what))
        problems.raise_any()
    for problem in _check_keys(tree.data):
        problems.add(problem)
    return _assemble(tree.data, base, problems, options, choose)


def _check_keys(document: Tree) -> list[Problem]:
    """Return what is wrong at the top level, but for `export` and `report`."""
    wrong = [
        Problem((key,), unknown_key(key, (), Document), on_key=True)
        for key in list(document)[:MAX_PROBLEMS]
        if key not in Document.model_fields
    ]
    version, items = document.get("version"), document.get("items")
    if "version" not in document:
        wrong.append(Problem((), f"version: is missing; this dipfast reads version {VERSION}"))
    elif type(version) is not int or version != VERSION:
        text = f"version: should be {VERSION}, which this dipfast reads, is {yaml.quoted(version)}"
        wrong.append(Problem(("version",), text))
    if "items" not in document:
        wrong.append(Problem((), "items: is missing (what to restore)"))
    elif not isinstance(items, list) or not items:
        text = "is an empty list" if items == [] else f"is {yaml.quoted(items)}"
        wrong.append(Problem(("items",), f"items: should be a list of paths and mappings, {text}"))
    if "defaults" in document and not isinstance(document["defaults"], dict):
        text = f"defaults: should be a mapping, is {yaml.quoted(document['defaults'])}"
        wrong.append(Problem(("defaults",), text))
    return wrong


def _assemble(
    document: Tree, base: str, problems: Problems, options: Options, choose: Chooser | None = None
) -> Manifest:
    """Return the manifest of a document whose keys have been checked; ``base`` is where its relative paths start."""
    for problem in options.problems:
        problems.add(problem)
    layers = [Layer(document, ()), *options.document]
    root = _folder("root", layers, base, problems, must_exist=True) or base
    output = _folder("output", layers, base, problems)
    products = _products(layers, problems)
    named = None if problems.tree else set[str]()
    reader = ItemReader(root, _resolver(document, problems, options), problems, named=named, choose=choose)
    rows = document.get("items")
    with yaml.collector_paused():
        reader.read(rows if isinstance(rows, list) else [])
    _raise_any(reader, problems)
    return Manifest(
        source=problems.name,
        root=root,
        output=output,
        items=tuple(reader.items),
        export=products.export,
        report=products.report,
        left_out=reader.not_taken(),
    )


def _folder(
    key: str, layers: Sequence[Layer], base: str, problems: Problems, *, must_exist: bool = False
) -> str | None:
    """Return the absolute folder that the topmost layer with ``key`` names."""
    layer = next((layer for layer in reversed(layers) if layer.tree.get(key) is not None), None)
    if layer is None:
        return None
    value = layer.tree[key]
    origin = layer.origin if isinstance(layer.origin, str) else (key,)
    try:
        if not isinstance(value, str) or not value:
            raise PathError(f"should be a folder, is {yaml.quoted(value)}")
        folder = local(value, os.getcwd() if isinstance(origin, str) else base)
        if must_exist and not remote.is_remote(folder) and not os.path.isdir(folder):
            raise PathError(f"should be a folder, {folder!r} is none")
        return folder
    except PathError as error:
        problems.add(Problem(origin, f"{key}: {error}"))
        return None


def _products(layers: Sequence[Layer], problems: Problems) -> Products:
    tree: Any = {}
    for layer in layers:
        tree = merge(tree, {key: layer.tree[key] for key in Products.model_fields if key in layer.tree})
    try:
        return Products.model_validate(tree)
    except ValidationError as error:
        for finding in explain(error, Document):
            problems.add(locate(finding, layers))
        return Products()


def _resolver(document: Tree, problems: Problems, options: Options) -> Resolver:
    defaults = document.get("defaults")
    layer = Layer(defaults if isinstance(defaults, dict) else {}, ("defaults",))
    for problem in check_alone(layer):
        problems.add(problem)
    choosing = problems.tree is None or any(option.task for option in options.settings)
    return Resolver(layer, options.settings, choosing=choosing)


def _raise_any(reader: ItemReader, problems: Problems) -> None:
    """Raise `ManifestError` with all that is wrong, `NothingMatchedError` where that is only a lack of images."""
    is_empty = bool(reader.empty) and not reader.items and not problems
    for problem in reader.empty:
        problems.add(problem)
    try:
        problems.raise_any()
    except ManifestError as error:
        if is_empty:
            raise NothingMatchedError(str(error)) from None
        raise
