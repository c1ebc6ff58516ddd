"""Items: names of outputs, masks and references, and two items that want one file."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from test_paths import plant

from dipfast.errors import ManifestError, NothingMatchedError
from dipfast.manifest import Item, parse
from dipfast.manifest.items import USUAL_TEMPLATE, ItemReader
from dipfast.manifest.layers import Layer, Resolver
from dipfast.manifest.problems import Problems
from dipfast.settings.files import EXTENSIONS


def items(root: Path, rows: str, defaults: str = "{}") -> tuple[Item, ...]:
    return parse(f"version: 1\ndefaults: {defaults}\nitems:\n{rows}\n", "m.yaml", root).items


def outputs(root: Path, rows: str, template: str) -> list[str]:
    return [item.output for item in items(root, rows, f'{{output: {{template: "{template}"}}}}')]


def wrong(root: Path, rows: str, defaults: str = "{}") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        items(root, rows, defaults)
    return caught.value.problems


def test_a_row_becomes_an_item(tmp_path: Path) -> None:
    [item] = items(tmp_path, "  - sub/a.b.TIF")
    assert (item.index, item.path, item.place) == (0, f"{tmp_path}/sub/a.b.TIF", "m.yaml:4:5")
    assert (item.relpath, item.name, item.output) == ("sub", "a.b", "sub/a.b.png")
    assert (item.mask, item.reference) == (None, None)


@pytest.mark.parametrize("row", ["a.png", "sub/scan_1.TIF", "0000/a-b.jpg", "1e3/5.webp", "sub/x.jpeg"])
def test_a_simple_row_is_the_item_that_a_careful_look_makes(tmp_path: Path, row: str) -> None:
    [quick] = items(tmp_path, f"  - {row}")
    [careful] = items(tmp_path, f"  - {{path: {row}}}")
    assert replace(quick, place="") == replace(careful, place="")
    assert quick.path == f"{tmp_path}/{row}"


@pytest.mark.parametrize("row", ["a.b.png", "a.txt", "sub", "x/../a.png", "./a.png", "a//b.png", "é.png", "a b.png"])
def test_a_row_that_is_not_simple_gets_a_careful_look(tmp_path: Path, row: str) -> None:
    (tmp_path / "sub").mkdir()
    reader = ItemReader(str(tmp_path), Resolver(Layer({}, ("defaults",)), ()), Problems("m.yaml"))
    settings = reader.plain_settings()
    assert settings is not None and settings.output.template == USUAL_TEMPLATE
    assert not reader.read_simple(0, row, settings)


def test_a_glob_becomes_items_that_share_settings_and_place(tmp_path: Path) -> None:
    plant(tmp_path, "s/img10.png", "s/img9.png")
    first, second = items(tmp_path, '  - "s/*.png"')
    assert (first.index, second.index) == (0, 1)
    assert [first.output, second.output] == ["s/img9.png", "s/img10.png"]
    assert first.settings is second.settings
    assert first.place == second.place == "m.yaml:4:5"


@pytest.mark.parametrize(
    ("template", "output"),
    [
        ("{relpath}/{name}.png", "sub/dog.png"),
        ("{stem}_{task}_{preset}_{seed}.tif", "dog_denoise_balanced_0.tif"),
        ("{name}.{ext}", "dog.JPG"),
        ("./x//{name}.png", "x/dog.png"),
        ("{{{name}}}.png", "{dog}.png"),
        ("{name}_{ext}.webp", "dog_JPG.webp"),
    ],
)
def test_templates_name_the_output(tmp_path: Path, template: str, output: str) -> None:
    assert outputs(tmp_path, "  - sub/dog.JPG", template) == [output]


def test_relpath_of_what_lies_outside_the_root_starts_at_the_listed_folder(tmp_path: Path) -> None:
    plant(tmp_path, "out/side/a.png", "root/b.png")
    rows = f"  - {tmp_path}/out/**\n  - {tmp_path}/out/side/c.png\n  - ../out/side/d.png"
    found = [(item.relpath, item.output) for item in items(tmp_path / "root", rows)]
    assert found == [("side", "side/a.png"), ("", "c.png"), ("", "d.png")]


def test_a_row_may_name_its_relpath(tmp_path: Path) -> None:
    [item] = items(tmp_path, "  - {path: a.png, relpath: x/y}")
    assert item.output == "x/y/a.png"


@pytest.mark.parametrize("relpath", ["../x", "/x", "x/..", "3", "[x]", "'a\\\\b'"])
def test_a_relpath_that_leaves_the_output_folder_is_refused(tmp_path: Path, relpath: str) -> None:
    [text] = wrong(tmp_path, f"  - {{path: a.png, relpath: {relpath}}}")
    assert text.startswith("m.yaml:4:28: items[0].relpath: should be a folder below the output folder, is ")


def test_an_ending_that_is_no_image_cannot_be_written(tmp_path: Path) -> None:
    [text] = wrong(tmp_path, "  - a.dat", '{output: {template: "{name}.{ext}"}}')
    assert text.startswith("m.yaml:4:5: items[0]: output.template '{name}.{ext}' makes 'a.dat', which is no image")


def test_an_empty_placeholder_cannot_lead_out(tmp_path: Path) -> None:
    [text] = wrong(tmp_path, "  - a", '{output: {template: ".{ext}./{name}.png"}}')
    assert "makes '../a.png', which is no image in the output folder" in text


def test_mask_and_reference_are_filled_in_from_the_root(tmp_path: Path) -> None:
    rows = (
        '  - {path: s/a.png, task: {type: inpaint, mask: "m/{stem}_{ext}.png"}, reference: "hr/{relpath}/{name}.tif"}'
    )
    [item] = items(tmp_path, rows)
    assert item.mask == f"{tmp_path}/m/a_png.png"
    assert item.reference == f"{tmp_path}/hr/s/a.tif"


def test_a_reference_that_is_a_folder_means_the_file_of_that_name(tmp_path: Path) -> None:
    plant(tmp_path, "hr/s/a.tif", "hr/s/b.png")
    rows = "  - {path: s/a.png, reference: hr}\n  - {path: s/c.jpg, reference: hr}"
    assert [item.reference for item in items(tmp_path, rows)] == [f"{tmp_path}/hr/s/a.tif", f"{tmp_path}/hr/s/c.jpg"]


def test_a_sample_stays_a_name(tmp_path: Path) -> None:
    [item] = items(tmp_path, "  - sample:astronaut")
    assert (item.path, item.relpath, item.name, item.output) == (
        "sample:astronaut",
        "",
        "astronaut",
        "astronaut.png",
    )


def test_two_items_never_write_one_file(tmp_path: Path) -> None:
    assert wrong(tmp_path, "  - a.jpg\n  - a.png") == [
        f"m.yaml:5:5: two items write one file, 'a.png': '{tmp_path}/a.jpg' (m.yaml:4:5) and '{tmp_path}/a.png'; "
        "add {ext}, {relpath} or {task} to output.template"
    ]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Dog.png", "dog.png"),
        (unicodedata.normalize("NFC", "é.png"), unicodedata.normalize("NFD", "é.png")),
        ("STRASSE.png", "straße.png"),
    ],
)
def test_names_that_some_file_system_takes_for_one_collide(tmp_path: Path, one: str, other: str) -> None:
    [text] = wrong(tmp_path, f"  - {one}\n  - {other}")
    assert "two items write one file" in text


def test_a_file_cannot_be_another_items_folder(tmp_path: Path) -> None:
    rows = '  - {path: a.png, output: {template: "x.png"}}\n  - {path: b.png, output: {template: "X.png/y/{name}.png"}}'
    assert wrong(tmp_path, rows) == [f"m.yaml:4:5: 'x.png' is the file of '{tmp_path}/a.png' and a folder"]


def test_collisions_are_not_found_between_folders(tmp_path: Path) -> None:
    assert len(items(tmp_path, "  - a/x.png\n  - b/x.png")) == 2


def test_names_that_are_not_utf8_get_an_output_that_is(tmp_path: Path) -> None:
    plant(tmp_path, os.fsdecode(b"caf\xe9.png"))
    [item] = items(tmp_path, '  - "*.png"')
    assert os.fsencode(item.path).endswith(b"caf\xe9.png")
    assert item.output == "caf%E9.png"


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("3", "4:5: items[0]: should be a path or a mapping, is 3"),
        ("[a]", "4:5: items[0]: should be a path or a mapping, is ['a']"),
        ("''", "4:5: items[0].path: should be text that is not empty, is ''"),
        ("{task: {type: jpeg}}", "4:5: items[0].path: is missing (image, folder or glob)"),
        ("{path: 3}", "4:12: items[0].path: should be text that is not empty, is 3"),
        ("{path: a.png, scale: 3}", "4:19: unknown key 'scale'; scale belongs to task superres"),
        ("{path: 'sample:a b'}", "4:12: items[0].path: should be sample:NAME, is 'sample:a b'"),
        ("https://x.org/a.png?k=v", "4:5: items[0]: should have no '?' and '#'"),
        (
            "{path: a.png, reference: nonsense://b/a.png}",
            "4:12: items[0]: reference: should be a local path or an address",
        ),
        (
            "{path: nonsense://b/a.png, fit: 3}",
            "4:12: items[0]: should be a local path or an address that fsspec knows, is nonsense://",
        ),
    ],
)
def test_a_wrong_row_is_refused_at_its_place(tmp_path: Path, row: str, expected: str) -> None:
    assert wrong(tmp_path, f"  - {row}")[0].startswith(f"m.yaml:{expected}")


def test_a_pattern_without_match_is_an_error_beside_others_that_match(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    assert wrong(tmp_path, '  - a.png\n  - {path: "*.tif"}') == [
        f"m.yaml:5:12: '*.tif' matches no image ({', '.join(EXTENSIONS)})"
    ]


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a picture, and in it a folder that cannot be listed."""
    plant(tmp_path, "lost+found.png", "lost+found/b.png")
    listed = os.scandir

    def scandir(folder: str) -> object:
        if Path(folder).name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path


