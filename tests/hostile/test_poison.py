"""The poison corpus through the real command: each file ends as it must, and nothing else happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import poison
import pytest

from dipfast.cli.app import main
from dipfast.manifest import load


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("poison")


@pytest.fixture(scope="module")
def ran(folder: Path) -> Any:
    """The corpus, what the run returned, and all that lay outside its folder before and after."""
    corpus = poison.plant(folder / "in")
    (folder / "m.yaml").write_text(poison.manifest_of(folder / "in", corpus))
    before = poison.tree(folder, but="run")
    result = poison.run(folder / "run", folder / "m.yaml", "--workers", "1", seconds=110)
    return corpus, result, before, poison.tree(folder, but="run")


def test_every_file_ends_as_it_must_with_one_reason(ran: Any, folder: Path) -> None:
    corpus, result, *_ = ran
    assert result.returncode == 3, result.stderr
    ended = list(poison.outcomes(folder / "run", folder / "in", corpus))
    assert len(ended) > 120
    assert [(one.name, kind, reason, wrong) for one, kind, reason, wrong in ended if wrong] == []


def test_nothing_is_written_outside_the_run_s_folder(ran: Any) -> None:
    _, _, before, after = ran
    assert before == after
    assert len(before) > 120


def test_what_is_printed_moves_no_cursor_and_comes_from_no_library(ran: Any) -> None:
    _, result, *_ = ran
    assert not [line for line in (result.stdout + result.stderr).splitlines() if not line.isprintable()]
    assert "zTXt" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_glob_over_it_all_finds_files_only_and_ends(ran: Any, folder: Path) -> None:
    names = [Path(item.path).name for item in load(f"{folder}/in/*.png").items]
    assert {"loop_a.png", "dangling.png", "mode_L.png"} <= set(names)
    assert not {"folder.png", "pipe.png", "socket.png"} & set(names)


@pytest.mark.parametrize("options", [["--dry-run"], ["plan"], ["plan", "--json"], ["status"], ["status", "--json"]])
def test_what_is_told_of_it_moves_no_cursor(ran: Any, folder: Path, options: list[str], capsys: Any) -> None:
    source = str(folder / ("run" if options[0] == "status" else "m.yaml"))
    command = ["run", source, *options] if options[0].startswith("-") else [options[0], source, *options[1:]]
    assert main(command) == (0 if options[0] == "status" else 3)  # the plan foresees what will fail
    told = capsys.readouterr().out
    assert [line for line in told.splitlines() if not line.isprintable()] == []
    assert "cut_5.png" in told


def test_an_error_moves_no_cursor(tmp_path: Path, capsys: Any) -> None:
    assert main(["status", f"{tmp_path}/\x1b[2Jx"]) == 2
    assert capsys.readouterr().err.endswith("/\\x1b[2Jx: holds no run (it has no items.jsonl)\n")


def test_the_corpus_is_the_same_each_time(ran: Any, folder: Path, tmp_path: Path) -> None:
    corpus, *_ = ran
    assert [one.name for one in poison.plant(tmp_path / "again")] == [one.name for one in corpus]
    for name in ("bomb.avif", "exif_noise.jpg", "mode_P_tRNS.png"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / "in" / name).read_bytes()


@pytest.mark.skipif(os.name == "nt", reason="no pipes in folders")
def test_a_mask_that_is_a_pipe_or_a_device_is_not_read(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "a.png").write_bytes(poison.WHOLE["png"])
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "device.png").symlink_to("/dev/zero")
    rows = "".join(
        f"  - {{path: a.png, relpath: {m}, task: {{type: inpaint, mask: {m}.png}}}}\n" for m in ("pipe", "device")
    )
    (tmp_path / "m.yaml").write_text(f"version: 1\nitems:\n{rows}")
    command = ["run", str(tmp_path / "m.yaml"), "-o", str(tmp_path / "run"), "--workers", "1", "--progress", "none"]
    assert main(command) == 3
    assert capsys.readouterr().out.count("not a regular file") == 2
