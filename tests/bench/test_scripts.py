"""The scripts of bench/ as commands, and what `dipfast bench` says of those that it once had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import expect
import million
from dipfast.cli.app import main
from dipfast.manifest import load
from dipfast.threads import SETTINGS

BENCH = Path(__file__).parent.parent.parent / "bench"
MOVED = ("expect", "frontier", "stop")


@pytest.mark.parametrize("name", MOVED)
@pytest.mark.parametrize("more", [[], ["--help"], ["a.png", "--crop", "32", "--set", "x=y"], ["--crop"], ["--", "-x"]])
def test_a_verb_that_is_a_script_now_names_it_whatever_is_given(
    name: str, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", name, *more]) == 2
    line = f"dipfast: error: dipfast bench {name} is now a script of dipfast's repository: python bench/{name}.py\n"
    assert capsys.readouterr() == ("", line)
    assert (BENCH / f"{name}.py").is_file()


def test_what_is_a_script_now_is_in_no_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--help"], ["bench", "--help"]):
        assert main(arguments) == 0
        assert not set(capsys.readouterr().out.split()) & set(MOVED)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in SETTINGS}


def test_a_script_runs_from_any_folder_and_words_a_mistake_as_the_command_does(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCH / "expect.py"), "--size", "8"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("dipfast: error: Invalid value for '--size'")


def test_what_a_step_should_cost_is_printed_as_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--size", "64", "--size", "128", "--precision", "fp32", "--json"], expect.app) == 0
    assert [row["size"] for row in json.loads(capsys.readouterr().out)] == [64, 128]
    assert main(["--flops", "1e12"], expect.app) == 0
    assert "a step in bf16 at 1 TFLOP/s and 4.3 TB/s" in capsys.readouterr().out


@pytest.mark.parametrize("name", MOVED)
def test_a_script_says_how_threads_wait_before_torch_is_loaded(name: str) -> None:
    code = (
        "import os, sys; sys.modules['torch'] = None\n"
        f"try: import {name}\n"
        "except ImportError: pass\n"
        f"print({set(SETTINGS)} <= set(os.environ))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=BENCH, env=environment(), capture_output=True, text=True)
    assert done.stdout == "True\n"


@pytest.mark.parametrize("own", [False, True])
def test_the_inputs_of_the_million_are_a_manifest_of_pictures_that_are_there(tmp_path: Path, own: bool) -> None:
    million.write_inputs(tmp_path, 3, own_settings=own)
    items = load(tmp_path / "manifest.yaml").items
    assert all(Path(item.path).is_file() for item in items)
    assert [item.settings.fit.seed for item in items] == ([0, 1, 2] if own else [0, 0, 0])
    assert [item.output for item in items] == [f"{i}.png" if own else f"0000/scan00{i}.png" for i in range(3)]
