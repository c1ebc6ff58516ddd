"""Several SOURCEs: one run of all of them, names that are told apart, and one line for what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_paths import plant

from dipfast.api import output_folder
from dipfast.errors import ManifestError, NothingMatchedError, UsageError
from dipfast.manifest import load, title
from dipfast.store.folder import RunFolder
from dipfast.store.sources import source_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    plant(tmp_path, "a.png", "b.jpg", "s/a.png", "s/img10.png", "s/img9.png", "s/deep/x.tif", "notes.txt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("sources", "outputs"),
    [
        (["b.jpg", "a.png"], ["b.png", "a.png"]),
        (["a.png", "s/a.png"], ["a.png", "s/a.png"]),
        (["s/img9.png", "s/deep/x.tif"], ["img9.png", "deep/x.png"]),
        (["a.png", "s"], ["a.png", "s/a.png", "s/deep/x.png", "s/img9.png", "s/img10.png"]),
        (["s/*.png", "b.jpg"], ["s/a.png", "s/img9.png", "s/img10.png", "b.png"]),
        (["s/img*.png", "s/a.png"], ["img9.png", "img10.png", "a.png"]),
        (["sample:coffee", "a.png"], ["coffee.png", "a.png"]),
    ],
)
def test_several_sources_are_one_run_in_their_order_below_the_folder_that_holds_them(
    here: Path, sources: list[str], outputs: list[str]
) -> None:
    assert [item.output for item in load(sources).items] == outputs


def test_a_file_that_several_sources_name_is_one_item(here: Path) -> None:
    for sources in (["a.png", "./a.png"], ["*.png", "a.png"], ["a.png", str(here / "a.png")]):
        assert [item.path for item in load(sources).items] == [str(here / "a.png")]


def test_several_objects_start_at_the_address_that_holds_them() -> None:
    manifest = load(["memory://bucket/a/x.png", "memory://bucket/b/x.png"])
    assert [item.output for item in manifest.items] == ["a/x.png", "b/x.png"]


def test_two_that_would_write_one_file_are_refused_by_their_sources(here: Path) -> None:
    plant(here, "b.png")
    with pytest.raises(ManifestError, match=r"^b.png: two items write one file, 'b.png': .*\(b.jpg\)"):
        load(["b.jpg", "b.png"])


@pytest.mark.parametrize(
    ("sources", "error", "message"),
    [
        (["a.png", "no.png"], UsageError, "SOURCE: there is no file or folder 'no.png'"),
        (["a.png", "notes.txt"], UsageError, "SOURCE: .* 'notes.txt' is another file"),
        (["a.png", "m.yaml"], UsageError, "SOURCE: a manifest should be given alone, 'm.yaml' is one of 2 sources"),
        (["a.png", "*.webp"], ManifestError, r"\*.webp: matches no image"),
        (["*.tif", "*.webp"], NothingMatchedError, r"\*.tif: matches no image.*\n\*.webp: matches"),
        ([], UsageError, "SOURCE: should be given"),
    ],
)
def test_one_wrong_source_of_several_is_named(
    here: Path, sources: list[str], error: type[Exception], message: str
) -> None:
    (here / "m.yaml").write_text("version: 1\nitems: [a.png]\n")
    with pytest.raises(error, match=f"^{message}"):
        load(sources)


def test_several_sources_share_the_run_of_their_folder_and_are_told_apart_in_it(here: Path) -> None:
    first, second, whole = load(["s/a.png", "s/img9.png"]), load(["s/a.png", "s/img10.png"]), load("s")
    folders = {output_folder(manifest, None) for manifest in (first, second, whole)}
    assert folders == {Path("runs", title("s"))}
    folder = RunFolder(folders.pop())
    assert len({source_of(manifest, folder) for manifest in (first, second, whole)}) == 3
    assert source_of(load(["s/a.png", "s/img9.png"]), folder) == source_of(first, folder)
