"""Object storage through fsspec: addresses, inputs that are read from it, and runs whose results go there.

`memory://` stands for a bucket within one process, `local://` for one that several see.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from conftest import MANIFEST

import dipfast
from dipfast import api, remote
from dipfast.cli.app import main
from dipfast.cli.options import ask
from dipfast.errors import ItemError, MachineError, UsageError
from dipfast.image import Limits, Source, encode, read
from dipfast.manifest import load, parse
from dipfast.manifest.paths import PathError, expand, local
from dipfast.manifest.search import left_out
from dipfast.store.folder import RunFolder
from dipfast.store.mirror import mirrored
from dipfast.store.rows import rows_of

FORMATS = ("png", "tiff")


@pytest.fixture
def bucket() -> Iterator[Any]:
    """An empty `memory://`."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def png(picture: np.ndarray) -> bytes:
    return encode(picture, Source("png", "rgb", 8), "png")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("memory://a/b/../c.png", "memory://a/c.png"),
        ("memory://a/../../../c.png", "memory://a/c.png"),
        ("MEMORY://a//b/./c.png", "memory://a/b/c.png"),
        ("abfs://box@account.example/x.png", "abfs://box@account.example/x.png"),
    ],
)
def test_an_address_is_spelled_in_one_way(given: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "protocol", lambda scheme: None)
    assert remote.checked(given) == meant


@pytest.mark.parametrize(
    ("address", "rule"),
    [
        ("zip://a.png::memory://a.zip", "not a chain"),
        ("simplecache::memory://a.png", "not a chain"),
        ("s3://KEY:SECRET@bucket/a.png", "no credentials"),
        ("https://me@example.org/a.png", "no credentials"),
        ("https://example.org/a.png?X-Amz-Signature=abc", r"no '\?'"),
        ("memory://a\0.png", "NUL"),
        ("nonsense://a/b.png", "fsspec knows"),
    ],
)
def test_an_address_that_may_not_be_used_is_refused_and_says_no_secret(address: str, rule: str) -> None:
    with pytest.raises(PathError, match=rule) as caught:
        local(address, "/")
    assert "SECRET" not in str(caught.value) and "Signature" not in str(caught.value)


def test_a_protocol_that_is_not_installed_is_the_machine_s_lack(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(scheme: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "get_filesystem_class", refuse)
    assert main(["plan", "s3://bucket/scans"]) == 5
    assert capsys.readouterr().err == "dipfast: error: s3://: Install s3fs to access S3\n"


def test_a_local_path_is_no_address() -> None:
    assert not any(map(remote.is_remote, ("a.png", "/a/b.png", "file:///a.png", "sample:cat", "C:\\a.png", "a:b/c")))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("memory:///in", ["a2.png", "a10.png", "deep/c.tif"]),
        ("memory:///in/*.png", ["a2.png", "a10.png"]),
        ("memory:///in/**/*.tif", ["deep/c.tif"]),
        ("*.png", ["a2.png", "a10.png"]),
        ("memory:///in/gone.png", ["gone.png"]),
    ],
)
def test_folders_and_patterns_are_listed_in_natural_order(bucket: Any, text: str, names: list[str]) -> None:
    for name in ("a10.png", "a2.png", "deep/c.tif", "notes.txt"):
        bucket.pipe_file(f"/in/{name}", b"x")
    found = expand(text, "memory:///in", FORMATS)
    assert [file.removeprefix("memory:///in/") for file in found.files] == names


