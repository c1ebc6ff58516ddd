"""What people type first: `dipfast PICTURE`, several pictures, and help."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dipfast.cli.app import main
from dipfast.image import Source, write

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
