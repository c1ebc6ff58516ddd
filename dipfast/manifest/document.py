"""A SOURCE (manifest, folder, glob or image) → `Manifest`: all items, or all that is wrong with it.

Nothing is written, and no image is opened. Relative paths start at `root`, which starts at the manifest's
folder, as `output` does; on the command line both start at the working directory.
"""
# ruff: noqa: PTH100, PTH109, PTH112, PTH113, PTH120, PTH122

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dipfast import remote
from dipfast.errors import ManifestError, NothingMatchedError, UsageError
from dipfast.manifest import yaml
from dipfast.manifest.items import ItemReader
from dipfast.manifest.layers import Layer, Resolver, check_alone, locate, merge
from dipfast.manifest.options import Options, read_options
from dipfast.manifest.paths import SAMPLE, PathError, local, split, url
from dipfast.manifest.problems import MAX_PROBLEMS, Problem, Problems
from dipfast.manifest.resolved import Manifest
from dipfast.manifest.search import HAS_WILD
from dipfast.manifest.wording import explain, unknown_key
from dipfast.settings.document import VERSION, Document, Products
from dipfast.settings.files import EXTENSIONS, SUFFIXES

Tree = dict[str, Any]


def load(
    source: str | os.PathLike[str],
    *,
    sets: Sequence[str] = (),
    task: str | None = None,
    preset: str | None = None,
    seed: int | None = None,
    engine: str | None = None,
    precision: str | None = None,
    strength: float | None = None,
    reference: str | None = None,
) -> Manifest:
    """Read a SOURCE: a manifest (.yaml, .yml), a folder, a glob, one image or ``sample:NAME``.

    ``sets`` are ``dotted.key=value`` with a YAML value; the rest are flags of the command line. Raises
    `ManifestError` with all problems, `NothingMatchedError` where there is no image, and `UsageError` where
    SOURCE is nothing of the kind.
    """
    flags = {
        "task": task,
        "preset": preset,
        "seed": seed,
        "engine": engine,
        "precision": precision,
        "strength": strength,
        "reference": reference,
    }
    options = read_options(sets, flags)
    name = os.fspath(source)
    if os.path.isfile(name) and name.lower().endswith((".yaml", ".yml")):
        return _from_text(_read(name), name, os.path.dirname(os.path.abspath(name)), options)
    root, path = _bare(name)
    return _assemble({"items": [path]}, root, Problems(name), options)


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
        return Path(name).read_bytes()
    except OSError as error:
        raise UsageError(f"{name}: cannot be read: {error.strerror}") from None


def _bare(source: str) -> tuple[str, str]:
    """Return the root and the path for a SOURCE that is no manifest."""
    if source.startswith(SAMPLE):
        return os.getcwd(), source
    if not source:
        raise UsageError("SOURCE: should be text that is not empty, is ''")
    try:
        full = local(source, os.getcwd())
    except PathError as error:
        raise UsageError(f"SOURCE: {error}") from None
    if remote.is_remote(full):
        wild = HAS_WILD(full)
        is_file = wild is None and full.lower().endswith(SUFFIXES)
        folder = full[: wild.start()] if wild else full if is_file else full + "/"
        return folder.rpartition("/")[0], full
    if os.path.isdir(full):
        return full, url(full)
    if os.path.lexists(full) and (full.lower().endswith(SUFFIXES) or not os.path.splitext(full)[1]):
        return os.path.dirname(full), url(full)
    if not os.path.lexists(full) and HAS_WILD(source):
        base, parts = split(source, os.getcwd())
        return base, "/".join(parts)
    rule = "should be a manifest (.yaml), a folder, a glob or one image"
    endings = ", ".join(f".{several[0]}" for several in EXTENSIONS.values())
    raise UsageError(f"SOURCE: {rule} ({endings}), {source!r} {_what_is(full)}")


def _what_is(path: str) -> str:
    """Return what is wrong with a SOURCE that is no folder and has no image's ending, in words."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "is not there"
    except OSError as error:
        return f"cannot be reached: {error.strerror}"
    return "is another file"


def _from_text(text: str | bytes, name: str, base: str, options: Options) -> Manifest:
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
    return _assemble(tree.data, base, problems, options)


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


def _assemble(document: Tree, base: str, problems: Problems, options: Options) -> Manifest:
    """Return the manifest of a document whose keys have been checked; ``base`` is where its relative paths start."""
    for problem in options.problems:
        problems.add(problem)
    layers = [Layer(document, ()), *options.document]
    root = _folder("root", layers, base, problems, must_exist=True) or base
    output = _folder("output", layers, base, problems)
    products = _products(layers, problems)
    reader = ItemReader(root, _resolver(document, problems, options), problems)
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
    return Resolver(layer, options.settings)


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
