"""Paths, folders and globs: what they name, in which order, and what cannot make them hang."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipfast.manifest.paths import PathError, expand, local, natural_key, title, url
from dipfast.manifest.search import left_out
from dipfast.settings.files import EXTENSIONS, UNREAD


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


@pytest.fixture
def locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be listed, beside an image and a folder that can."""
    plant(tmp_path, "a.png", "locked/b.png", "open/c.png")
    listed = os.scandir

    def scandir(folder: str) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path / "locked"


@pytest.mark.parametrize("pattern", [".", "**/*.png", "*/*.png", "locked", "locked/*", "locked/**"])
def test_a_folder_that_cannot_be_listed_costs_no_other_its_pictures(locked: Path, pattern: str) -> None:
    root = locked.parent
    found = expand(pattern, str(root), ["png"])
    assert found.unlisted == {str(locked): "Permission denied"}
    alone = pattern.startswith("locked")
    deep = [] if alone else [str(root / "open" / "c.png")]
    assert sorted(found.files) == ([] if alone or pattern == "*/*.png" else [str(root / "a.png")]) + deep


def test_a_folder_that_is_gone_when_it_is_looked_into_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "a.png", "b/c.png")
    listed = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed(folder if folder == str(tmp_path) else "/nowhere"))
    found = expand(".", str(tmp_path), ["png"])
    assert (found.files, found.unlisted) == ([str(tmp_path / "a.png")], {})


def test_every_ending_of_a_format_is_listed_in_capitals_or_not(tmp_path: Path) -> None:
    endings = [ending for several in EXTENSIONS.values() for ending in several]
    plant(tmp_path, *(f"{number}.{ending}" for number, ending in enumerate(endings)))
    plant(tmp_path, *(f"{number}.{ending.upper()}" for number, ending in enumerate(endings)))
    assert len(names(tmp_path, ".")) == 2 * len(endings)


def passed_over(root: Path, text: str) -> str:
    return left_out(expand(text, str(root), ["png", "jpeg"]).left_out.values())


def test_what_a_folder_leaves_out_is_counted_by_its_kind(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "b.CR2", "c/d.cr2", "e.CR2", "f.tif", "Thumbs.db", "notes.txt", "g.xmp", "IMG_0001")
    plant(tmp_path, ".hidden.jpg", ".DS_Store", "._a.png", ".cache/h.png", "run/items.jsonl", "run/images/i.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "linked").symlink_to(tmp_path / "c")
    assert passed_over(tmp_path, ".") == (
        "3 .CR2, 1 .tif, 1 folder of a run, 1 hidden picture, 1 linked folder, 1 pipe or device, 4 other files"
    )
    assert names(tmp_path, ".", ("png", "jpeg")) == ["a.png"]


def test_of_many_kinds_only_some_are_named(tmp_path: Path) -> None:
    endings = sorted(UNREAD)[:12]
    plant(tmp_path, *(f"a{ending}" for ending in endings), "a.txt")
    assert passed_over(tmp_path, ".") == ", ".join(f"1 {ending}" for ending in endings[:8]) + ", 5 other files"


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("*", "1 .tif, 1 other file"),
        ("a*", "1 .tif"),
        ("*.png", ""),
        ("*.tif", ""),
        ("a.png", ""),
        ("**/*.png", "1 linked folder"),
        ("*/*", "2 .bmp"),
        ("**/link/*", "1 .bmp"),
        ("s/**", "1 .bmp"),
    ],
)
def test_a_pattern_leaves_out_only_what_it_would_match(tmp_path: Path, pattern: str, said: str) -> None:
    plant(tmp_path, "a.png", "a.tif", "b.dat", "s/c.bmp")
    (tmp_path / "link").symlink_to("s")
    assert passed_over(tmp_path, pattern) == said


def test_nothing_is_said_of_a_folder_that_is_all_taken(tmp_path: Path) -> None:
    plant(tmp_path, "a.png", "b/c.jpg", ".DS_Store", "b/.git/x.png", "b/._c.jpg")
    assert passed_over(tmp_path, ".") == ""


def test_links_that_lead_round_end_and_are_counted(tmp_path: Path) -> None:
    plant(tmp_path, "a/x.png")
    (tmp_path / "a/up").symlink_to("..")
    (tmp_path / "a/self").symlink_to("self")
    (tmp_path / "b").symlink_to("a")
    assert names(tmp_path, ".") == ["a/x.png"]
    assert passed_over(tmp_path, ".") == "2 linked folders, 1 other file"
    assert names(tmp_path, "b") == ["b/x.png"]


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