def test_a_folder_that_cannot_be_listed_is_an_item_that_is_in_nobody_s_way(locked: Path) -> None:
    picture, folder = items(locked, "  - .", '{output: {template: "{name}.{ext}"}}')
    assert (picture.output, picture.unlisted) == ("lost+found.png", None)
    assert (folder.path, folder.unlisted) == (f"{locked}/lost+found", "Permission denied")


def test_a_folder_that_could_not_be_listed_is_looked_through_again_by_the_resolved_manifest(
    locked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolved = parse("version: 1\nitems: [.]\n", "m", locked).resolved()
    assert [item.unlisted for item in parse(resolved, "m", "/").items] == [None, "Permission denied"]
    monkeypatch.undo()
    found = parse(resolved, "m", "/").items
    assert [item.path for item in found] == [f"{locked}/lost+found.png", f"{locked}/lost+found/b.png"]


def test_what_is_left_out_is_what_no_row_takes(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "b.dat", "c.dat", "real/d.png")
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to("real")
    manifest = parse("version: 1\nitems: [., b.dat, one]\n", "m", tmp_path)
    assert manifest.left_out == "1 linked folder, 1 other file"
    assert parse("version: 1\nitems: [a.png]\n", "m", tmp_path).left_out == ""


def test_where_nothing_matches_what_is_left_out_is_said(tmp_path: Path) -> None:
    plant(tmp_path, "a.CR2", "b.nef")
    with pytest.raises(NothingMatchedError, match=r"matches no image .*; left out: 1 \.CR2, 1 \.nef$"):
        parse("version: 1\nitems: [.]\n", "m", tmp_path)


def test_an_ending_that_is_only_read_is_no_output(tmp_path: Path) -> None:
    assert outputs(tmp_path, "  - a.bmp", "{name}_{ext}.png") == ["a_bmp.png"]
    [problem] = wrong(tmp_path, "  - a.BMP", '{output: {template: "{name}.{ext}"}}')
    assert problem.endswith("makes 'a.BMP', but .BMP is read only: end it in .png or .tif")
