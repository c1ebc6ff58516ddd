"""`bench render`: every variant has its samples, its proof and what it ran on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from dipfast.bench import render
from dipfast.bench.render import bench_render
from dipfast.cli import main
from dipfast.errors import DipfastError

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
