"""A run that is all done is known by its snapshot, and by nothing less than every file as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import MANIFEST, run

from dipfast.batch import run as module
from dipfast.batch.run import RunResult
from dipfast.batch.snapshot import done_before
from dipfast.manifest import Manifest, parse
from dipfast.store.folder import RunFolder


def manifest(inputs: Path, text: str = MANIFEST.format(steps=2)) -> Manifest:
    return parse(text, "m.yaml", str(inputs))


def go(inputs: Path, text: str = MANIFEST.format(steps=2), **how: object) -> RunResult:
    return run(manifest(inputs, text), RunFolder(inputs.parent / "run"), workers=1, **how)  # type: ignore[arg-type]


@pytest.fixture
def done(inputs: Path) -> RunFolder:
    return go(inputs).folder


def known(inputs: Path, folder: RunFolder) -> list[str] | None:
    return done_before(folder, manifest(inputs).items, None)


def test_what_is_all_done_is_known_without_lists_index_and_records(
    inputs: Path, done: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = [row.id for row in go(inputs).rows]
    for name in ("read_before", "prepare", "rows_of"):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("each item is looked at"))
    result = go(inputs)
    assert [row.id for row in result.rows] == before
    assert (result.idle, result.already_done, {row.status for row in result.rows}) == (True, 3, {"done"})
    assert [row.record["id"] for row in result.rows if row.record] == before


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3)


def touch(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def swap(path: Path) -> None:
    """Other bytes of the same number, at the same time, in the same file."""
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace(path: Path) -> None:
    """Another file of the same size and time in its place."""
    before, other = path.stat(), path.with_name("other")
    other.write_bytes(bytes(255 - byte for byte in path.read_bytes()))
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)


def link(path: Path) -> None:
    path.symlink_to(path.rename(path.with_name("elsewhere")))


@pytest.mark.parametrize("change", [cut, touch, swap, replace, link, Path.unlink])
@pytest.mark.parametrize("which", ["records", "images", "generators", "uncertainty"])
def test_a_changed_file_of_the_run_is_looked_at(
    inputs: Path, done: RunFolder, which: str, change: Callable[[Path], None]
) -> None:
    assert known(inputs, done)
    change(min((done.root / which).iterdir()))
    assert known(inputs, done) is None
    assert go(inputs).already_done == (3 if change is touch else 2)
    assert known(inputs, done)


@pytest.mark.parametrize("change", [cut, touch, swap, replace, Path.unlink])
def test_a_changed_input_is_looked_at(inputs: Path, done: RunFolder, change: Callable[[Path], None]) -> None:
    change(inputs / "a.png")
    assert known(inputs, done) is None


@pytest.mark.parametrize("name", ["items.jsonl", ".index/done.txt"])
@pytest.mark.parametrize("change", [cut, touch, link, Path.unlink])
def test_a_changed_list_or_snapshot_is_not_believed(
    inputs: Path, done: RunFolder, name: str, change: Callable[[Path], None]
) -> None:
    change(done.root / name)
    whole = change is touch and name != "items.jsonl"
    assert (known(inputs, done) is not None) == whole
    assert go(inputs).already_done == 3


def test_other_settings_and_other_items_are_looked_at(inputs: Path, done: RunFolder) -> None:
    assert go(inputs, MANIFEST.format(steps=3)).already_done == 0
    (inputs / "c.png").unlink()
    assert done_before(done, manifest(inputs, MANIFEST.format(steps=3)).items, None) is None


def test_what_changes_no_pixel_needs_no_second_look(inputs: Path, done: RunFolder) -> None:
    text = MANIFEST.format(steps=2) + "\nreport: {html: false}\n"
    assert done_before(done, manifest(inputs, text).items, None)
    go(inputs, text)
    assert "html: false" in (done.root / "manifest.resolved.yaml").read_text()


@pytest.mark.parametrize("id", ["../../secret", "a/b", ""])
def test_a_crafted_snapshot_names_no_other_file(inputs: Path, done: RunFolder, id: str) -> None:
    path = done.index / "done.txt"
    real = next(iter(sorted(done.records.glob("*.json")))).stem
    path.write_text(path.read_text().replace(real, id))
    assert known(inputs, done) is None


def test_items_that_share_a_fit_have_no_snapshot(inputs: Path) -> None:
    (inputs / "c.png").write_bytes((inputs / "a.png").read_bytes())
    folder = go(inputs).folder
    assert not (folder.index / "done.txt").exists()
    assert go(inputs).already_done == 2


def test_a_run_with_a_failure_has_no_snapshot(inputs: Path) -> None:
    (inputs / "b.png").write_bytes(b"no picture")
    assert go(inputs).exit_code == 3
    assert not (inputs.parent / "run/.index/done.txt").exists()


def test_never_does_all_again(inputs: Path, done: RunFolder) -> None:
    assert go(inputs, resume="never").already_done == 0


def test_each_shard_has_its_own(inputs: Path) -> None:
    for part in (1, 2):
        folder = go(inputs, shard=(part, 2)).folder
    assert sorted(path.name for path in folder.index.glob("*.txt")) == ["done.1-of-2.txt", "done.2-of-2.txt"]
    assert [go(inputs, shard=(part, 2)).already_done for part in (1, 2)] == [2, 1]
    assert go(inputs).already_done == 3
    assert not list(folder.root.glob("items.*-of-2.jsonl"))


def test_names_that_are_not_plain_are_known_too(inputs: Path) -> None:
    (inputs / "a.png").rename(inputs / 'ä "quoted" [1].png')
    folder = go(inputs).folder
    assert known(inputs, folder)
    assert len(json.loads(min(folder.records.glob("*.json")).read_text())["output"]["paths"]) == 1


@pytest.mark.parametrize("data", [b"", b"\n", b"\xff\xfe\n\t", b"\0" * 9])
@pytest.mark.parametrize("behind_the_head", [True, False])
def test_any_bytes_in_its_place_cost_time_only(
    inputs: Path, done: RunFolder, data: bytes, behind_the_head: bool
) -> None:
    path = done.index / "done.txt"
    head = path.read_bytes().partition(b"\n")[0] + b"\n" if behind_the_head else b""
    path.write_bytes(head + data)
    assert known(inputs, done) is None
    assert go(inputs).already_done == 3
