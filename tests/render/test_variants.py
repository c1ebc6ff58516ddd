"""Variants: what each kind renders, what it is measured against, and the sheet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_onnx import fitted

import dipfast
from dipfast import generators
from dipfast.cli.app import main
from dipfast.export.targets import Target
from dipfast.image import Source, write
from dipfast.render.generator import FittedGenerator
from dipfast.render.variants import Spec, resized_latent, sharpness, subject, variants_of

NOTHING: dict[str, Any] = {"jitter": [], "precisions": [], "backends": [], "sizes": [], "blend": []}


@pytest.fixture
def lone(tmp_path: Path) -> Path:
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture that was damaged, so that its truth is known."""
    folder = tmp_path_factory.mktemp("in")
    pixels = np.random.default_rng(0).random((3, 32, 32), np.float32)
    write(folder / "a.png", pixels, Source("png", "rgb", 8))
    sets = (
        "generator.channels=[8, 8]",
        "generator.input.type=noise",
        "generator.input.depth=4",
        "fit.steps=4",
        "fit.precision=fp32",
    )
    damage = ("degrade.type=gaussian", "degrade.sigma=25")
    output = tmp_path_factory.mktemp("varied")
    dipfast.run(folder, output, workers=1, sets=(*sets, *damage))
    return output


def measured(path: Path, **spec: Any) -> dict[str, Any]:
    return {v.name: v for v in variants_of(subject(Target(path)), Spec(**{**NOTHING, **spec}))}


def test_precisions_and_backends_agree_as_far_as_they_can(lone: Path) -> None:
    found = measured(lone, precisions=["fp32", "bf16"], backends=["onnxruntime"])
    assert found["torch fp32"].psnr is None  # it is the fit itself
    assert found["onnxruntime fp32"].psnr is None or found["onnxruntime fp32"].psnr > 80
    assert found["onnxruntime fp16"].psnr > 50
    if torch.cuda.is_available():  # so small a net is convolved in float32 on a CPU
        assert 30 < found["torch bf16"].psnr < found["onnxruntime fp16"].psnr
    else:
        assert found["torch bf16"].psnr is None


def test_stronger_jitter_is_further_from_the_fit_and_less_sure(lone: Path) -> None:
    found = measured(lone, jitter=[0.01, 0.2], renders=4)
    weak, strong = found["jitter 0.01, mean of 4"], found["jitter 0.2, mean of 4"]
    assert weak.psnr > strong.psnr and 0 < weak.deviation < strong.deviation
    again = measured(lone, jitter=[0.01], renders=4)["jitter 0.01, mean of 4"]
    np.testing.assert_array_equal(again.pixels, weak.pixels)


def test_sizes_are_rendered_and_measured_at_the_fits(tmp_path: Path) -> None:
    path = tmp_path / "mesh.safetensors"
    path.write_bytes(generators.to_bytes(*fitted(input={"type": "meshgrid"})))
    found = measured(path, sizes=[0.5, 2])
    assert {name: v.pixels.shape for name, v in found.items() if name != "fit"} == {
        "size 14×11": (3, 11, 14),
        "size 58×44": (3, 44, 58),
    }
    assert all(np.isfinite(v.psnr) for name, v in found.items() if name != "fit")


@pytest.mark.parametrize("kind", [{"type": "meshgrid"}, {"type": "fourier", "frequencies": 2}, {"type": "image"}])
def test_every_latent_can_be_resized(kind: dict[str, Any]) -> None:
    one = FittedGenerator(*fitted(input=kind))
    latent = resized_latent(one, 48, 64)
    assert latent.shape == (1, one.latent.shape[1], 48, 64)
    assert one.output("fp32", latent).shape == (3, 48, 64)
    assert torch.allclose(resized_latent(one, 24, 32), one.latent, atol=1e-5)


