"""Merging: the runs of shards become one run, or nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import MANIFEST, run

from dipfast.cli.app import main
from dipfast.errors import UsageError
from dipfast.image import Source, write
from dipfast.manifest import parse
from dipfast.store.folder import RunFolder
from dipfast.store.merge import merge
from dipfast.store.rows import rows_of


def shard(inputs: Path, index: int, count: int = 2, steps: int = 2, **sets: str) -> RunFolder:
    folder = RunFolder(inputs.parent / f"run{index}")
    overrides = [f"{key.replace('__', '.')}={value}" for key, value in sets.items()]
    manifest = parse(MANIFEST.format(steps=steps), "m.yaml", str(inputs), sets=overrides)
    run(manifest, folder, workers=1, shard=(index, count))
    return folder


@pytest.fixture
def out(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "out")


def files(folder: RunFolder) -> dict[str, bytes]:
    paths = [path for path in folder.root.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder.root)): path.read_bytes() for path in paths}


def test_all_shards_together_are_the_run(inputs: Path, out: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    shards = [shard(inputs, i, degrade__type="gaussian", degrade__sigma="9") for i in (1, 2)]
    assert main(["merge", *(str(one.root) for one in shards), "-o", str(out.root)]) == 0
    assert "3 of 3 done" in capsys.readouterr().out
    assert [row.status for row in rows_of(out)] == ["done"] * 3
    before = files(shards[0]) | files(shards[1])
    after = files(out)
    copied = [name for name in before if name.split("/")[0] in ("images", "records", "generators", "damaged")]
    assert len(copied) == 12
    assert {name: after[name] for name in copied} == {name: before[name] for name in copied}
    assert {"summary.json", "results.csv", "report.html", "report.md", "environment.json"} <= after.keys()
    assert sum(event["event"] == "done" for event in out.events()) == 3
    assert after["manifest.resolved.yaml"] == before["manifest.resolved.yaml"]


def test_a_merged_run_goes_on_like_any(inputs: Path, out: RunFolder) -> None:
    merge([shard(inputs, 1)], out)
    assert main(["retry", str(out.root), "--workers", "1", "--progress", "none"]) == 0
    assert len(rows_of(out)) == 3


def test_shards_can_be_merged_one_after_the_other_and_again(inputs: Path, out: RunFolder) -> None:
    first, second = shard(inputs, 1), shard(inputs, 2)
    merge([first], out)
    merge([second], out)
    before = files(out)
    merge([first, second], out)
    assert [row.status for row in rows_of(out)] == ["done"] * 3
    assert files(out) == before


def test_the_same_run_twice_is_fine(inputs: Path, out: RunFolder) -> None:
    one, same = shard(inputs, 1), RunFolder(inputs.parent / "same")
    one.root.rename(same.root)
    merge([shard(inputs, 1), same], out)
    assert [row.status for row in rows_of(out)] == ["done"] * 2


@pytest.mark.parametrize("second", [1, 2])
def test_shards_with_other_settings_are_refused(inputs: Path, out: RunFolder, second: int) -> None:
    first = shard(inputs, 1)
    first.root.rename(first.root.with_name("first"))
    other = shard(inputs, second, steps=3)
    with pytest.raises(UsageError, match=r"'a.png' has .*other settings in each; nothing was merged"):
        merge([RunFolder(first.root.with_name("first")), other], out)
    assert not out.root.exists()


def test_runs_of_different_items_are_one_run_with_a_manifest_of_all(inputs: Path, out: RunFolder) -> None:
    first = shard(inputs, 1, 1)
    write(inputs.parent / "more" / "z.png", np.zeros((1, 9, 9), np.float32), Source("png", "gray", 8))
    second = RunFolder(inputs.parent / "second")
    run(parse(MANIFEST.format(steps=1), "m.yaml", str(inputs.parent / "more")), second, workers=1)
    merge([first, second], out)
    again = parse((out.root / "manifest.resolved.yaml").read_text(), "resolved", str(out.root))
    assert [item.output for item in again.items] == ["a.png", "b.png", "c.png", "z.png"]
    assert run(again, out, workers=1).already_done == 4


def test_a_file_in_the_way_is_not_overwritten(inputs: Path, out: RunFolder) -> None:
    one = shard(inputs, 1)
    out.images.mkdir(parents=True)
    (out.images / "a.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"a.png: two different files would have this name; nothing was merged"):
        merge([one], out)
    assert files(out) == {"images/a.png": b"mine"}


def test_a_picture_that_was_changed_is_not_taken(inputs: Path, out: RunFolder) -> None:
    one = shard(inputs, 1)
    (one.images / "a.png").write_bytes(b"torn")
    merge([one], out)
    assert [row.status for row in rows_of(out)] == ["pending", "done"]
    assert not (out.images / "a.png").exists()


def test_an_item_that_failed_in_one_run_and_is_done_in_another_is_done(inputs: Path, out: RunFolder) -> None:
    good = (inputs / "a.png").read_bytes()
    (inputs / "a.png").write_bytes(b"no picture")
    first = shard(inputs, 1)
    first.root.rename(first.root.with_name("first"))
    (inputs / "a.png").write_bytes(good)
    merge([RunFolder(first.root.with_name("first")), shard(inputs, 1)], out)
    assert [row.status for row in rows_of(out)] == ["done", "done"]


@pytest.mark.parametrize("folder", ["nowhere", "in"])
def test_a_folder_that_holds_no_run_is_one_line(inputs: Path, out: RunFolder, folder: str, capsys: Any) -> None:
    assert main(["merge", str(inputs.parent / folder), "-o", str(out.root)]) == 2
    assert f"{folder}: holds no run" in capsys.readouterr().err
    assert not out.root.exists()
