"""`bench render`: every variant has its samples, its proof and what it ran on; a run is held against what it kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from dipfast.bench import render
from dipfast.bench.render import bench_render
from dipfast.cli.app import main
from dipfast.errors import DipfastError
from dipfast.store.folder import RunFolder

MANIFEST = """
version: 1
defaults:
  generator: {channels: [8, 8], input: {type: noise, depth: 4}}
  fit: {steps: 60, seeds: 1, optimizer: {type: muon, lr: 0.02}, average: 0.9, precision: fp32}
  output: {bit_depth: 16}
items:
  - {path: "sample:astronaut", refine: null, degrade: {type: gaussian, sigma: 25, crop: 32}}
  - {path: "sample:coffee", task: {type: inpaint}, degrade: {type: missing, fraction: 0.5, crop: 32}}
"""
SMALL = ["bench", "render", "--size", "64", "--channels", "8,8", "--rounds", "3", "--threads", "1"]


def test_every_variant_has_its_samples_and_its_proof() -> None:
    result = bench_render([16, 32], ["onnxruntime"], ["fp32", "fp16"], channels=[8, 8], rounds=2)
    names = [(row["size"], row["name"]) for row in result["variants"]]
    assert names == [(s, n) for s in (16, 32) for n in ("torch fp32", "onnxruntime fp32", "onnxruntime fp16")]
    for row in result["variants"]:
        assert len(row["ms"]) == 2 and row["cold_ms"] > 0 and row["images_per_second"] > 0
        assert row["p5_ms"] <= row["p50_ms"] <= row["p95_ms"]
    assert result["variants"][0]["times_torch_fp32"] == 1
    assert result["variants"][1]["parity"]["psnr_db"] > 80
    assert result["variants"][1]["ran"]["device"] == "CPUExecutionProvider"


def test_a_variant_that_renders_another_picture_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "agreement", lambda a, b: {"psnr_db": 20.0, "max_abs": 0.5})
    with pytest.raises(DipfastError, match=r"agrees with PyTorch at 20\.0 dB only"):
        bench_render([16], ["torch"], ["fp32"], channels=[8, 8], rounds=1)


def test_the_verb_prints_a_table_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SMALL) == 0
    assert "onnxruntime fp32" in capsys.readouterr().out
    assert main([*SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["channels"] == [8, 8] and result["machine"]["threads"] == 1
    assert np.isfinite(result["variants"][1]["p95_ms"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "100"], "--size should be a multiple of 32, is 100"),
        (["--channels", "8,x"], "--channels should be whole numbers"),
    ],
)
def test_a_wrong_option_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "render", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one denoised picture and one with pixels missing."""
    folder = tmp_path_factory.mktemp("exports")
    manifest = folder / "m.yaml"
    manifest.write_text(MANIFEST)
    assert main(["run", str(manifest), "-o", str(folder / "RUN"), "--workers", "1", "--progress", "none"]) == 0
    return folder / "RUN"


def test_a_run_is_held_against_what_it_kept(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "render", str(run), "--rounds", "1", "--threads", "1"]
    assert main([*arguments, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    denoised, mended = sorted(result["generators"], key=lambda row: row["task"])
    parity = RunFolder(run).all_records()
    assert [row["task"] for row in (denoised, mended)] == ["denoise", "inpaint"]
    for row in (denoised, mended):
        assert row["distil_steps"] / row["steps"] == pytest.approx(row["step_share"]) and row["bytes"] > 1000
        assert row["variants"][1]["name"] == "onnxruntime fp32" and row["variants"][1]["parity"]["psnr_db"] > 80
    stored = {record["settings"]["task"]["type"]: record["generator"]["parity_db"] for record in parity}
    assert denoised["kept_db"] == pytest.approx(stored["denoise"], abs=0.1)
    assert mended["kept_db"] > stored["inpaint"] + 1  # the known pixels are put back
    assert abs(denoised["from_truth_db"]) < 1
    assert [summary["of"] for summary in result["summary"]] == [1, 1]
    assert main(arguments) == 0
    assert "onnxruntime" in capsys.readouterr().out


def test_what_only_a_fresh_generator_has_is_refused_for_a_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "render", str(run), "--size", "64"]) == 2
    assert "leave --size, --channels and --upsample" in capsys.readouterr().err
    [generator, _] = sorted((run / "generators").glob("*.safetensors"))
    lone = run.parent / "lone.safetensors"
    lone.write_bytes(generator.read_bytes())
    assert main(["bench", "render", str(lone)]) == 2
    assert "should be of a run" in capsys.readouterr().err
