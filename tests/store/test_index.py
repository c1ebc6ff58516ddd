"""The index: what was found to hold is not read again, and what changed is."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from test_folder import committed

from dipfast.store import index as module
from dipfast.store.folder import RunFolder
from dipfast.store.index import Index


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of files that are hashed from here on."""
    names: list[str] = []
    real = module.sha256_of
    monkeypatch.setattr(module, "sha256_of", lambda path: names.append(Path(path).name) or real(path))
    return names


def test_what_holds_is_found_and_remembered(folder: RunFolder, hashed: list[str]) -> None:
    record = committed(folder)
    held = Index(folder, owner="run").held("abc")
    assert held == (record, {"a.png"})
    assert hashed == ["a.png", "abc.safetensors"]
    assert Index(folder).held("abc") == held
    assert len(hashed) == 2


def test_a_reader_writes_nothing(folder: RunFolder) -> None:
    committed(folder)
    before = sorted(folder.root.rglob("*"))
    assert Index(folder).held("abc")
    assert sorted(folder.root.rglob("*")) == before


def test_a_touched_file_is_hashed_again_and_holds(folder: RunFolder, hashed: list[str]) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    os.utime(folder.images / "a.png", ns=(1, 1))
    hashed.clear()
    assert Index(folder).held("abc")
    assert hashed == ["a.png"]


def test_a_picture_of_the_same_size_and_other_bytes_does_not_hold(folder: RunFolder) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    (folder.images / "a.png").write_bytes(b"PICTURE")
    found = Index(folder).held("abc")
    assert found is not None
    assert found[1] == set()


def test_a_picture_replaced_at_the_same_size_and_time_does_not_hold(folder: RunFolder) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    picture = folder.images / "a.png"
    before = picture.stat()
    picture.write_bytes(b"x" * before.st_size)
    os.utime(picture, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert Index(folder).pictures("abc", ["a.png"]) == Index(folder).pictures("abc") == set()


def test_an_index_whose_stamps_are_of_an_older_kind_costs_time_only(folder: RunFolder, hashed: list[str]) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    lines = folder.index / "run.jsonl"
    lines.write_text(re.sub(r"\[(\d+), (\d+), \d+, \d+\]", r"[\1, \2]", lines.read_text()))
    hashed.clear()
    assert Index(folder).pictures("abc", ["a.png"]) == {"a.png"}
    assert hashed == ["a.png", "abc.safetensors"]


def test_nothing_holds_without_its_generator_or_its_record(folder: RunFolder) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    (folder.generators / "abc.safetensors").unlink()
    assert Index(folder).held("abc") is None
    committed(folder)
    folder.forget("abc")
    assert Index(folder).held("abc") is None


def test_an_item_without_its_generator_is_not_done_however_often_it_is_looked_at(folder: RunFolder) -> None:
    committed(folder)
    assert Index(folder, owner="run").pictures("abc") == {"a.png"}
    os.truncate(folder.generators / "abc.safetensors", 3)
    for _ in range(2):
        assert Index(folder, owner="run").pictures("abc") == set()
    committed(folder)
    assert Index(folder, owner="run").pictures("abc") == {"a.png"}


def test_what_records_have_in_common_stands_once(folder: RunFolder) -> None:
    settings = {"task": {"type": "jpeg"}}
    for id in ("abc", "abd"):
        folder.commit(committed(folder, id) | {"settings": settings, "steps": len(id)})
    writer = Index(folder, owner="run")
    held = {id: writer.held(id) for id in ("abc", "abd")}
    briefs = folder.index / "run.records.jsonl"
    lines = briefs.read_bytes().splitlines()
    assert (len(lines), sum(b"jpeg" in line for line in lines)) == (3, 1)
    assert {id: Index(folder).held(id) for id in held} == held
    briefs.write_bytes(b"\n".join(lines[1:]))
    assert {id: Index(folder).held(id) for id in held} == held


def test_records_are_not_read_where_nothing_changed(folder: RunFolder) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    index = Index(folder)
    assert index.pictures("abc") == index.pictures("abc", ["a.png"]) == {"a.png"}
    row = index.row("abc", "a.png")
    assert row is not None and not index.short_records_read
    assert callable(row[0]) and row[0] is not None
    assert index.record("abc") == row[0]() and index.short_records_read


@pytest.mark.parametrize("likely", [["b.png"], ["a.png", "b.png"], ["../run/images/a.png"], ["a.png"]])
def test_what_was_expected_changes_nothing_of_what_is_found(folder: RunFolder, likely: list[str]) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    assert Index(folder).pictures("abc", likely) == {"a.png"}
    os.utime(folder.images / "a.png", ns=(1, 1))
    (folder.images / "a.png").write_bytes(b"PICTURE")
    assert Index(folder).pictures("abc", likely) == set()


FILES = ["records/abc.json", "images/a.png", "generators/abc.safetensors"]


@pytest.mark.parametrize("name", [*FILES, "images", "records", "generators"])
def test_a_link_in_place_of_a_file_or_its_folder_is_not_what_was_expected(folder: RunFolder, name: str) -> None:
    committed(folder)
    Index(folder, owner="run").held("abc")
    there = (folder.root / name).rename(folder.root / "elsewhere")
    (folder.root / name).symlink_to(there)
    assert Index(folder).pictures("abc", ["a.png"]) == set()


def test_a_record_that_was_written_again_is_read_again(folder: RunFolder) -> None:
    record = committed(folder)
    Index(folder, owner="run").held("abc")
    folder.commit(record | {"steps": 7})
    found = Index(folder).held("abc")
    assert found is not None
    assert found[0]["steps"] == 7


@pytest.mark.parametrize(
    "damage", [b'{"id": "abc", "fi', b"\xff\xfe", b"[]", b'{"id": "abc"}', b'{"id": "abc", "files": 3}']
)
def test_a_damaged_index_costs_time_only(folder: RunFolder, damage: bytes) -> None:
    committed(folder)
    folder.index.mkdir()
    (folder.index / "run.jsonl").write_bytes(damage)
    found = Index(folder, owner="run").held("abc")
    assert found is not None
    assert found[1] == {"a.png"}


def test_a_brief_record_has_no_bulk(folder: RunFolder) -> None:
    record = committed(folder)
    folder.commit(record | {"losses": [[1, 0.5]], "settings": {"task": {"type": "jpeg"}, "fit": {}}})
    found = Index(folder).held("abc")
    assert found is not None
    assert "losses" not in found[0]
    assert found[0]["settings"] == {"task": {"type": "jpeg"}}