def test_a_render_that_is_not_finite_is_a_row_that_says_so(lone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def prepare(self, generator: FittedGenerator) -> Any:
            return lambda: np.full((3, 32, 32), np.nan, np.float32)

    monkeypatch.setattr("dipfast.render.variants.renderer", lambda *_: Broken())
    found = measured(lone, precisions=["bf16"])
    assert "torch bf16, not finite" in found and all(np.isfinite(v.pixels).all() for v in found.values())


def test_sharpness_is_that_of_edges() -> None:
    flat, edge = np.full((1, 8, 8), 0.5, np.float32), np.zeros((1, 8, 8), np.float32)
    edge[:, :, 4:] = 1
    assert sharpness(flat) == 0 < sharpness(edge) == pytest.approx(255 / 3)


def test_a_run_is_measured_against_its_truth_and_blended_with_its_input(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "variants.yaml"
    spec.write_text("version: 1\njitter: [0.05]\nrenders: 2\nbackends: []\nsizes: []\nblend: [0.5]\n")
    assert main(["variants", str(run), "--spec", str(spec), "--json"]) == 0
    (rows,) = json.loads(capsys.readouterr().out).values()
    names = [row["name"] for row in rows]
    assert names == ["fit", "torch fp32", "torch bf16", "jitter 0.05, mean of 2", "blend 0.5 of the input"]
    assert all(row["psnr_reference"] > 0 and row["sharpness"] > 0 for row in rows)
    assert rows[-1]["psnr_reference"] > rows[0]["psnr_reference"]  # four steps fit next to nothing
    page = (run / "variants" / "variants.html").read_text()
    assert (
        page.count('<img src="data:image/png') == len(rows)
        and "<script" not in page
        and "http" not in page.split("<style>")[0].replace("http-equiv", "")
    )
    (picture,) = (path.name for path in (run / "images").iterdir())
    assert f"<h2>{picture} <" in page
    assert all((run / "variants" / row["picture"]).is_file() for row in rows)
    assert json.loads((run / "variants" / "variants.json").read_text())


def test_the_verb_prints_a_table(lone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "v.yaml"
    spec.write_text("{backends: [], sizes: [], jitter: []}")
    assert main(["variants", str(lone), "--spec", str(spec)]) == 0
    out = capsys.readouterr().out
    assert lone.name in out and "torch bf16" in out and out.rstrip().endswith("variants.html")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jitter: [-1]", "jitter[0]: should be above 0, is -1"),
        ("jiter: [1]", "unknown key 'jiter'; did you mean 'jitter'?"),
        ("renders: 1", "renders: should be at least 2, is 1"),
        ("backends: [onyx]", "backends[0]: should be onnxruntime or tensorrt, is 'onyx'"),
        ("sizes: [1]\nsizes: [2]", "v.yaml:2:1"),
        ("- 1", "should be a mapping, is [1]"),
        ("sizes: [2]", "sizes: 0123456789abcdef has a latent of noise"),
        ("strength: [1.5]", "strength[0]: should be at most 1, is 1.5"),
        ("strength: [-1]", "strength[0]: should be at least 0, is -1"),
        ("strength: [.nan]", "strength[0]: should be a finite number, is nan"),
        ("strength: [high]", "strength[0]: should be a number, is 'high'"),
        ("strength: [0.5]", "g.safetensors: holds no observed picture for strength 0.5; give its run"),
    ],
)
def test_a_wrong_spec_is_one_line(
    text: str, message: str, lone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "v.yaml"
    spec.write_text(text)
    assert main(["variants", str(lone), "--spec", str(spec)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "g.variants").exists()


def test_a_gray_picture_that_was_kept_as_webp_is_gray_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a.png", np.random.default_rng(0).random((1, 32, 32), np.float32), Source("png", "gray", 8))
    sets = ("generator.channels=[8, 8]", "fit.steps=2", "output.template={name}.webp")
    assert dipfast.run(tmp_path / "a.png", tmp_path / "run", workers=1, sets=sets).exit_code == 0
    spec = tmp_path / "v.yaml"
    spec.write_text("{backends: [], jitter: [], blend: [0.5]}")
    assert main(["variants", str(tmp_path / "run"), "--spec", str(spec), "--json"]) == 0
    (rows,) = json.loads(capsys.readouterr().out).values()
    assert [row["name"] for row in rows][-1] == "blend 0.5 of the input" and rows[1]["psnr"] > 20
    assert main(["render", str(tmp_path / "run"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rendered"][0]["kept_db"] > 20
    assert main(["evaluate", str(tmp_path / "run"), "--reference", str(tmp_path), "--fail-under", "1"]) == 0


def test_a_reference_that_is_not_there_is_one_line(lone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["variants", str(lone), "--reference", "nowhere.png"]) == 2
    assert capsys.readouterr().err == "dipfast: error: --reference nowhere.png: No such file or directory\n"


def test_what_a_fit_kept_along_its_way_is_laid_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pixels = np.random.default_rng(0).random((3, 32, 32), np.float32)
    write(tmp_path / "a.png", pixels, Source("png", "rgb", 8))
    fit = (
        "fit.steps=40",
        "fit.precision=fp32",
        "fit.checkpoints=3",
        "fit.seeds=2",
        "fit.keep_seeds=true",
        "fit.stop.type=fixed",
    )
    net = (
        "generator.channels=[8, 8]",
        "generator.input.type=noise",
        "generator.input.depth=4",
        "degrade.type=gaussian",
        "degrade.sigma=25",
    )
    dipfast.run(tmp_path / "a.png", tmp_path / "run", workers=1, sets=(*fit, *net))
    spec = tmp_path / "v.yaml"
    spec.write_text("{backends: [], jitter: [], precisions: [], blend: []}")
    assert main(["variants", str(tmp_path / "run"), "--spec", str(spec), "--json"]) == 0
    ((id, rows),) = json.loads(capsys.readouterr().out).items()
    names = [row["name"] for row in rows]
    assert names == ["fit", "step 10 of 40", "step 20 of 40", "step 40 of 40", "seed 2"]
    truth = [row["psnr_reference"] for row in rows]
    assert truth[0] > truth[1] and len(set(truth)) == len(truth)
    spec.write_text("{checkpoints: false, seeds: false, backends: [], jitter: [], precisions: [], blend: []}")
    assert main(["variants", str(tmp_path / "run"), "--spec", str(spec), "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)[id]] == ["fit"]
    kept = tmp_path / "run" / "generators" / f"{id}.step-10.safetensors"
    kept.write_bytes(kept.read_bytes()[:-1])  # the record vouches for it: the item is fitted again
    dipfast.run(tmp_path / "a.png", tmp_path / "run", workers=1, sets=(*fit, *net))
    assert dipfast.load(kept).card.id == id


def test_the_schema_of_a_spec_describes_every_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--variants"]) == 0
    keys = json.loads(capsys.readouterr().out)["properties"]
    assert set(keys) == set(Spec.model_fields) and all(key["description"] for key in keys.values())
