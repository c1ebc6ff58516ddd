"""What people type first: `dipfast PICTURE`, several pictures, one file to write, short options, and help."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer.main

from dipfast.cli.app import app, main
from dipfast.image import Source, probe, write

TINY = ["--set", "generator={channels: [8, 8], input: {type: noise, depth: 4}}", "--set", "fit.steps=3"]


@pytest.fixture
def here(tmp_path: Path, picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with dog.png, cat.png, sub/dog.png and a manifest."""
    for name in ("dog.png", "cat.png", "sub/dog.png"):
        write(tmp_path / name, picture, Source("png", "rgb", 8))
    (tmp_path / "m.yaml").write_text("version: 1\nitems: [dog.png]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """The outputs that a plan of ``words`` names."""
    assert main([*words, "--json"]) == 0
    plan = json.loads(capsys.readouterr()[0])
    return sorted(output for item in plan["items"] for output in item["outputs"])


@pytest.mark.parametrize(
    ("words", "outputs"),
    [
        (["dog.png"], ["dog.png"]),
        (["m.yaml"], ["dog.png"]),
        (["sub"], ["dog.png"]),
        (["*.png"], ["cat.png", "dog.png"]),
        (["--preset", "fast", "dog.png", "cat.png"], ["cat.png", "dog.png"]),
        (["dog.png", "sub"], ["dog.png", "sub/dog.png"]),
        (["sample:coffee"], ["coffee.png"]),
    ],
)
def test_what_is_no_command_is_run(
    here: Path, capsys: pytest.CaptureFixture[str], words: list[str], outputs: list[str]
) -> None:
    assert planned(capsys, "plan", *words) == outputs
    assert main([*words, "--dry-run", *TINY]) == 0
    assert all(f"images/{output}" in capsys.readouterr().out for output in outputs[:1])


def test_a_command_wins_over_a_file_of_its_name(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "doctor").mkdir()
    assert main(["doctor", "--json"]) == 0
    assert "torch" in capsys.readouterr().out
    assert main(["./doctor"]) == 4


def test_pictures_are_run_as_one_and_a_further_one_joins_them(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["dog.png", "cat.png", "--workers", "1", *TINY]) == 0
    [folder] = (here / "runs").iterdir()
    assert main(["dog.png", "cat.png", "sub/dog.png", "--workers", "1", *TINY]) == 0
    assert [path.name for path in (here / "runs").iterdir()] == [folder.name]
    found = {str(path.relative_to(folder / "images")) for path in (folder / "images").rglob("*.png")}
    assert found == {"dog.png", "cat.png", "sub/dog.png"}
    assert "2 images (denoise)" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["run"], ["plan"], ["status"], ["bench"], ["bench", "step"], ["export"]])
def test_help_has_a_short_form_everywhere(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "-h"]) == 0
    short = capsys.readouterr().out
    assert main([*words, "--help"]) == 0
    assert "Usage: dipfast" in short and capsys.readouterr().out == short


def every_command() -> list[list[str]]:
    """The words of each command that `--help` shows, those of the groups in it too."""
    found = []
    todo = [([], typer.main.get_command(app))]
    while todo:
        words, command = todo.pop()
        found.append(words)
        inner = getattr(command, "commands", {})
        todo += [([*words, name], below) for name, below in inner.items() if not below.hidden]
    return sorted(found)


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_help_is_whole_at_80_columns_with_two_examples(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*words, "-h"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not any(line.endswith(("...", "…")) for line in lines if not line.startswith("Usage:"))
    examples = lines[lines.index("  Examples:") + 1 :]
    assert len(examples) == 2 and all(line.strip().startswith("dipfast") for line in examples)


def test_the_options_of_a_run_are_in_panels(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "-h"]) == 0
    text = capsys.readouterr().out
    basics, speed, expert = (text.index(f"\n{panel}:\n") for panel in ("Basics", "Speed", "Expert"))
    assert basics < text.index("--sigma") < speed < text.index("--threads") < expert < text.index("--set KEY")


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("dipfast ru", ["run"]),
        ("dipfast dog.png --sig", ["--sigma"]),
        ("dipfast nofile --sig", ["--sigma"]),
        ("dipfast run --preset b", ["balanced", "best"]),
        ("dipfast bench st", ["step", "stop"]),
    ],
)
def test_a_shell_completes_commands_options_and_choices(typed: str, completed: list[str]) -> None:
    code = "import sys; from dipfast.cli.app import main; sys.exit(main())"
    words = typed.split()
    environment = os.environ | {"_DIPFAST_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    environment["COMP_CWORD"] = str(len(words) - 1)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert [word for word in done.stdout.split() if word != "stop"] == [word for word in completed if word != "stop"]


@pytest.mark.parametrize(
    ("shell", "file"),
    [
        ("bash", ".bash_completions/dipfast.sh"),
        ("zsh", ".zfunc/_dipfast"),
        ("fish", ".config/fish/completions/dipfast.fish"),
    ],
)
def test_completion_is_installed_for_the_shell_that_runs(
    shell: str, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shellingham.detect_shell", lambda: (shell, f"/bin/{shell}"))
    with pytest.raises(SystemExit) as caught:
        main(["--install-completion"])
    assert caught.value.code == 0
    assert f"{shell} completion installed" in capsys.readouterr().out
    assert "_DIPFAST_COMPLETE" in (tmp_path / file).read_text()


@pytest.mark.parametrize(("name", "format"), [("new/out.jpg", "jpeg"), ("out.PNG", "png"), ("out.tif", "tiff")])
def test_one_picture_is_written_to_a_file_in_its_format(
    here: Path, name: str, format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dog.png", "-o", name, "--workers", "1", *TINY]) == 0
    assert probe(name).format == format
    assert f"picture: {name}\n" in capsys.readouterr().err
    [run] = (here / "runs").iterdir()
    assert (run / "images" / f"dog{Path(name).suffix.lower()}").read_bytes() == Path(name).read_bytes()
    Path(name).unlink()
    assert main(["dog.png", "-o", name, "--workers", "1", *TINY]) == 0
    assert Path(name).is_file() and "1 before this run" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dog.png", "-o", "dog.png"], "-o dog.png: is the picture itself, which is never written over"),
        (["dog.png", "-o", "link.png"], "-o link.png: is the picture itself"),
        (["dog.png", "-o", "sub/../dog.png"], "-o sub/../dog.png: is the picture itself"),
        (["dog.png", "--mask", "cat.png", "-o", "cat.png"], "-o cat.png: is the picture's mask"),
        (["dog.png", "--reference", "cat.png", "-o", "cat.png"], "-o cat.png: is the reference"),
        (["dog.png", "cat.png", "-o", "x.png"], "-o x.png: is the file of one picture, and there are 2: name a folder"),
        (["sub", ".", "-o", "x.png"], "-o x.png: is the file of one picture, and there are 4"),
        (["dog.png", "-o", "x.bmp"], "-o x.bmp: .bmp is not written: end it in .png"),
        (["dog.png", "-o", "x.heic"], "-o x.heic: .heic is not written"),
        (["dog.png", "-o", "x.psd"], "-o x.psd: .psd is not written"),
        (["dog.png", "-o", "m.yaml/x.png"], "is no folder that can be written into"),
        (
            ["dog.png", "-o", "x.png", "--executor", "slurm", "--workers", "1"],
            "-o x.png: should be a folder with --executor slurm",
        ),
    ],
)
def test_a_file_that_cannot_be_the_one_picture_is_refused_in_one_line(
    here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "link.png").symlink_to("dog.png")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(["run", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("output", ["folder.png/", "there.png", "plain"])
def test_a_folder_may_have_any_name(here: Path, output: str) -> None:
    (here / "there.png").mkdir()
    assert main(["dog.png", "cat.png", "-o", output, "--workers", "1", *TINY]) == 0
    assert (here / output / "images" / "dog.png").is_file()


@pytest.mark.parametrize(
    ("words", "opened"),
    [
        (["dog.png", "-o", "out.png"], "out.png"),
        (["dog.png", "-o", "run"], "run/images/dog.png"),
        (["dog.png", "cat.png", "-o", "run"], "run/report.html"),
        (["dog.png", "cat.png", "-o", "run", "--set", "report.html=false"], "run/images"),
    ],
)
def test_open_shows_the_picture_or_the_report(
    here: Path, words: list[str], opened: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[str] = []
    monkeypatch.setattr("typer.launch", lambda path: seen.append(path) or 1)
    assert main([*words, "--open", "--workers", "1", *TINY]) == 0
    assert seen == [str(here / opened)]
    assert "--open: this system has no program that opens" in capsys.readouterr().err
    assert main(["plan", *words, "--open"]) == 0
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--steps", "No such option: --steps; give --set fit.steps=... (dipfast run --help)"),
        ("--lr", "give --set fit.optimizer.lr=..."),
        ("--max-pixels", "give --set input.max_pixels=..."),
        ("--fit.steps", "give --set fit.steps=..."),
        ("--stepz", "give --set fit.steps=..."),
        ("--noise", "give --set task.noise=... or --set fit.optimizer.noise=... or --set generator.input.noise=..."),
        ("--presett", "No such option: --presett (Possible options: --preset"),
        ("--frobnicate", "No such option: --frobnicate (Possible options: --force)"),
    ],
)
def test_an_option_that_is_a_key_of_the_manifest_names_set(
    here: Path, option: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dog.png", option, "5"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mask", "no.png"], "--mask no.png: is not there"),
        (["--mask", "sub"], "--mask sub: is a folder; name the masks in it, like sub/{name}.png"),
        (["--sigma", "25", "--scale", "2"], "--scale 2: belongs to task superres, but --sigma asks for task denoise"),
    ],
)
def test_a_wrong_short_option_is_one_line(
    here: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["dog.png", *words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_masks_of_several_pictures_are_named_by_a_placeholder(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("dog-hole.png", "cat-hole.png"):
        write(here / name, np.eye(32, dtype=np.float32)[None], Source("png", "gray", 8))
    assert planned(capsys, "plan", "*.png", "--mask", "{name}-hole.png") == ["cat.png", "dog.png"]


@pytest.mark.parametrize("words", [["--sigma", "0.1"], ["--set", "degrade={type: gaussian, sigma: 0.1}"]])
def test_a_sigma_that_may_be_a_share_of_the_range_is_asked_about(
    here: Path, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    question = "is 0.1 of 255, which nobody sees: sigma is in 8-bit units; is 25.5 meant?"
    assert main(["plan", "dog.png", *words]) == 0
    assert question in capsys.readouterr().err
    assert main(["dog.png", *words, "--workers", "1", *TINY]) == 0
    assert capsys.readouterr().err.count(question) == 1
