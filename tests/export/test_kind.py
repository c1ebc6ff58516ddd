"""What an exported model is of, the gate on it, and denoisers for pictures of any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dipfast
from dipfast.cli.app import main
from dipfast.errors import GateError, UsageError
from dipfast.export.kind import kept_picture_db, kind_of
from dipfast.export.onnx import metadata
from dipfast.export.providers import Session
from dipfast.export.save import Gates, export_onnx, load_model, report_path
from dipfast.export.targets import targets
from dipfast.generators import Card
from dipfast.image import Source, pad, read, write
from dipfast.render.generator import load
from dipfast.settings.generator import SkipGenerator

SETS = (
    "task.noise.sigma=20",
    "generator.channels=[8,8]",
    "generator.skip_channels=2",
    "fit.steps=3",
    "fit.windows.count=4",
    "fit.windows.side=32",
    "fit.precision=fp32",
)


def noisy(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]] / 64
    clean = np.stack((0.3 + 0.3 * np.sin(5 * x), 0.5 + 0.2 * np.cos(4 * y), 0.4 + 0.1 * x * y))
    return (clean + np.random.default_rng(seed).normal(scale=20 / 255, size=clean.shape)).clip(0, 1).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    write(folder / "first.png", noisy((64, 72)), Source("png", "rgb", 8))
    dipfast.run(folder / "first.png", folder / "run", workers=1, sets=SETS)
    return folder / "run"


def card(frozen: bool) -> Card:
    generator = SkipGenerator.model_validate({"type": "skip", "channels": [8], "input": {"type": "image"}})
    fitted: dict[str, Any] = {"id": "a" * 16, "task": {"type": "denoise"}, "seed": 0, "latent_seed": 0, "channels": 3}
    return Card(**fitted, generator=generator, padded=(32, 32), size=(32, 32), precision="fp32", frozen=frozen)


def record(distance: Any, sha256: str = "f") -> dict[str, Any]:
    return {"generator": {"sha256": sha256, "parity_db": distance}}


@pytest.mark.parametrize(
    ("distance", "frozen", "of"),
    [(45.0, False, "picture"), (None, True, "picture"), (14.6, False, "network"), (14.6, True, "denoiser")],
)
def test_a_model_is_of_the_picture_only_where_its_render_is_near_it(distance: Any, frozen: bool, of: str) -> None:
    found = kind_of(card(frozen), record(distance), "f", "auto", 40.0, "m.onnx")
    assert found.of == of and found.kept_picture_db == distance


@pytest.mark.parametrize("known", [None, {}, record(50.0, "other"), record("far"), {"generator": {"sha256": "f"}}])
def test_what_nobody_measured_does_not_pass_for_the_picture(known: Any) -> None:
    assert kept_picture_db(known, "f") == "unknown"
    assert kind_of(card(False), known, "f", "auto", 40.0, "m.onnx").of == "network"
    with pytest.raises(GateError, match=r"m\.onnx: how near its render is to the kept picture is unknown"):
        kind_of(card(False), known, "f", "picture", 40.0, "m.onnx")


def test_the_limit_is_what_is_asked_for() -> None:
    assert kind_of(card(True), record(38.0), "f", "picture", 35.0, "m.onnx").of == "picture"
    with pytest.raises(
        GateError, match=r"38.0 dB from the kept picture, where 40 dB are asked for; export the network"
    ):
        kind_of(card(True), record(38.0), "f", "picture", 40.0, "m.onnx")
    assert kind_of(card(True), record(60.0), "f", "denoiser", 40.0, "m.onnx").of == "denoiser"
    with pytest.raises(UsageError, match=r"m\.onnx: --of denoiser: the network was fitted to one whole picture"):
        kind_of(card(False), record(60.0), "f", "denoiser", 40.0, "m.onnx")


def test_a_denoiser_is_exported_as_one_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run)]) == 0
    assert "is a denoiser: its render is " in "".join(capsys.readouterr())
    (one,) = targets(run)
    model, about, _ = load_model(run / "export" / f"{one.generator.stem}.onnx")
    report = json.loads(report_path(run / "export" / f"{one.generator.stem}.onnx").read_bytes())
    assert one.record is not None
    assert about["of"] == report["of"] == "denoiser"
    assert about["kept_picture_db"] == report["kept_picture_db"] == one.record["generator"]["parity_db"] < 40
    assert report["psnr_db"] is None or report["psnr_db"] >= 80
    assert "latent" not in {tensor.name for tensor in model.graph.initializer}
    assert "padded by reflection" in metadata(model)["sizes"]["rule"]


def test_a_picture_that_it_is_not_misses_the_gate_and_leaves_nothing(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(run), "-o", str(tmp_path)]) == 0
    assert list(tmp_path.glob("*.onnx"))
    capsys.readouterr()
    assert main(["export", str(run), "-o", str(tmp_path), "--of", "picture"]) == 6
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "where 40 dB are asked for; export the network as what it is with --of denoiser" in line
    assert list(tmp_path.iterdir()) == []
    assert main(["export", str(run), "-o", str(tmp_path), "--of", "picture", "--min-psnr-to-picture", "1"]) == 0


@pytest.mark.parametrize("size", [(64, 72), (48, 96), (37, 61)])
def test_a_model_of_a_denoiser_takes_any_size_and_gives_what_torch_does(
    run: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    (one,) = targets(run)
    report = export_onnx(one.generator, tmp_path, gates=Gates(of="denoiser"), record=one.record)
    _, _, data = load_model(Path(report["path"]))
    picture, fitted = noisy(size, seed=1), load(one.generator)
    found = Session(data, threads=1).render(picture[None])[0]
    expected = fitted.output("fp32", torch.from_numpy(pad(picture, 4, 16))[None])[:, : size[0], : size[1]]
    assert found.shape == picture.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_denoiser_is_applied_to_another_picture(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = targets(run)
    other = tmp_path / "other.tif"
    write(other, noisy((50, 70), seed=2), Source("tiff", "rgb", 16))
    assert main(["render", str(one.generator), str(other)]) == 0
    written = read(tmp_path / "other-denoised.tif")
    assert written.source.bit_depth == 16 and written.pixels.shape == (3, 50, 70)
    expected = load(one.generator).denoised(read(other).pixels)
    np.testing.assert_allclose(written.pixels, expected, atol=1e-4)
    model = export_onnx(one.generator, tmp_path, record=one.record)["path"]
    assert main(["render", model, str(other), "-o", str(tmp_path / "by-model.tif")]) == 0
    assert read(tmp_path / "by-model.tif").pixels.shape == (3, 50, 70)


def test_the_fitted_picture_itself_comes_out_as_it_was_kept(run: Path) -> None:
    (one,) = targets(run)
    picture = read(run.parent / "first.png").pixels
    kept = read(next((run / "images").iterdir())).pixels
    np.testing.assert_allclose(load(one.generator).denoised(picture), kept, atol=1.01 / 510)


def test_what_is_no_denoiser_or_no_picture_for_it_is_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (one,) = targets(run)
    gray = tmp_path / "gray.png"
    write(gray, noisy((40, 40))[:1], Source("png", "gray", 8))
    model = export_onnx(one.generator, tmp_path, record=one.record)["path"]
    wrong = [
        ([str(one.generator), str(gray)], "it is for pictures with 3 channels, and this one has 1"),
        ([model, str(gray)], "should have 3 channels, has 1"),
        ([model], "is a denoiser, which holds no picture: dipfast render"),
        ([str(run), str(gray)], "should be a denoiser, a GENERATOR or a MODEL.onnx"),
    ]
    capsys.readouterr()
    for arguments, message in wrong:
        assert main(["render", *arguments]) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert message in line
