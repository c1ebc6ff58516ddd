"""Paths, folders and globs: what they name, in which order, and what cannot make them hang."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.manifest.paths import PathError, expand, local, natural_key, title, url
from dipfast.manifest.schema import EXTENSIONS


def plant(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path, text: str, formats: tuple[str, ...] = tuple(EXTENSIONS)) -> list[str]:
    return [os.path.relpath(file, root) for file in expand(text, str(root), formats).files]


def test_numbers_sort_by_value_and_capitals_beside_small_letters() -> None:
    assert sorted(["b1", "img10", "img2", "B0", "img02", "a/z"], key=natural_key) == [
        "a/z",
        "B0",
        "b1",
        "img02",
        "img2",
        "img10",
    ]


@given(st.lists(st.text(max_size=8)))
def test_the_natural_order_is_total(texts: list[str]) -> None:
    backwards = texts[::-1]
    assert sorted(texts, key=natural_key) == sorted(backwards, key=natural_key)


def test_a_folder_gives_its_images_at_every_depth(tmp_path: Path) -> None:
    plant(tmp_path, "b10.png", "b9.JPG", "notes.txt", "a/x.tif", ".hidden.png", ".cache/y.png")
    assert names(tmp_path, ".") == ["a/x.tif", "b9.JPG", "b10.png"]


def test_a_folder_gives_only_the_allowed_formats(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "b.jpeg", "c.tif")
    assert names(tmp_path, ".", ("jpeg", "tiff")) == ["b.jpeg", "c.tif"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.tif", ["a.TIF", "b2.tif", "b10.tif"]),
        ("b?.tif", ["b2.tif"]),
        ("[ab]2.tif", ["b2.tif"]),
        ("**/*.tif", ["a.TIF", "b2.tif", "b10.tif", "s/c.tif", "s/t/d.tif"]),
        ("**/**/*.tif", ["a.TIF", "b2.tif", "b10.tif", "s/c.tif", "s/t/d.tif"]),
        ("**/t/*.tif", ["s/t/d.tif"]),
        ("s/**", ["s/c.tif", "s/t/d.tif"]),
        ("*/*.tif", ["s/c.tif"]),
        ("*", ["a.TIF", "b2.tif", "b10.tif"]),
        ("*.*", ["a.TIF", "b2.tif", "b10.tif"]),
        ("*.dat", ["raw.dat"]),
        ("./s/*", ["s/c.tif"]),
        ("nowhere/*.tif", []),
        ("B2.*", []),
        (".*/*.tif", [".hid/e.tif"]),
    ],
)
def test_patterns_match(tmp_path: Path, pattern: str, found: list[str]) -> None:
    plant(tmp_path, "b10.tif", "b2.tif", "a.TIF", "raw.dat", "s/c.tif", "s/t/d.tif", ".hid/e.tif")
    assert names(tmp_path, pattern) == found


def test_a_pattern_may_start_above_the_root(tmp_path: Path) -> None:
    plant(tmp_path, "a/x.png", "b/y.png")
    assert names(tmp_path / "a", "../b/*.png") == ["../b/y.png"]


def test_an_absolute_pattern_ignores_the_root(tmp_path: Path) -> None:
    plant(tmp_path, "a/x.png")
    assert names(tmp_path / "nowhere", f"{tmp_path}/a/*.png") == ["../a/x.png"]


def test_wildcards_in_the_root_are_only_letters(tmp_path: Path) -> None:
    plant(tmp_path, "[ab]/x.png", "a/y.png")
    assert names(tmp_path / "[ab]", "*.png") == ["x.png"]


def test_a_folder_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    plant(tmp_path, "a[1]/b*/x.png", "a1/b/y.png", "a[2]/x.png")
    assert names(tmp_path, "a[1]/b*/*.png") == ["a[1]/b*/x.png"]
    assert names(tmp_path, "a[1]/**/*.png") == ["a[1]/b*/x.png"]
    assert names(tmp_path, "a[[]?]/x.png") == ["a[2]/x.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_itself(tmp_path: Path) -> None:
    plant(tmp_path, "a[1].png", "a1.png")
    assert names(tmp_path, "a[1].png") == ["a[1].png"]


def test_a_named_image_need_not_exist(tmp_path: Path) -> None:
    assert names(tmp_path, "gone.png") == ["gone.png"]


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    plant(tmp_path, "a/x.png")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/self.png").symlink_to("self.png")
    assert names(tmp_path, "**/*.png") == ["a/self.png", "a/x.png"]


def test_a_linked_folder_is_entered_only_where_the_pattern_says_so(tmp_path: Path) -> None:
    plant(tmp_path, "real/x.png")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert names(tmp_path, "*/x.png") == ["link/x.png", "real/x.png"]
    assert names(tmp_path, "**/x.png") == ["real/x.png"]


@pytest.mark.parametrize("mark", ["items.jsonl", "manifest.resolved.yaml"])
@pytest.mark.parametrize("pattern", [".", "**/*.png", "*/**", "*/images/*.png", "*"])
def test_a_run_is_no_input(tmp_path: Path, mark: str, pattern: str) -> None:
    plant(tmp_path, "x.png", f"out/{mark}", "out/images/x.png", "a/y.png", f"a/out/{mark}", "a/out/images/y.png")
    assert not [name for name in names(tmp_path, pattern) if "out" in name]


def test_the_pictures_of_a_run_can_be_named(tmp_path: Path) -> None:
    plant(tmp_path, "out/items.jsonl", "out/images/x.png")
    assert names(tmp_path, "out/images") == names(tmp_path, "out/images/*.png") == ["out/images/x.png"]


def test_a_folder_that_is_its_own_run_gives_its_inputs_only(tmp_path: Path) -> None:
    plant(tmp_path, "items.jsonl", "x.png", "a/y.png", "images/x.png", "images/a/y.png", "damaged/x.png")
    assert names(tmp_path, ".") == ["a/y.png", "x.png"]


def test_broken_links_are_listed_and_pipes_are_not(tmp_path: Path) -> None:
    (tmp_path / "broken.png").symlink_to("gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path, ".") == ["broken.png"]


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PathError, match=r"cannot be listed: Permission denied"):
        expand("*.png", str(tmp_path), ["png"])


def test_names_that_are_not_utf8_are_found(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    plant(tmp_path, name)
    assert names(tmp_path, "*.png") == [name]


@pytest.mark.parametrize("name", ["plain.png", "a b%20[1]*?.png", "ä{x}.png", os.fsdecode(b"\xff.png")])
def test_an_address_spells_any_path(name: str) -> None:
    assert local(url(f"/a/{name}"), "/elsewhere") == f"/a/{name}"


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a/x.png", "x"),
        ("a", "a"),
        ("a/", "a"),
        ("a/*.png", "a"),
        ("*.png", "here"),
        ("**/*.png", "here"),
        (".", "here"),
        ("..", "there"),
        ("v1.2", "v1.2"),
        ("spec.yaml", "spec"),
        ("[a] b.png", "a_b"),
        ("/", "run"),
        ("sample:camera", "camera"),
        (os.fsdecode(b"caf\xe9.png"), "caf"),
    ],
)
def test_a_source_has_a_title_that_a_folder_can_bear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, name: str
) -> None:
    plant(tmp_path, "there/here/a/x.png", "there/here/v1.2/x.png", "there/here/[a] b.png")
    monkeypatch.chdir(tmp_path / "there" / "here")
    assert re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{6}}", title(source))


def test_no_two_sources_share_a_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = ["x", "x.png", "x.jpg", "x.yaml", "a/x", "a/x.png", "../x.png", "x/*.png", "x/*", "sample:x"]
    assert len({title(source) for source in sources}) == len(sources)


def test_spellings_of_one_source_share_a_title(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len({title(source) for source in ("a", "a/", "./a", "b/../a", str(tmp_path / "a"))}) == 1


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("nonsense://bucket/x.png", r"should be a local path or an address that fsspec knows, is nonsense://"),
        ("file://host/x.png", r"should start with file:///"),
        ("a\0.png", r"should hold no NUL"),
        ("file:///a%00.png", r"should hold no NUL"),
    ],
)
def test_paths_that_are_not_local_are_refused(text: str, rule: str) -> None:
    with pytest.raises(PathError, match=rule):
        local(text, "/")
