"""The same against the S3 protocol itself, served by moto, where that and s3fs are installed (they are in no extra)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")
server = pytest.importorskip("moto.server")

from dipfast import remote  # noqa: E402
from dipfast.cli.app import main  # noqa: E402
from dipfast.errors import ItemError  # noqa: E402
from dipfast.image import read  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # of aiobotocore's, when its loop is left
SECRET = "not-a-real-secret-key"
TINY = (
    *("--set=fit.steps=2", "--set=fit.seeds=1", "--set=generator.channels=[4]", "--set=generator.skip_channels=2"),
    *("--set=task.noise.sigma=25", "--set=fit.stop.type=fixed", "--workers=1", "--progress=none"),
)


@pytest.fixture(scope="module")
def bucket() -> Iterator[Any]:
    """A bucket named ``box``; credentials and endpoint in the environment, as anyone has them."""
    import s3fs

    running = server.ThreadedMotoServer(port=0)
    running.start()
    host, port = running.get_host_and_port()
    given = {"ENDPOINT_URL": f"http://{host}:{port}", "ACCESS_KEY_ID": "someone", "SECRET_ACCESS_KEY": SECRET}

    with pytest.MonkeyPatch.context() as patch:
        for name, value in (given | {"DEFAULT_REGION": "us-east-1"}).items():
            patch.setenv(f"AWS_{name}", value)
        system = s3fs.S3FileSystem(use_listings_cache=False, skip_instance_cache=True)
        system.mkdir("box")
        yield system
    running.stop()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def texts(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_a_run_reads_from_a_bucket_writes_into_it_and_is_taken_up_elsewhere(
    bucket: Any, inputs: Path, tmp_path: Path, capsys: Any
) -> None:
    for path in inputs.iterdir():
        bucket.put_file(str(path), f"box/in/{path.name}")
    command = ["run", "s3://box/in/*.png", "-o", "s3://box/out", *TINY]
    assert main(command) == 0
    assert [name.rpartition("/")[2] for name in bucket.find("box/out/images")] == ["a.png", "b.png", "c.png"]
    records = bucket.find("box/out/records")
    assert len(records) == 3
    assert json.loads(bucket.cat_file(records[0]))["input"]["path"].startswith("s3://box/in/")
    assert bucket.exists("box/out/report.html") and bucket.exists("box/out/items.jsonl")
    shutil.rmtree(tmp_path / "runs")
    bucket.rm_file(sorted(bucket.find("box/out/images"))[1])
    capsys.readouterr()
    assert main(command) == 0
    assert "2 before this run" in capsys.readouterr().out
    assert len(bucket.find("box/out/images")) == 3
    assert SECRET.encode() not in texts(tmp_path / "runs")


def test_what_is_not_there_is_one_line(bucket: Any, capsys: Any) -> None:
    with pytest.raises(ItemError, match=r"^s3://box/gone\.png: No such object, bucket or folder$"):
        read("s3://box/gone.png")
    assert main(["plan", "s3://nobody/in"]) == 2
    assert main(["run", "s3://nobody/a.png", "-o", "here", *TINY]) == 3
    assert "unreadable: No such object, bucket or folder" in capsys.readouterr().out


def test_an_overwritten_object_has_another_stamp(bucket: Any) -> None:
    remote.put("s3://box/x", b"12345")
    before = remote.stamp("s3://box/x")
    remote.put("s3://box/x", b"54321")
    after = remote.stamp("s3://box/x")
    assert before is not None and after is not None
    assert before != after
