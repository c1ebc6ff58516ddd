"""A run's folder from someone else: nothing that it names or links to outside itself is read, written or deleted."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import MANIFEST, run

from dipfast import load
from dipfast.cli.app import main
from dipfast.errors import MachineError, UsageError
from dipfast.export.targets import targets
from dipfast.manifest import parse
from dipfast.report import summarize, write_report
from dipfast.store.folder import RunFolder
from dipfast.store.merge import merge
from dipfast.store.rows import rows_of

OUTSIDE = ("../secret", "../../secret", "/etc/passwd", "images/../../secret", "a/../../../secret", "x\0y", "")


def go(inputs: Path, **options: Any) -> RunFolder:
    folder = RunFolder(inputs.parent / "run")
    run(parse(MANIFEST.format(steps=1), "m.yaml", str(inputs)), folder, workers=1, **options)
    return folder


@pytest.fixture
def done(inputs: Path) -> RunFolder:
    return go(inputs)


@pytest.fixture
def secret(inputs: Path) -> Path:
    path = inputs.parent / "secret"
    path.write_bytes(b"not yours")
    return path


def rewrite(folder: RunFolder, change: Any) -> None:
    """Change every record, and forget what was known of its files."""
    for path in folder.records.glob("*.json"):
        record = json.loads(path.read_bytes())
        change(record)
        path.write_text(json.dumps(record))
    for path in folder.index.glob("*"):
        path.unlink()


def below(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.parametrize("path", OUTSIDE)
@pytest.mark.parametrize("key", ["output", "generator", "uncertainty", "samples", "checkpoints", "seeds"])
def test_a_record_that_names_files_outside_is_none(done: RunFolder, secret: Path, key: str, path: str) -> None:
    digest = sha256(b"not yours").hexdigest()
    there = {"path": path, "sha256": digest}

    def change(record: Any) -> None:
        if key == "output":
            record["output"] = {"sha256": digest, "paths": [path]}
        elif key == "generator":
            record["generator"] = there
        else:
            record["output" if key == "uncertainty" else "generator"][key] = there if key == "uncertainty" else [there]

    rewrite(done, change)
    assert done.all_records() == []
    assert {row.status for row in rows_of(done)} == {"pending"}


@pytest.mark.parametrize("path", ["images/../../secret", "../secret", "/etc/passwd"])
def test_an_index_that_names_files_outside_copies_none(inputs: Path, done: RunFolder, secret: Path, path: str) -> None:
    row = rows_of(done)[0]
    before = (done.images / row.output).read_bytes()
    status = secret.stat()
    line = json.dumps({"id": row.id, "files": {path: [status.st_size, status.st_mtime_ns]}})
    (done.index / "run.jsonl").write_text(line + "\t" + json.dumps(row.record) + "\n")
    (done.images / row.output).unlink()
    assert go(inputs).root == done.root
    assert (done.images / row.output).read_bytes() == before


@pytest.mark.parametrize("entry", [{"output": "../x.png"}, {"output": "/x.png"}, {"id": "../../secret"}, {"id": "a/b"}])
def test_a_list_that_names_files_outside_is_refused(done: RunFolder, entry: Any, capsys: Any) -> None:
    lines = done.root.joinpath("items.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | entry)
    done.root.joinpath("items.jsonl").write_text("\n".join(lines))
    assert main(["status", str(done.root)]) == 1
    assert "items.jsonl:2: is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["images", "records", "generators", "ledger", ".index", "checkpoints"])
def test_a_linked_folder_is_not_written_to(inputs: Path, secret: Path, name: str) -> None:
    elsewhere = inputs.parent / "elsewhere"
    elsewhere.mkdir()
    (inputs.parent / "run").mkdir()
    (inputs.parent / "run" / name).symlink_to(elsewhere)
    with pytest.raises(MachineError, match=f"{name} is a link"):
        go(inputs)
    assert list(elsewhere.iterdir()) == []


def test_a_linked_folder_deep_among_the_pictures_is_not_written_to(inputs: Path) -> None:
    elsewhere = inputs.parent / "elsewhere"
    elsewhere.mkdir()
    (inputs.parent / "run" / "images").mkdir(parents=True)
    (inputs.parent / "run" / "images" / "deep").symlink_to(elsewhere)
    text = MANIFEST.format(steps=1).replace('"*.png"', "{path: a.png, relpath: deep/er}")
    with pytest.raises(MachineError, match="deep is a link"):
        run(parse(text, "m.yaml", str(inputs)), RunFolder(inputs.parent / "run"), workers=1)
    assert list(elsewhere.iterdir()) == []


def test_a_link_in_a_file_s_place_is_replaced_and_what_it_led_to_is_as_it_was(inputs: Path, secret: Path) -> None:
    folder = RunFolder(inputs.parent / "run")
    names = ("images/a.png", "summary.json", "report.html", "items.jsonl", "environment.json", "manifest.resolved.yaml")
    for name in names:
        (folder.root / name).parent.mkdir(parents=True, exist_ok=True)
        (folder.root / name).symlink_to(secret)
    rows = rows_of(go(inputs))
    write_report(folder, rows, summarize(rows))
    assert {row.status for row in rows} == {"done"}
    assert secret.read_bytes() == b"not yours"
    assert not any((folder.root / name).is_symlink() for name in names if name != "summary.json")


def test_a_linked_ledger_is_not_appended_to(inputs: Path, secret: Path) -> None:
    (inputs.parent / "run" / "ledger").mkdir(parents=True)
    (inputs.parent / "run" / "ledger" / "cpu-0.jsonl").symlink_to(secret)
    assert {row.status for row in rows_of(go(inputs))} == {"pending"}
    assert secret.read_bytes() == b"not yours"


def test_pictures_behind_a_link_are_not_done_and_not_merged(done: RunFolder, inputs: Path) -> None:
    elsewhere = done.images.rename(inputs.parent / "elsewhere")
    done.images.symlink_to(elsewhere)
    assert {row.status for row in rows_of(done)} == {"pending"}
    merged = merge([done], RunFolder(inputs.parent / "out"))
    assert {row.status for row in rows_of(merged)} == {"pending"}
    assert not merged.images.exists()


def test_a_merge_copies_no_link_beside_the_pictures(done: RunFolder, secret: Path, inputs: Path) -> None:
    (done.root / "export").mkdir()
    (done.root / "export" / "model.onnx").symlink_to(secret)
    (done.root / "environment.other.json").symlink_to(secret)
    merged = merge([done], RunFolder(inputs.parent / "out"))
    assert b"not yours" not in below(merged.root).values()


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders")
@pytest.mark.parametrize("name", ["records/{id}.json", "ledger/pipe.jsonl", ".index/pipe.jsonl", "items.jsonl"])
def test_a_pipe_among_a_run_s_files_is_not_waited_for(done: RunFolder, name: str) -> None:
    path = done.root / name.format(id=rows_of(done)[0].id)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    try:
        assert {row.status for row in rows_of(done)} <= {"done", "pending"}
    except UsageError as error:
        assert "items.jsonl: cannot be read" in str(error)  # noqa: PT017


def card(**changes: Any) -> dict[str, Any]:
    """A generator's metadata, as a fit writes them but for ``changes``."""
    from conftest import generator_config

    fields: dict[str, Any] = {"id": "a", "generator": generator_config().model_dump(mode="json"), "task": {}}
    fields |= {"seed": 0, "latent_seed": 0, "channels": 3}
    return fields | {"padded": [16, 16], "size": [16, 16], "precision": "fp32"} | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "../../secret"},
        {"id": "/tmp/x"},
        {"id": 3},
        {"padded": [10**9, 10**9], "size": [8, 8]},
        {"padded": [16], "size": [16]},
        {"padded": [16, 16], "size": [-1, 16]},
        {"size": [32, 32]},
        {"channels": 10**9},
        {"channels": -3},
        {"generator": {}},
        {"generator": {"channels": [10**9], "input": {"type": "noise", "depth": 8}}},
        {"generator": {"channels": "x", "input": 3}},
        {"unknown": 1},
        {"latent_seed": "x"},
        {"latent_seed": [0, 1]},
        {"generator": {"trunks": 65}},
        {"generator": {"trunks": "x"}},
        {"generator": {"trunks": 0}},
    ],
)
def test_a_generator_that_describes_the_impossible_is_one_line(tmp_path: Path, changes: Any) -> None:
    metadata = {"format": "dipfast-generator/1", "card": json.dumps(card(**changes))}
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "g.safetensors", metadata)
    with pytest.raises(UsageError, match=r"g\.safetensors: ") as caught:
        load(tmp_path / "g.safetensors")
    assert "\n" not in str(caught.value)


def test_a_pickle_is_no_generator(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(1)}, tmp_path / "g.safetensors")
    with pytest.raises(UsageError, match="is not a generator"):
        load(tmp_path / "g.safetensors")


def test_renders_and_exports_are_not_written_through_a_link(done: RunFolder, inputs: Path, capsys: Any) -> None:
    elsewhere = inputs.parent / "elsewhere"
    elsewhere.mkdir()
    for verb, name in (("render", "renders"), ("export", "export"), ("variants", "variants")):
        (done.root / name).symlink_to(elsewhere)
        assert main([verb, str(done.root)]) == 2
        assert f"{name} is a link" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []


def test_export_reads_no_generator_behind_a_link(done: RunFolder, inputs: Path) -> None:
    elsewhere = done.generators.rename(inputs.parent / "elsewhere")
    done.generators.symlink_to(elsewhere)
    with pytest.raises(UsageError, match="generators is a link"):
        targets(done.root)
