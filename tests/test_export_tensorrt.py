"""TensorRT without a GPU: the flow against a labelled fake, the names against the published bindings where they are."""

from __future__ import annotations

import ast
import json
import os
import sys
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import pytest
import torch
from conftest import generator_config
from test_export_onnx import OPTIONS, fitted

from dipfast import generators
from dipfast.cli import main
from dipfast.errors import GateError, MachineError
from dipfast.export import tensorrt
from dipfast.export.engine_file import beside
from dipfast.export.fold import freeze
from dipfast.export.onnx import OPERATORS, to_onnx
from dipfast.export.save import export_tensorrt
from dipfast.image import read
from dipfast.render import FittedGenerator, renderer

# https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md, those that dipfast's graphs may hold
ON_THE_LIST = """
Add AveragePool Cast Concat Conv DepthToSpace Elu LeakyRelu MaxPool Mul Pad Relu Resize Sigmoid Slice
"""
# Every name of TensorRT's Python API that dipfast/export/tensorrt.py calls.
CALLED = """
Builder BuilderFlag DataType Logger MemoryPoolType NetworkDefinitionCreationFlag OnnxParser Refitter Runtime
TensorLocation Weights DEVICE FLOAT HALF REFIT STRONGLY_TYPED TF32 WARNING WORKSPACE add_optimization_profile
build_serialized_network clear_flag create_builder_config create_execution_context create_network
create_optimization_profile create_timing_cache deserialize_cuda_engine desc execute_async_v3 get_all_weights get_error
get_missing_weights get_timing_cache num_errors parse refit_cuda_engine_async serialize set_flag set_input_shape
set_memory_pool_limit set_named_weights set_shape set_tensor_address set_timing_cache
"""
BINDINGS = "DIPFAST_TENSORRT_BINDINGS"  # the unpacked wheel tensorrt_cu13_bindings 11, where somebody has it


class FakeGpu:
    """The CPU in the place of a GPU."""

    device = torch.device("cpu")

    def facts(self) -> dict[str, Any]:
        return {"gpu": "a fake", "capability": (9, 0), "driver": 13000}

    def stream(self) -> int:
        return 0

    def wait(self) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt)
    return fake_tensorrt


def trt(folder: Path, precision: str = "fp32") -> tensorrt.TensorRTRenderer:
    return tensorrt.TensorRTRenderer(precision, folder, FakeGpu())  # type: ignore[arg-type]


def generator(seed: int = 0, **changes: Any) -> FittedGenerator:
    module, latent, card = fitted(**changes)
    with torch.no_grad():
        module.head.weight.add_(seed)
    return FittedGenerator(module, latent, card)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 2e-5), ("fp16", 2e-2)])
@pytest.mark.parametrize("changes", [{}, {"pad": "zero"}, {"downsample": "max"}])
def test_one_engine_is_refitted_for_every_generator(
    fake: Any, tmp_path: Path, precision: str, tolerance: float, changes: dict[str, Any]
) -> None:
    backend = trt(tmp_path, precision)
    for seed in range(3):
        one = generator(seed, **changes)
        np.testing.assert_allclose(backend.prepare(one)(), one.output("fp32"), atol=tolerance)
    assert backend.built == 1


def test_an_engine_is_kept_and_a_stale_or_broken_one_is_built_again(fake: Any, tmp_path: Path) -> None:
    def built() -> int:
        backend = trt(tmp_path)
        backend.prepare(generator())()
        return backend.built

    assert [built(), built()] == [1, 0]
    (plan,) = tmp_path.glob("*.plan")
    plan.write_bytes(plan.read_bytes()[:-1])
    assert [built(), built()] == [1, 0]
    fake_tensorrt.__version__ = "11.5.0.fake"
    assert [built(), len(list(tmp_path.glob("*.plan")))] == [1, 2]
    fake_tensorrt.__version__ = "11.4.0.fake"


