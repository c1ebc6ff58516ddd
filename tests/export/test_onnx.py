"""ONNX models: what they hold, that they render their generator's picture, and that a changed one is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import generator_config

from dipfast import generators
from dipfast.cli.app import main
from dipfast.errors import GateError, MachineError, UsageError
from dipfast.export import onnx as exporter
from dipfast.export.onnx import digest, metadata, to_onnx, verified
from dipfast.export.providers import Session
from dipfast.export.save import Gates, export_onnx, load_model, report_path
from dipfast.generators.architecture import architecture_of
from dipfast.generators.folded import fold
from dipfast.image import Source, write

OPTIONS: list[dict[str, Any]] = [
    {},
    {"pad": "zero"},
    {"pad": "zero", "kernel_up": 1},
    {"pad": "replication", "upsample": "nearest", "kernel_down": 5, "kernel_skip": 3},
    {"upsample": "nearest"},
    {"upsample": "nearest", "skip_channels": 0, "pointwise_up": False, "pad": "replication"},
    {"upsample": "nearest", "skip_channels": 8},
    {"upsample": ("nearest", "bilinear"), "up_channels": (6, 10), "activation": "relu"},
    {"downsample": "avg", "activation": "elu"},
    {"downsample": "max", "activation": "none"},
    {"downsample": "lanczos2", "activation": "swish"},
    {"skip_channels": 0, "pointwise_up": False, "bias": True, "sigmoid": False},
    {"input": {"type": "image"}},
    {"trunks": 3},
    {"trunks": 2, "upsample": "nearest", "input": {"type": "image"}},
    {"ranged": True},
    {"ranged": True, "upsample": "nearest", "input": {"type": "image"}},
]
# To trace a graph takes seconds: every value of every option is in one of these, several to a graph in fp16.
FP32 = [changes for changes in OPTIONS if changes not in ({"upsample": "nearest"}, {"input": {"type": "image"}})]
FP16: list[dict[str, Any]] = [
    {},
    {"pad": "zero", "kernel_up": 1, "downsample": "max", "activation": "elu"},
    {"pad": "replication", "upsample": "nearest", "kernel_down": 5, "kernel_skip": 3, "skip_channels": 8}
    | {"downsample": "avg", "activation": "relu"},
    {"upsample": ("nearest", "bilinear"), "up_channels": (6, 10), "downsample": "lanczos2", "activation": "swish"}
    | {"trunks": 3},
    {"skip_channels": 0, "pointwise_up": False, "bias": True, "sigmoid": False, "activation": "none"},
    {"ranged": True, "trunks": 2, "upsample": "nearest", "input": {"type": "image"}},
]
GRAPHS = [*(("fp32", 2e-5, changes) for changes in FP32), *(("fp16", 2e-2, changes) for changes in FP16)]
exporter.trace = lru_cache(maxsize=None)(exporter.trace.__wrapped__)  # type: ignore[assignment]  # more than a run has


def fitted(
    *, trunks: int = 1, ranged: bool = False, **changes: Any
) -> tuple[generators.SkipNet, torch.Tensor, generators.Card]:
    """A generator whose weights and normalisations are anything but fresh, at 24×32, its latent and its card."""
    config = generator_config(**changes)
    module = generators.SkipNet(architecture_of(config, 3, trunks=trunks, ranged=ranged), seed=1)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=rng))
        if module.low is not None and module.width is not None:
            module.low.fill_(0.1)
            module.width.copy_(torch.tensor([0.2, 0.02, 0.3]).view(1, 3, 1, 1))
    several = trunks > 1 and config.input.type == "noise"
    card = generators.Card(
        id="0123456789abcdef",
        generator=config,
        task={"type": "denoise"},
        seed=0,
        latent_seed=list(range(5, 5 + trunks)) if several else 5,
        channels=3,
        padded=(24, 32),
        size=(22, 29),
        precision="fp32",
        trunks=trunks,
        ranged=ranged,
    )
    return module, generators.latent_of(card, torch.rand(1, 3, 24, 32, generator=rng)), card


def rendered(module: generators.SkipNet, latent: torch.Tensor) -> np.ndarray:
    with torch.no_grad():
        return module(latent).numpy()


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    return path


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    module, latent, card = fitted()
    return to_onnx(module.state_dict(), latent, card)


@pytest.mark.parametrize("changes", OPTIONS)
def test_every_option_is_folded_exactly(changes: dict[str, Any]) -> None:
    module, latent, card = fitted(**changes)
    exact, weights = latent.double(), {name: value.double() for name, value in module.state_dict().items()}
    net = fold(card.architecture, weights, exact)
    np.testing.assert_allclose(net(latent).numpy(), rendered(module, latent), atol=2e-5)


def test_nothing_is_left_of_the_normalisations_under_reflection() -> None:
    module, latent, _ = fitted()
    names = set(fold(architecture_of(generator_config(), 3), module.state_dict(), latent).state_dict())
    assert not [name for name in names if "norm" in name]
    assert {name for name in module.state_dict() if "norm" not in name} <= names


@pytest.mark.parametrize(("precision", "tolerance", "changes"), GRAPHS)
def test_onnxruntime_renders_the_generators_picture(precision: str, tolerance: float, changes: dict[str, Any]) -> None:
    module, latent, card = fitted(**changes)
    model = to_onnx(module.state_dict(), latent, card, precision=precision)
    verified(model.SerializeToString(), "model")
    picture = Session(model.SerializeToString(), threads=1).render()
    np.testing.assert_allclose(picture, rendered(module, latent), atol=tolerance)


def test_the_reference_evaluator_agrees(model: onnx.ModelProto) -> None:
    from onnx.reference import ReferenceEvaluator

    module, latent, _ = fitted()
    picture = ReferenceEvaluator(model).run(None, {"latent": latent.numpy()})[0]
    np.testing.assert_allclose(picture, rendered(module, latent), atol=2e-5)


def test_the_latent_can_be_given_and_the_batch_is_free(model: onnx.ModelProto) -> None:
    module, latent, _ = fitted()
    session = Session(model.SerializeToString(), threads=1)
    batch = session.render(np.concatenate([latent.numpy(), 0 * latent.numpy()]))
    np.testing.assert_allclose(batch[:1], rendered(module, latent), atol=2e-5)
    assert not np.allclose(batch[1], batch[0])
    with pytest.raises(UsageError, match="latent should be"):
        session.render(np.zeros((1, 8, 16, 16), np.float32))


def test_a_baked_latent_leaves_no_input() -> None:
    module, latent, card = fitted()
    baked = to_onnx(module.state_dict(), latent, card, bake_latent=True)
    session = Session(baked.SerializeToString(), threads=1)
    np.testing.assert_allclose(session.render(), rendered(module, latent), atol=2e-5)
    verified(baked.SerializeToString(), "baked")
    with pytest.raises(UsageError, match="baked in"):
        session.render(latent.numpy())


def test_a_model_holds_all_and_says_what_it_is(model: onnx.ModelProto) -> None:
    module, _, _ = fitted()
    about = metadata(model)
    assert about["id"] == "0123456789abcdef" and about["task"] == {"type": "denoise"}
    assert about["size"] == [22, 29] and about["precision"] == "fp32"
    assert "this latent and this size only" in about["valid"] and about["licence"] and about["versions"]["torch"]
    names = {tensor.name for tensor in model.graph.initializer}
    assert {name for name in module.state_dict() if "norm" not in name} | {"latent"} <= names
    assert not [tensor.name for tensor in model.graph.initializer if tensor.external_data]
    nodes = [node.name for node in model.graph.node]
    assert "scales.0.down1.conv.conv" in nodes and len(set(nodes)) == len(nodes)
    assert str(Path(__file__).parent.parent.parent) not in str(model)
    assert onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)


def test_no_path_of_a_machine_goes_with_it() -> None:
    module, latent, card = fitted()
    masked = replace(card, task={"type": "inpaint", "mask": "/home/somebody/mask.png", "known": "white"})
    model = to_onnx(module.state_dict(), latent, masked)
    assert (
        metadata(model)["task"] == {"type": "inpaint", "known": "white"}
        and b"somebody" not in model.SerializeToString()
    )


def test_a_fresh_normalisation_is_not_optimised_away() -> None:
    config = generator_config(pad="zero")
    module = generators.build(config, 3, seed=0)
    latent = generators.make_latent(config.input, 24, 32, 5, torch.empty(0))
    session = Session(to_onnx(module.state_dict(), latent, fitted(pad="zero")[2]).SerializeToString(), threads=1)
    np.testing.assert_allclose(session.render(), rendered(module, latent), atol=2e-5)


def test_bf16_is_a_clear_no() -> None:
    module, latent, card = fitted()
    with pytest.raises(MachineError, match=r"--precision bf16: .* use fp16 or fp32"):
        to_onnx(module.state_dict(), latent, card, precision="bf16")


def one_weight(model: onnx.ModelProto) -> None:
    tensor = next(t for t in model.graph.initializer if t.name == "head.weight")
    value = onnx.numpy_helper.to_array(tensor).copy()
    value.flat[0] += 1e-3
    tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def another_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def another_shape(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 48


def another_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "If"


def another_claim(model: onnx.ModelProto) -> None:
    next(p for p in model.metadata_props if p.key == "dipfast.id").value = "f" * 16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (one_weight, "were changed after the export"),
        (outside, "lies in another file"),
        (another_opset, "operator sets are .*21.* exported with 20"),
        (another_shape, "its shapes are"),
        (another_operator, "operators that no export writes: If"),
        (another_claim, "were changed after the export"),
    ],
)
def test_a_changed_model_is_refused_with_a_reason(change: Any, reason: str, model: onnx.ModelProto) -> None:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    change(changed)
    with pytest.raises(UsageError, match=reason):
        verified(changed.SerializeToString(), "model")


@pytest.mark.parametrize("data", [b"", b"no model", b"\x08\x0a"])
def test_what_is_no_model_is_refused(data: bytes) -> None:
    with pytest.raises(UsageError, match="is not"):
        verified(data, "model")


def test_an_export_writes_the_model_and_its_proof(stored: Path, tmp_path: Path) -> None:
    report = export_onnx(stored, tmp_path / "out")
    path = Path(report["path"])
    assert report["psnr_db"] >= 80 and report["provider"] == "CPUExecutionProvider"
    assert json.loads(report_path(path).read_bytes())["sha256"] == report["sha256"]
    assert load_model(path)[1]["id"] == report["id"]
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, report_path(path).name]


def test_a_model_that_its_report_did_not_prove_is_refused(stored: Path, tmp_path: Path) -> None:
    path = Path(export_onnx(stored, tmp_path)["path"])
    changed = onnx.load(path)
    one_weight(changed)
    next(p for p in changed.metadata_props if p.key == "dipfast.sha256").value = digest(changed)
    path.write_bytes(changed.SerializeToString())
    with pytest.raises(UsageError, match="not the file that its parity report proved"):
        load_model(path)


def test_a_missed_gate_leaves_nothing_behind(stored: Path, tmp_path: Path) -> None:
    export_onnx(stored, tmp_path / "out", precision="fp16")
    with pytest.raises(GateError, match="where 140 dB are asked for"):
        export_onnx(stored, tmp_path / "out", precision="fp16", gates=Gates(min_psnr=140))
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wrong_request_takes_nothing_away(stored: Path, tmp_path: Path) -> None:
    path = Path(export_onnx(stored, tmp_path / "out")["path"])
    with pytest.raises(UsageError, match="denoises no other"):
        export_onnx(stored, tmp_path / "out", gates=Gates(of="denoiser"))
    assert path.exists() and report_path(path).exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{stored}", "--min-psnr", "300"], 6, "300 dB are asked for"),
        (["{stored}", "--of", "picture"], 6, "how near its render is to the kept picture is unknown; accept less with"),
        (["{stored}", "--of", "denoiser"], 2, "was fitted to one whole picture and denoises no other"),
        (["{stored}", "--of", "sketch"], 2, "sketch"),
        (["{stored}", "--min-psnr-to-picture", "nan"], 2, "should be a finite number, is nan"),
        (["{stored}", "--min-psnr-to-picture", "-3"], 2, "should be a number above 0, is -3"),
        (["{stored}", "--min-psnr", "0"], 2, "should be a number above 0, is 0"),
        (["{stored}", "--precision", "bf16"], 5, "bf16"),
        (["{stored}", "--format", "onyx"], 2, "--format should be of onnx, tensorrt"),
        (["{stored}", "--format", "onnx,tensorrt"], 5, "TensorRT is not installed: pip install"),
        (["{dir}/nothing"], 2, "should be a run's folder or a generator"),
        (["{dir}/empty"], 4, "holds neither a run nor generators"),
        (["{dir}/empty.safetensors"], 2, "is not a generator"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty.safetensors").write_bytes(b"")
    got = main(["export", *(argument.format(stored=stored, dir=tmp_path) for argument in arguments)])
    out, error = capsys.readouterr()
    assert (got, out) == (code, "")
    assert message in error and "Traceback" not in error
    assert not list(tmp_path.rglob("*.onnx"))


def test_the_verb_says_what_it_wrote(stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(stored), "-o", str(tmp_path / "models"), "--json"]) == 0
    (report,) = json.loads(capsys.readouterr().out)
    assert Path(report["path"]).is_file()
    assert main(["export", str(stored)]) == 0
    assert "0123456789abcdef.onnx" in capsys.readouterr().out.replace("\n", "")


MANIFEST = """\
version: 1
defaults:
  fit: {{steps: 3, precision: fp32}}
  generator: {{channels: [8, 8], input: {{type: noise, depth: 4}}}}
