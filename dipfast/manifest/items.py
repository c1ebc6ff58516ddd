"""Rows of a manifest → items: each file with its settings, its output's name, its mask and its reference.

Two items never write one file: names are compared as the most forgiving file system would, without regard to
capitals and Unicode spelling. An image that is named and does not exist is no mistake of the manifest; its
item fails alone when it is opened. This file opens no image.
"""
# ruff: noqa: PTH110, PTH112, PTH118, PTH119, PTH120

from __future__ import annotations

import os
import re
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from dipfast import remote
from dipfast.manifest.layers import Resolved, Resolver, Tree
from dipfast.manifest.paths import FILE_URL, SAMPLE, Found, PathError, expand, local
from dipfast.manifest.problems import Problem, Problems
from dipfast.manifest.search import MASK, left_out
from dipfast.manifest.spelling import Chooser
from dipfast.manifest.yaml import quoted
from dipfast.settings.document import Settings
from dipfast.settings.files import SUFFIXES, WRITTEN
from dipfast.settings.own import NOTHING, Own
from dipfast.settings.task import ALPHA, Inpaint

IMAGE = re.compile(rf"[^/]+({'|'.join(map(re.escape, WRITTEN))})", re.IGNORECASE)
USUAL_TEMPLATE = "{relpath}/{name}.png"
ENDINGS = frozenset(suffix.removeprefix(".") for suffix in SUFFIXES)
# A relative path that spells one file, and nothing in it needs a second look: folder, name, ending.
SIMPLE = re.compile(r"(?:(\w[\w-]*(?:/\w[\w-]*)*)/)?(\w[\w-]*)\.(\w+)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Item:
    """One image to restore."""

    index: int
    path: str  # absolute, an address, or sample:NAME
    relpath: str  # folder of the image, seen from root, '/' between its parts; '' at the top
    name: str  # of the file, without its ending
    output: str  # under the run's images folder, '/' between its parts
    shared: Settings  # the object that all items have whose settings differ in nothing but `own`
    mask: str | None  # absolute, placeholders filled in
    reference: str | None
    place: str  # file:line:column of its row, or the SOURCE itself
    unlisted: str | None = None  # of a folder, which stands for what may be in it: why it cannot be listed
    own: Own = NOTHING
    chosen: str = ""  # why its task was chosen, where that was left to the picture

    @property
    def settings(self) -> Settings:
        """All settings, made anew where the item has some of its own."""
        return self.shared if self.own is NOTHING else self.own.settings(self.shared)


@dataclass(slots=True)
class ItemReader:
    """State of reading the rows: the items so far, from which row each came, and which rows gave none.

    ``left_out``: path → kind of what lies where a row looks and is not taken. ``named``: the files that were taken,
    where a file that several rows name is to be one item; ``choose`` tells the task of a picture that is to tell it.
    """

    root: str
    resolver: Resolver
    problems: Problems
    items: list[Item] = field(default_factory=list)
    rows: array[int] = field(default_factory=lambda: array("Q"))
    empty: list[Problem] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    named: set[str] | None = None
    choose: Chooser | None = None

    def read(self, rows: list[Any]) -> None:
        """Turn all rows into items, and forget them. What is wrong goes to ``problems`` and ``empty``."""
        plain = self.plain_settings()
        for number, row in enumerate(rows):
            rows[number] = None
            if plain is not None and isinstance(row, str) and self.read_simple(number, row, plain):
                continue
            if isinstance(row, str | dict):
                self.read_row(number, {"path": row} if isinstance(row, str) else row)
            else:
                text = f"items[{number}]: should be a path or a mapping, is {quoted(row)}"
                self.problems.add(Problem(("items", number), text))
            if self.problems.full:
                return
        self.leave_out_masks()
        for problem in collisions(self.items, self.rows):
            self.problems.add(problem)

    def leave_out_masks(self) -> None:
        """Take no mask of another picture for a picture, unless a manifest lists it."""
        masks = {item.mask for item in self.items if item.mask and (item.chosen or self.named is not None)}
        if masks.isdisjoint(item.path for item in self.items):
            return
        kept = [(item, row) for item, row in zip(self.items, self.rows, strict=True) if item.path not in masks]
        self.left_out |= {item.path: MASK for item in self.items if item.path in masks}
        self.items = [replace(item, index=index) for index, (item, _) in enumerate(kept)]
        self.rows = array("Q", [row for _, row in kept])

    def plain_settings(self) -> Settings | None:
        """Return the settings of a row that is a path alone, where they name no other file and the usual output."""
        settings = self.resolver.settings({}, ())
        if self.choose is not None and self.resolver.is_open({}):
            return None
        if not isinstance(settings, Settings) or remote.is_remote(self.root) or os.sep != "/":
            return None
        names_files = settings.reference or (isinstance(settings.task, Inpaint) and settings.task.mask)
        return None if names_files or settings.output.template != USUAL_TEMPLATE else settings

    def read_simple(self, number: int, row: str, settings: Settings) -> bool:
        """Do as `read_row` with a plain path, in a quarter of its time. Return whether the row was one."""
        spelled = SIMPLE.fullmatch(row)
        if spelled is None or spelled[3].lower() not in ENDINGS:
            return False
        folder, name, _ = spelled.groups("")
        path = self.root + row if self.root.endswith(os.sep) else f"{self.root}{os.sep}{row}"
        output = f"{folder}/{name}.png" if folder else f"{name}.png"
        place = self.problems.row(number)
        self.items.append(Item(len(self.items), path, folder, name, output, settings, None, None, place))
        self.rows.append(number)
        return True

    def read_row(self, number: int, entry: Mapping[str, Any]) -> None:
        overrides = {key: value for key, value in entry.items() if key not in ("path", "relpath")}
        result = self.resolver.resolved(overrides, ("items", number))
        wrong = [Problem(("items", number, key), text) for key, text in _wrong_names(number, entry)]
        for problem in (result if isinstance(result, list) else []) + wrong:
            self.problems.add(problem)
        if wrong:
            return
        try:
            settings = result.shared if isinstance(result, Resolved) else Settings()
            found = self.find(number, entry["path"], settings.input.formats)
            if isinstance(result, Resolved):
                is_open = self.choose is not None and self.resolver.is_open(overrides)
                self.add(number, found, entry.get("relpath"), result, overrides if is_open else None)
        except PathError as error:
            self.problems.add(Problem(("items", number, "path"), f"items[{number}]: {error}"))

    def find(self, number: int, path: str, formats: Sequence[str]) -> Found:
        """Return the files of one row."""
        if path.startswith(SAMPLE):
            return Found([path], "")
        found = expand(path, self.root, formats)
        if not (found.files or found.unlisted):
            what = f"{quoted(path)} matches" if self.problems.tree else "matches"
            others = f"; left out: {left_out(found.left_out.values())}" if found.left_out else ""
            text = f"{what} no image ({', '.join(formats)}){others}"
            self.empty.append(Problem(("items", number, "path"), text))
        self.left_out |= found.left_out
        return found

    def add(
        self, number: int, found: Found, relpath: str | None, settings: Resolved, to_choose: Tree | None = None
    ) -> None:
        """Make items of the files of a row. ``to_choose``: its keys, where each picture is to tell its task."""
        place = self.problems.row(number)
        for file in found.files:
            if self.named is not None and file in self.named:
                continue
            if self.named is not None:
                self.named.add(file)
            where = self.relpath(file, found.base) if relpath is None else relpath
            chosen, why = (settings, "") if to_choose is None else self.chosen(number, file, settings, to_choose)
            self.items.append(self.item(file, where, chosen, place, why))
            self.rows.append(number)
        for folder, reason in found.unlisted.items():
            self.items.append(self.unlisted(folder, self.relpath(folder, found.base), settings, place, reason))
            self.rows.append(number)

    def chosen(self, number: int, file: str, settings: Resolved, overrides: Tree) -> tuple[Resolved, str]:
        """Return the settings of a picture with the task that suits it, and why it does."""
        assert self.choose is not None
        task, why = self.choose(file, settings.shared.input)
        result = self.resolver.resolved(overrides, ("items", number), task)
        if isinstance(result, Resolved):
            return result, why
        for problem in result:
            self.problems.add(problem._replace(text=f"{problem.text} ({task['type']} is chosen for {file}: {why})"))
        return settings, why

    def not_taken(self) -> str:
        """Return what no row takes of all that lies where rows look, in words."""
        if not self.left_out:
            return ""
        taken = {item.path for item in self.items}
        entered = taken | {os.path.dirname(path) for path in taken}  # a linked folder may be named by another row
        return left_out(kind for path, kind in self.left_out.items() if path not in entered)

    def relpath(self, file: str, base: str) -> str:
        """Return the file's folder from root, else from the folder that was listed, else nothing."""
        folders = (relative(file, folder) for folder in (self.root, base) if folder)
        return next((folder for folder in folders if folder is not None), "")

    def item(self, file: str, relpath: str, settings: Resolved, place: str, chosen: str = "") -> Item:
        shared, own = settings
        words = words_of(file, relpath, shared, own)
        mask, reference = companions(shared, words, self.root, own)
        return Item(
            index=len(self.items),
            path=file,
            relpath=relpath,
            name=str(words["name"]),
            output=output_name(own.template or shared.output.template, words),
            shared=shared,
            mask=mask,
            reference=reference,
            place=place,
            own=own,
            chosen=chosen,
        )

    def unlisted(self, folder: str, relpath: str, settings: Resolved, place: str, reason: str) -> Item:
        """Return the item of a folder that cannot be listed. It fails alone, so its output is never written."""
        words = {"relpath": relpath, "name": os.path.basename(folder) or "folder"}
        output = output_name(USUAL_TEMPLATE, words)
        shared, own = settings
        return Item(len(self.items), folder, relpath, words["name"], output, shared, None, None, place, reason, own)


def _wrong_names(number: int, entry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    path, relpath = entry.get("path"), entry.get("relpath")
    if path and isinstance(path, str) and relpath is None and not path.startswith(SAMPLE):
        return  # as most of a million are
    if "path" not in entry:
        yield "", f"items[{number}].path: is missing (image, folder or glob)"
    elif not isinstance(path, str) or not path:
        yield "path", f"items[{number}].path: should be text that is not empty, is {quoted(path)}"
    elif path.startswith(SAMPLE) and not re.fullmatch(r"[A-Za-z0-9_-]+", path.removeprefix(SAMPLE)):
        yield "path", f"items[{number}].path: should be sample:NAME, is {quoted(path)}"
    if relpath is not None and not (isinstance(relpath, str) and _is_inside(relpath)):
        text = f"items[{number}].relpath: should be a folder below the output folder, is {quoted(relpath)}"
        yield "relpath", text


def _is_inside(folder: str) -> bool:
    return not (folder.startswith(("/", "~")) or ".." in folder.split("/") or re.search(r"[\\:\x00-\x1f]", folder))


def split_name(file: str) -> tuple[str, str]:
    """Return the name and the ending without its dot. A sample is a PNG."""
    if file.startswith(SAMPLE):
        return file.removeprefix(SAMPLE), "png"
    base = file.rpartition(os.sep)[2]
    name, dot, ending = base.rpartition(".")
    return (name, ending) if dot and name.strip(".") else (base, "")  # as os.path.splitext has it


def words_of(file: str, relpath: str, settings: Settings, own: Own = NOTHING) -> dict[str, object]:
    """Return what the placeholders of names stand for, with ``settings`` and what an item has of its ``own``."""
    name, ending = split_name(file)
    return {
        "relpath": relpath,
        "name": name,
        "stem": name,
        "ext": ending,
        "task": settings.task.type,
        "preset": settings.preset,
        "seed": settings.fit.seed if own.seed is None else own.seed,
    }


def companions(
    settings: Settings, words: Mapping[str, object], root: str, own: Own = NOTHING
) -> tuple[str | None, str | None]:
    """Return the absolute paths of an image's mask and reference. Raises `PathError`. Its alpha needs no path."""
    mask = own.mask or (settings.task.mask if isinstance(settings.task, Inpaint) else None)
    mask = None if mask == ALPHA else mask
    reference = own.reference or settings.reference
    return (
        fill("task.mask", mask, words, root) if mask else None,
        beside(reference, words, root) if reference else None,
    )


def relative(file: str, base: str) -> str | None:
    """Return the folder of ``file`` seen from ``base``; None where it is elsewhere."""
    prefix = base if base.endswith(os.sep) else base + os.sep
    if not file.startswith(prefix):
        return None
    folder = file[len(prefix) :].rpartition(os.sep)[0]
    return folder if os.sep == "/" else folder.replace(os.sep, "/")


def output_name(template: str, words: Mapping[str, object]) -> str:
    """Return the file to write, always valid Unicode. Raises `PathError` where it would leave the folder."""
    text = template.format(**words)
    if not text.isascii():
        text = re.sub(r"[\udc80-\udcff]", lambda byte: f"%{ord(byte[0]) - 0xDC00:02X}", text)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if parts and not IMAGE.fullmatch(parts[-1]) and parts[-1].lower().endswith(SUFFIXES):
        ending = parts[-1].rpartition(".")[2]
        raise PathError(
            f"output.template {template!r} makes {text!r}, but .{ending} is read only: end it in .png or .tif"
        )
    if not parts or ".." in parts or "\0" in text or not IMAGE.fullmatch(parts[-1]):
        raise PathError(f"output.template {template!r} makes {text!r}, which is no image in the output folder")
    return "/".join(parts)


def fill(key: str, template: str, words: Mapping[str, object], root: str) -> str:
    """Return the absolute path of the mask or reference that stands under ``key``."""
    if template.startswith(FILE_URL):
        words = {key: quote(os.fsencode(str(value)), safe="/") for key, value in words.items()}
    try:
        return local(template.format(**words), root)
    except PathError as error:
        raise PathError(f"{key}: {error}") from None


def beside(template: str, words: Mapping[str, object], root: str) -> str:
    """Return the path of a reference. One that names a folder means the file there with the item's relpath and name.

    On object storage that is the one with the item's own ending.
    """
    path = fill("reference", template, words, root)
    if path.lower().endswith(SUFFIXES):
        return path
    if remote.is_remote(path):
        stem = "/".join(filter(None, (path.rstrip("/"), str(words["relpath"]), str(words["name"]))))
        return f"{stem}.{words['ext']}"
    if not os.path.isdir(path):
        return path
    stem = os.path.join(path, str(words["relpath"]), str(words["name"]))
    candidates = [stem + suffix for suffix in (f".{words['ext']}", *SUFFIXES)]
    return next((file for file in candidates if os.path.exists(file)), candidates[0])


def collisions(items: Sequence[Item], rows: Sequence[int]) -> Iterator[Problem]:
    """Yield the items that would write one file, or a file where another one needs a folder."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        if item.unlisted:
            continue
        other = items[first.setdefault(one_spelling(item.output), index)]
        if other is not item:
            both = f"{_shown(other)} ({other.place}) and {_shown(item)}"
            hint = "add {ext}, {relpath} or {task} to output.template"
            text = f"two items write one file, {item.output!r}: {both}; {hint}"
            yield Problem(("items", rows[index]), text)
    for folder in _folders(first) & first.keys():
        item = items[first[folder]]
        yield Problem(("items", rows[item.index]), f"{item.output!r} is the file of {_shown(item)} and a folder")


def _shown(item: Item) -> str:
    return ascii(item.path) if re.search(r"[\udc80-\udcff]", item.path) else repr(item.path)


def one_spelling(output: str) -> str:
    """Return one key for all names that some file system takes for the same."""
    if output.isascii():
        return output.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", output).casefold())


def _folders(files: Mapping[str, int]) -> set[str]:
    folders: set[str] = set()
    for file in files:
        folder = file.rpartition("/")[0]
        while folder and folder not in folders:
            folders.add(folder)
            folder = folder.rpartition("/")[0]
    return folders