def test_an_export_writes_the_refitted_engine_and_its_proof(fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    report = export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"))
    assert Path(report["path"]).read_bytes() and report["psnr_db"] > 80
    with pytest.raises(GateError, match="400 dB are asked for"):
        export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"), min_psnr=400)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def engine(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An exported engine, with nothing left of its generator."""
    monkeypatch.setattr(tensorrt, "Gpu", FakeGpu)
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    report = export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"))
    path.unlink()
    return Path(report["path"])


def test_an_engine_is_rendered_from_its_own_files(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["render", str(engine), "-o", str(tmp_path / "p.png"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ran"]["backend"] == "tensorrt" and found["rendered"][0]["id"] == "0123456789abcdef"
    picture = generator().render("fp32").transpose(2, 0, 1)
    assert np.abs(read(tmp_path / "p.png").pixels - picture).max() < 0.51 / 255 + 1e-4


def test_an_engine_of_another_machine_or_that_was_changed_is_refused(
    engine: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int, reason: str) -> None:
        assert main(["render", str(engine)]) == code
        assert reason in capsys.readouterr().err

    monkeypatch.setattr(fake_tensorrt, "__version__", "11.5.0.fake")
    refused(5, "built for tensorrt 11.4.0.fake, not 11.5.0.fake: export it again")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(5, "TensorRT is not installed: pip install 'dipfast[tensorrt]'")
    other, plan = beside(engine), engine.read_bytes()
    engine.write_bytes(plan[:-1])
    refused(2, "it is not the engine that")
    engine.write_bytes(plan)
    other.write_bytes(b"nothing")
    refused(2, "cannot be read")
    other.unlink()
    refused(2, "should lie beside it, with its latent and sizes")
    assert main(["render", str(engine), "--backend", "torch"]) == 2
    assert "an engine is rendered by tensorrt" in capsys.readouterr().err


def test_each_part_of_the_key_is_another_engine() -> None:
    base = tensorrt.Key("11.4", "H200", (9, 0), 13000, "{}", (32, 64, 64), 3, "fp32")
    others = [("tensorrt", "11.5"), ("gpu", "H100"), ("capability", (8, 0)), ("driver", 13010)]
    others += [("architecture", "{1}"), ("latent", (32, 64, 96)), ("channels", 1), ("precision", "fp16")]
    names = {tensorrt.Key(**{**vars(base), name: value}).name for name, value in others}  # type: ignore[arg-type]
    assert len(names | {base.name}) == len(others) + 1 == len(vars(base)) + 1


def test_a_refit_that_renders_another_picture_is_refused(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake.Refitter, "spoiled", True)
    with pytest.raises(GateError, match="on TensorRT: renders its generator's picture at"):
        trt(tmp_path).prepare(generator())()


def test_weights_of_other_names_are_refused(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake.Refitter, "get_all_weights", lambda self: ["onnx::Conv_12"])
    with pytest.raises(MachineError, match="not the generator's"):
        trt(tmp_path).prepare(generator())()


@pytest.mark.parametrize("changes", OPTIONS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_refit_names_are_the_folded_weights_one_to_one(changes: dict[str, Any], precision: str) -> None:
    module, latent, card = fitted(**changes)
    model = to_onnx(module.state_dict(), latent, card, precision=precision)
    names = [t.name for t in model.graph.initializer if t.name.endswith((".weight", ".bias"))]
    net = freeze(generator_config(**changes), module.state_dict(), latent)
    assert sorted(names) == sorted(net.state_dict())
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    for name, value in tensorrt._typed(net, precision).items():
        assert kinds[name] == (10 if value.dtype == torch.float16 else 1)


def test_the_graphs_hold_only_what_tensorrt_supports() -> None:
    assert set(ON_THE_LIST.split()) >= OPERATORS


def called() -> set[str]:
    """The names that the module takes from TensorRT's objects, read from its source."""
    holders = {"trt", "builder", "config", "parser", "profile", "refitter", "engine", "context", "network"}
    found = set()
    for node in ast.walk(ast.parse(Path(tensorrt.__file__).read_text())):
        if isinstance(node, ast.Attribute):
            parts = ast.unparse(node.value).replace("self.", "").split("(")[0].split(".")
            if parts[0] in holders and ast.unparse(node.value) != "self":
                found.add(node.attr)
    ours = {"facts", "stream", "wait", "device", "refit", "run", "__version__"}
    return {name for name in found if name not in ours}


def test_every_name_that_is_called_is_listed() -> None:
    assert called() <= set(CALLED.split())


@pytest.mark.skipif(BINDINGS not in os.environ, reason=f"${BINDINGS} names no unpacked wheel")
def test_every_name_is_in_the_published_bindings() -> None:
    (library,) = Path(os.environ[BINDINGS]).rglob("tensorrt.so")
    data = library.read_bytes()
    assert [name for name in CALLED.split() if name.encode() + b"\0" not in data] == []


def test_where_it_is_not_installed_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MachineError, match=r"TensorRT is not installed: pip install 'dipfast\[tensorrt\]'"):
        renderer("tensorrt", "fp32", "cpu")


def test_an_older_version_is_refused(fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "__version__", "10.16.1.11")
    with pytest.raises(MachineError, match=r"TensorRT 10\.16\.1\.11 is installed, 11 is needed"):
        renderer("tensorrt", "fp32", "cpu")