def test_objects_that_are_left_out_are_counted_and_what_cannot_be_listed_is_noted(
    bucket: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.png", "b.CR2", "deep/c.txt", "._a.png"):
        bucket.pipe_file(f"/in/{name}", b"x")
    found = expand("memory:///in", "/", FORMATS)
    assert (found.files, left_out(found.left_out.values())) == (["memory:///in/a.png"], "1 .CR2, 1 other file")
    assert expand("memory:///in/*.png", "/", FORMATS).left_out == {}

    def refuse(address: str) -> None:
        raise PermissionError(13, "permission denied")

    monkeypatch.setattr(remote, "listed", refuse)
    found = expand("memory:///in", "/", FORMATS)
    assert (found.files, found.unlisted) == ([], {"memory:///in": "permission denied"})


def test_an_object_is_read_like_a_file(bucket: Any, picture: np.ndarray, tmp_path: Path) -> None:
    bucket.pipe_file("/a.png", png(picture))
    (tmp_path / "a.png").write_bytes(png(picture))
    assert np.array_equal(read("memory:///a.png").pixels, read(tmp_path / "a.png").pixels)


@pytest.mark.parametrize(
    ("name", "data", "kind", "reason"),
    [
        ("gone.png", None, "unreadable", "No such object, bucket or folder"),
        ("empty.png", b"", "unreadable", "is empty"),
        ("text.png", b"text" * 99, "unreadable", "no image"),
        ("big.png", b"x" * 5001, "too-large", "5001 bytes, max_bytes is 5000"),
    ],
)
def test_an_object_that_is_no_image_is_one_reason(bucket: Any, name: str, data: Any, kind: str, reason: str) -> None:
    if data is not None:
        bucket.pipe_file(f"/{name}", data)
    with pytest.raises(ItemError, match=reason) as caught:
        read(f"memory:///{name}", Limits(max_bytes=5000))
    assert caught.value.kind == kind
    assert str(caught.value).startswith(f"memory:///{name}: ")


def test_a_large_object_is_refused_before_it_is_read(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.pipe_file("/big.png", b"x" * 5001)
    monkeypatch.setattr(remote, "read", lambda *_: pytest.fail("was read"))
    with pytest.raises(ItemError, match="max_bytes"):
        read("memory:///big.png", Limits(max_bytes=5000))


def test_a_folder_behind_local_is_no_object_and_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ItemError, match="not a regular file"):
            read(f"local://{tmp_path}/{name}")


def test_what_a_library_says_holds_no_secret(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")

    def fail(self: Any, path: str, **options: Any) -> None:
        raise RuntimeError("signature of\nhunter2hunter2 is wrong")

    monkeypatch.setattr(type(bucket), "info", fail)
    with pytest.raises(ItemError, match="RuntimeError: signature of … is wrong"):
        read("memory:///a.png")


@pytest.fixture
def scans(tmp_path: Path, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of the three noisy pictures, seen from a working directory of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return f"local://{inputs}"


def go(scans: str, output: Any = None, **options: Any) -> Any:
    manifest = parse(MANIFEST.format(steps=2), "m.yaml", ".", sets=[f"root={scans}"])
    return dipfast.run(manifest, output, workers=1, devices="cpu", **options)


def below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def fits(result: Any) -> int:
    return sum(event["event"] == "done" for event in result.folder.events())


def test_the_command_reads_inputs_and_writes_results_there(scans: str, tmp_path: Path, capsys: Any) -> None:
    tiny = ["--set=generator.channels=[4]", "--set=generator.skip_channels=2", "--set=fit.stop.type=fixed", "--seed=3"]
    command = ["run", f"{scans}/*.png", "-o", f"local://{tmp_path}/bucket/out", "--progress", "none", "--workers", "1"]
    assert main([*command, "--set=fit.steps=2", "--set=fit.seeds=1", "--set=task.noise.sigma=25", *tiny]) == 0
    there = below(tmp_path / "bucket" / "out")
    here = below(next((tmp_path / "here" / "runs").iterdir()))
    assert {"images/a.png", "summary.json", "report.html", "items.jsonl", "ledger/cpu-0.jsonl"} <= there.keys()
    shared = [name for name in here if name.split("/")[0] in ("images", "records", "generators")]
    assert len(shared) == 9
    assert {name: there[name] for name in shared} == {name: here[name] for name in shared}
    record = json.loads(next(data for name, data in there.items() if name.startswith("records/")))
    assert record["input"]["path"].startswith("local:///")
    assert "before" in there["report.html"].decode()


def test_an_input_that_changed_is_another_and_one_that_did_not_is_not_read_again(
    scans: str, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = go(scans)
    (inputs / "a.png").write_bytes((inputs / "b.png").read_bytes())
    seen: list[tuple[str, int]] = []
    real = remote.read
    monkeypatch.setattr(remote, "read", lambda address, most: seen.append((address, most)) or real(address, most))
    second = go(scans)
    assert {Path(address).name for address, most in seen if most == 10**9} == {"a.png"}  # the report reads them all
    ids = [{row.output: row.id for row in result.rows} for result in (first, second)]
    assert {name for name in ids[0] if ids[0][name] != ids[1][name]} == {"a.png"}


def test_masks_and_references_may_lie_there(bucket: Any, picture: np.ndarray, tmp_path: Path) -> None:
    bucket.pipe_file("/in/a.png", png(picture))
    bucket.pipe_file("/true/a.png", png(picture))
    mask = np.ones((1, 32, 32), np.float32)
    mask[:, 10:14] = 0
    bucket.pipe_file("/in/a_mask.png", encode(mask, Source("png", "gray", 8), "png"))
    row = "{path: a.png, task: {type: inpaint, mask: '{name}_mask.png', known: white}, reference: 'memory:///true'}"
    text = MANIFEST.format(steps=2).replace('items: ["*.png"]', f"root: memory:///in\nitems: [{row}]")
    result = dipfast.run(parse(text, "m.yaml", tmp_path), tmp_path / "run", workers=1)
    assert [row.reason for row in result.rows] == [None]
    assert result.rows[0].record is not None
    assert result.rows[0].record["metrics"]["ssim"] is not None
    again = load(str(tmp_path / "run" / "manifest.resolved.yaml"))
    assert [(item.path, item.mask, item.reference) for item in again.items] == [
        ("memory:///in/a.png", "memory:///in/a_mask.png", "memory:///true/a.png")
    ]


def test_a_folder_of_references_on_the_command_line_may_lie_there(bucket: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    manifest = ask(str(tmp_path / "a.png"), reference="memory:///true").manifest
    assert [item.reference for item in manifest.items] == ["memory:///true/a.png"]


def test_another_machine_takes_back_what_is_done(scans: str, tmp_path: Path) -> None:
    output = f"local://{tmp_path}/bucket"
    first = go(scans, output)
    before = below(tmp_path / "bucket")
    shutil.rmtree(first.folder.root)
    second = go(scans, output)
    assert second.already_done == 3 and fits(second) == 0
    kept = [name for name in before if name.split("/")[0] in ("images", "records", "generators")]
    assert {name: before[name] for name in kept} == {name: below(second.folder.root)[name] for name in kept}


@pytest.mark.parametrize("damage", ["images/a.png", "generators/*", "records/*"])
def test_what_there_is_not_whole_is_fitted_again_and_mended(scans: str, tmp_path: Path, damage: str) -> None:
    output = f"local://{tmp_path}/bucket"
    first = go(scans, output)
    before = below(tmp_path / "bucket")
    victim = sorted((tmp_path / "bucket").glob(damage))[0]
    victim.write_bytes(b"torn")
    shutil.rmtree(first.folder.root)
    second = go(scans, output)
    assert (second.already_done, fits(second)) == (2, 1)
    name = str(victim.relative_to(tmp_path / "bucket"))
    assert (below(tmp_path / "bucket")[name] == before[name]) is not name.startswith("records")


def test_a_record_there_that_names_files_outside_is_not_taken_back(scans: str, tmp_path: Path) -> None:
    output = f"local://{tmp_path}/bucket/run"
    first = go(scans, output)
    (tmp_path / "bucket" / "secret").write_bytes(b"planted")
    path = sorted((tmp_path / "bucket" / "run" / "records").iterdir())[0]
    record = json.loads(path.read_bytes())
    record["output"] |= {"paths": ["../../secret"]}
    path.write_text(json.dumps(record))
    shutil.rmtree(first.folder.root)
    assert fits(go(scans, output)) == 1
    assert not list((tmp_path / "here").rglob("secret"))


def test_a_failed_upload_is_one_line_and_is_made_up_for(
    scans: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, real = f"local://{tmp_path}/bucket", remote.put

    def put(address: str, data: bytes) -> None:
        if "/images/b.png" in address:
            raise PermissionError(13, "permission denied")
        real(address, data)

    monkeypatch.setattr(remote, "put", put)
    with pytest.raises(MachineError, match=r"1 of 3 could not be uploaded \(permission denied\); .* the same command"):
        go(scans, output)
    assert len(list((tmp_path / "bucket" / "records").iterdir())) == 2
    monkeypatch.setattr(remote, "put", real)
    again = go(scans, output)
    assert again.already_done == 3
    assert len(list((tmp_path / "bucket" / "records").iterdir())) == 3
    assert (tmp_path / "bucket" / "report.html").is_file()


def test_a_retry_goes_on_uploading(scans: str, inputs: Path, tmp_path: Path) -> None:
    whole = (inputs / "a.png").read_bytes()
    (inputs / "a.png").write_bytes(b"torn")
    result = go(scans, f"local://{tmp_path}/bucket")
    (inputs / "a.png").write_bytes(whole)
    assert main(["retry", str(result.folder.root), "--workers", "1", "--progress", "none"]) == 0
    assert (tmp_path / "bucket" / "images" / "a.png").is_file()


def test_the_record_is_uploaded_last(tmp_path: Path, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path)
    folder.put("remote.json", b'{"address": "memory://out"}')
    folder.put("images/a.png", b"x")
    folder.put("generators/a.safetensors", b"y")
    there = {"output": {"paths": ["a.png"], "sha256": "0"}, "generator": {"path": "generators/a.safetensors"}}
    there["generator"]["sha256"] = "0"
    folder.commit({"id": "a", **there})
    order: list[str] = []
    monkeypatch.setattr(remote, "put", lambda address, data: order.append(address))
    with mirrored(folder) as mirror:
        mirror.done("a")
    assert order[-1] == "memory://out/records/a.json" and len(order) == 3


def test_a_run_s_folder_keeps_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bucket: Any) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = parse(MANIFEST.format(steps=1).replace('"*.png"', "sample:cell"), "m.yaml", tmp_path)
    folder = api.run_folder(manifest, "memory://out/x")
    assert folder.root.parent == Path("runs")
    assert api.run_folder(manifest, "memory://out/x").root == folder.root
    (folder.root / "remote.json").write_text('{"address": "memory://other"}')
    with pytest.raises(UsageError, match="its results go to memory://other"):
        api.run_folder(manifest, "memory://out/x")
    (folder.root / "remote.json").write_text('{"address": "/etc"}')
    with pytest.raises(UsageError, match="should hold an address"):
        api.run_folder(manifest, "memory://out/x")


def test_rows_of_a_remote_run_are_those_of_its_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no run"):
        rows_of(RunFolder(tmp_path))
