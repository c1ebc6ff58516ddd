"""The ledger: records that vouch, events that survive a torn tail, one run to a folder."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from dipfast.files import write_atomic
from dipfast.record import Record
from dipfast.store.folder import RunFolder, failures


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def committed(folder: RunFolder, id: str = "abc") -> dict[str, Any]:
    write_atomic(folder.images / "a.png", b"picture")
    write_atomic(folder.generators / f"{id}.safetensors", b"weights")
    record = {
        "id": id,
        "output": {"sha256": sha256(b"picture").hexdigest(), "paths": ["a.png"]},
        "generator": {"path": f"generators/{id}.safetensors", "sha256": sha256(b"weights").hexdigest()},
    }
    folder.commit(record)
    return record


def test_a_record_comes_back(folder: RunFolder) -> None:
    record = committed(folder)
    assert folder.record("abc") == record
    assert folder.all_records() == [record]
    assert folder.holds(Record(**record))


@pytest.mark.parametrize("damage", ["images/a.png", "generators/abc.safetensors"])
@pytest.mark.parametrize("data", [None, b"other"])
def test_a_record_does_not_hold_when_a_file_is_gone_or_changed(folder: RunFolder, damage: str, data: Any) -> None:
    record = committed(folder)
    path = folder.root / damage
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    assert not folder.holds(Record(**record))


@pytest.mark.parametrize("data", [b"", b'{"id": "ab', b"[]", b'{"id": "other"}', b'{"id": "abc"}', b"\xff\xfe"])
def test_a_record_that_cannot_be_read_is_no_record(folder: RunFolder, data: bytes) -> None:
    write_atomic(folder.records / "abc.json", data)
    assert folder.record("abc") is None


def test_a_torn_last_line_loses_only_itself(folder: RunFolder) -> None:
    folder.log("cpu-0", "claimed", id="a")
    with (folder.ledger / "cpu-0.jsonl").open("ab") as file:
        file.write(b'{"time": "2026", "event": "do')
    folder.log("cpu-0", "done", id="b")
    assert [event["event"] for event in folder.events()] == ["claimed", "done"]


def test_a_failure_is_forgotten_when_its_item_is_done_and_not_when_it_is_tried(folder: RunFolder) -> None:
    for id in "ab":
        folder.log("cpu-0", "failed", id=id, kind="unreadable", reason="why")
    folder.log("cpu-0", "claimed", id="a")
    assert set(failures(folder)) == {"a", "b"}
    folder.log("cpu-0", "done", id="a")
    assert set(failures(folder)) == {"b"}
    assert failures(folder)["b"]["reason"] == "why"


def test_odd_names_do_not_break_the_ledger(folder: RunFolder) -> None:
    name = os.fsdecode(b"caf\xe9\n\x1b.png")
    folder.log("cpu-0", "failed", path=name, kind="unreadable", reason="x")
    assert len(list(folder.events())) == 1


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomic(tmp_path / "a", b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(tmp_path / "a", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_json_in_files_ends_with_a_newline(folder: RunFolder) -> None:
    committed(folder)
    text = (folder.records / "abc.json").read_text()
    assert text.endswith("}\n")
    assert json.loads(text)["id"] == "abc"
