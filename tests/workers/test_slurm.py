"""Submission through the real submitit, to an sbatch and an srun that are fakes: no SLURM runs here."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MANIFEST

from dipfast.cli.app import main
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of

FAKE_SBATCH = """#!/bin/bash
# A fake: keeps the script that it is given, and runs nothing.
cp "$1" {kept}
echo "Submitted batch job 7"
"""
FAKE_SRUN = """#!/bin/bash
# A fake: runs the command here, without SLURM.
while [[ $1 == --* ]]; do [[ $1 == --unbuffered ]] && shift || shift 2; done
exec "$@"
"""
FAKE_REFUSAL = "#!/bin/bash\n# A fake.\necho 'sbatch: error: invalid partition' >&2\nexit 1\n"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the fake sbatch keeps the script."""
    put(tmp_path / "bin" / "sbatch", FAKE_SBATCH.format(kept=tmp_path / "kept.sh"))
    put(tmp_path / "bin" / "srun", FAKE_SRUN)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "kept.sh"


def put(path: Path, script: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)
    path.chmod(0o755)


@pytest.fixture
def command(inputs: Path) -> list[str]:
    (inputs / "m.yaml").write_text(MANIFEST.format(steps=2))
    return ["run", str(inputs / "m.yaml"), "-o", str(inputs.parent / "run"), "--executor", "slurm"]


def run_task(script: Path, index: int) -> None:
    """What SLURM would do with one task of the array."""
    here = {"JOB_ID": "8", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": str(index), "NTASKS": "1", "NNODES": "1"}
    here |= {"PROCID": "0", "LOCALID": "0", "NODEID": "0", "JOB_NUM_NODES": "1", "JOB_NODELIST": "here"}
    slurm = {f"SLURM_{name}": value for name, value in here.items()}
    subprocess.run(["bash", str(script)], env=os.environ | slurm, check=True, capture_output=True)


def test_every_device_gets_an_array_task_that_does_its_shard(
    kept: Path, command: list[str], inputs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main([*command, "--workers", "2", "--devices", "cpu", "--limit", "2", "--cohort", "2", "--threads", "1"]) == 0
    )
    assert "job 7" in capsys.readouterr().out
    assert json.loads((inputs.parent / "run/.source.json").read_text()) == {"manifest": command[1], "lists": None}
    assert main(["status", str(inputs.parent / "run")]) == 2
    assert "its run has not begun yet" in capsys.readouterr().err
    script = kept.read_text()
    assert re.search(r"^#SBATCH --array=0-1%2$", script, re.M)
    assert re.search(r"^#SBATCH --signal=TERM@90$", script, re.M)
    assert "--time" not in script and "gpus" not in script
    run_task(kept, 0)
    rows = rows_of(RunFolder(inputs.parent / "run"))
    assert [row.status for row in rows] == ["done"]
    run_task(kept, 1)
    rows = rows_of(RunFolder(inputs.parent / "run"))
    assert [(Path(row.path).name, row.status) for row in rows] == [("a.png", "done"), ("b.png", "done")]


def test_a_task_asks_for_one_gpu_and_there_are_no_more_tasks_than_images(kept: Path, command: list[str]) -> None:
    assert main([*command, "--workers", "9"]) == 0
    assert re.search(r"^#SBATCH --gpus-per-node=1$", kept.read_text(), re.M)
    assert re.search(r"^#SBATCH --array=0-2%3$", kept.read_text(), re.M)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "--workers should say how many array tasks"),
        (["--workers", "2", "--devices", "cuda:0"], 2, "should be auto or cpu with --executor slurm"),
        (["--workers", "2", "--shard", "1/2"], 2, "--shard"),
        (["--workers", "2", "--max-failures", "few"], 2, "--max-failures"),
    ],
)
def test_a_wrong_request_is_refused(
    kept: Path, command: list[str], options: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *options]) == code
    assert words in capsys.readouterr().err
    assert not kept.exists()


def test_what_sbatch_refuses_is_said_in_its_words(
    kept: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    put(kept.parent / "bin" / "sbatch", FAKE_REFUSAL)
    assert main([*command, "--workers", "1"]) == 5
    assert capsys.readouterr().err.endswith("--executor slurm: sbatch: sbatch: error: invalid partition\n")


def test_without_slurm_or_submitit_it_says_what_is_missing(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main([*command, "--workers", "1"]) == 5
    assert "no sbatch on the PATH" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main([*command, "--workers", "1"]) == 5
    assert "submitit is not installed; pip install 'dipfast[slurm]'" in capsys.readouterr().err