items: ["*.png"]
export: {{formats: [onnx], precision: fp16, min_psnr: {least}}}
"""


def test_a_manifest_asks_for_models_once(
    tmp_path: Path, picture: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "a.png", picture, Source("png", "rgb", 8))
    manifest = tmp_path / "m.yaml"
    command = ["run", str(manifest), "-o", str(tmp_path / "run"), "--workers", "1", "--progress", "plain"]
    manifest.write_text(MANIFEST.format(least=40))
    assert main(command) == 0
    (model,) = (tmp_path / "run" / "export").glob("*.fp16.onnx")
    about = load_model(model)[1]
    assert about["precision"] == "fp16" and about["fit"]["steps"] == 3
    assert json.loads(report_path(model).read_bytes())["kept_picture_db"] > 0
    before = model.stat().st_mtime_ns
    assert main(command) == 0
    assert model.stat().st_mtime_ns == before
    capsys.readouterr()
    manifest.write_text(MANIFEST.format(least=300))
    assert main(command) == 6
    assert "where 300 dB are asked for" in capsys.readouterr().err
    assert not model.exists()
    manifest.write_text(MANIFEST.format(least=40).replace("[onnx]", "[tensorrt]"))
    assert main([*command[:3], str(tmp_path / "other")]) == 5
    assert "TensorRT is not installed" in capsys.readouterr().err and not (tmp_path / "other").exists()
