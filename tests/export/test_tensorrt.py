"""TensorRT without a GPU: the flow against a labelled fake, the names against the published bindings where they are."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import fake_tensorrt
import numpy as np
import onnx
import pytest
import torch
from conftest import generator_config
from test_onnx import FP16, FP32, GRAPHS, fitted

from dipfast import generators
from dipfast.bench.refit import bench_refits
from dipfast.cli.app import main
from dipfast.errors import GateError, MachineError
from dipfast.export import engine as engine_module
from dipfast.export import tensorrt
from dipfast.export.engine import beside
from dipfast.export.onnx import OPERATORS, to_onnx
from dipfast.export.save import Gates, export_tensorrt
from dipfast.generators.folded import fold
from dipfast.image import read
from dipfast.render.generator import FittedGenerator, renderer

# Those that dipfast's graphs may hold of the operators that TensorRT's parser has (opsets 9 to 20; FP32, FP16):
# https://github.com/onnx/onnx-tensorrt/blob/96e7811/docs/operators.md (of TensorRT 10.1, the newest list at hand; no
# later release notes seen take one of them away).
ON_THE_LIST = """
Add AveragePool Cast Concat Conv Elu LeakyRelu MaxPool Mul Pad Relu Reshape Resize Sigmoid Slice Split
Transpose
"""
# What that list allows of the attributes of some of them.
ALLOWED = {
    ("Resize", "mode"): {b"nearest", b"linear"},
    ("Resize", "nearest_mode"): {b"floor", b"ceil", b"round_prefer_floor", b"round_prefer_ceil"},
    ("Resize", "coordinate_transformation_mode"): {b"half_pixel", b"pytorch_half_pixel", b"asymmetric"},
    ("Resize", "keep_aspect_ratio_policy"): {b"stretch"},
    ("Resize", "antialias"): {0},
    ("Pad", "mode"): {b"constant", b"reflect", b"edge"},
    ("MaxPool", "dilations"): {(1, 1)},
    ("AveragePool", "dilations"): {(1, 1)},
}
# Every name of TensorRT's Python API that dipfast/export/tensorrt.py and engine.py call, or define for it.
CALLED = """
Builder BuilderFlag DataType IProgressMonitor Logger MemoryPoolType NetworkDefinitionCreationFlag OnnxParser Refitter
Runtime TensorLocation Weights DEVICE FLOAT HALF REFIT STRONGLY_TYPED TF32 WARNING WORKSPACE add_optimization_profile
build_serialized_network clear_flag create_builder_config create_execution_context create_network
create_optimization_profile create_timing_cache deserialize_cuda_engine desc execute_async_v3 get_all_weights get_error
get_missing_weights get_timing_cache num_errors parse phase_finish phase_start progress_monitor
refit_cuda_engine_async serialize set_flag set_input_shape
set_memory_pool_limit set_named_weights set_shape set_tensor_address set_timing_cache step_complete
"""
BINDINGS = "DIPFAST_TENSORRT_BINDINGS"  # the unpacked wheel tensorrt_cu13_bindings 11, where somebody has it


class FakeGpu:
    """The CPU in the place of a GPU."""

    device = torch.device("cpu")

    def facts(self) -> dict[str, Any]:
        return {"gpu": "a fake", "capability": (9, 0), "driver": "580.95"}

    def stream(self) -> int:
        return 0

    def wait(self) -> None:
        pass

    def exact(self) -> Any:
        return contextlib.nullcontext()


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


@pytest.mark.parametrize(
    ("precision", "tolerance", "changes"),
    [*(("fp32", 2e-5, changes) for changes in FP32[:2]), *(("fp16", 2e-2, changes) for changes in FP16[:2])],
)
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


def test_an_engine_that_tensorrt_does_not_take_is_built_again(fake: Any, tmp_path: Path) -> None:
    trt(tmp_path).prepare(generator())()
    (plan,) = tmp_path.glob("*.plan")
    about = json.loads(plan.with_suffix(".json").read_text())
    plan.write_bytes(b"refused")
    plan.with_suffix(".json").write_text(json.dumps(about | {"sha256": hashlib.sha256(b"refused").hexdigest()}))
    backend = trt(tmp_path)
    backend.prepare(generator())()
    assert backend.built == 1


def test_timings_are_kept_and_those_that_tensorrt_refuses_are_begun_anew(fake: Any, tmp_path: Path) -> None:
    sizes = []
    for changes in FP32[:2]:
        backend = trt(tmp_path)
        backend.prepare(generator(**changes))()
        (timings,) = tmp_path.glob("*.timing")
        sizes.append(timings.read_bytes())
    assert sizes == [b"t", b"tt"]
    timings.write_bytes(b"broken")
    trt(tmp_path).prepare(generator(**FP32[2]))()
    assert timings.read_bytes() == b"t"


def test_a_build_tells_how_far_it_is(fake: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    backend = tensorrt.TensorRTRenderer("fp32", tmp_path, FakeGpu(), lines.append)  # type: ignore[arg-type]
    backend.prepare(generator())()
    assert "builds an engine for a fake, 32×24 in fp32" in lines[0]
    assert lines[1:] == [f"TensorRT: Building, {percent} %" for percent in (25, 50, 75, 100)]


def test_constants_of_the_graph_that_are_refittable_too_keep_their_values(
    fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = fake.Refitter.get_all_weights
    monkeypatch.setattr(fake.Refitter, "get_all_weights", lambda self: [*own(self), "pads_3"])
    monkeypatch.setattr(fake.Refitter, "get_missing_weights", lambda self: [])
    one = generator()
    np.testing.assert_allclose(trt(tmp_path).prepare(one)(), one.output("fp32"), atol=2e-5)


def test_an_export_is_proved_as_it_lies_in_its_file(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = to_onnx(generator(3).module.state_dict(), generator().latent, generator().card).SerializeToString()
    monkeypatch.setattr(fake.FakeEngine, "serialize", lambda self: other)
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    with pytest.raises(GateError, match="renders its generator's picture at"):
        export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"))


def test_the_picture_that_an_engine_is_held_against_has_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with tensorrt.Gpu.exact(FakeGpu()):  # type: ignore[arg-type]
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_an_export_writes_the_refitted_engine_and_its_proof(fake: Any, tmp_path: Path) -> None:
    path = tmp_path / "g.safetensors"
    path.write_bytes(generators.to_bytes(*fitted()))
    report = export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"))
    assert Path(report["path"]).read_bytes() and report["psnr_db"] > 80
    with pytest.raises(GateError, match="400 dB are asked for"):
        export_tensorrt(path, tmp_path / "out", trt(tmp_path / "cache"), gates=Gates(min_psnr=400))
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
    base = tensorrt.Key("11.4", "H200", (9, 0), "580.95", "{}", (32, 64, 64), 3, "fp32")
    others = [("tensorrt", "11.5"), ("gpu", "H100"), ("capability", (8, 0)), ("driver", "581.1")]
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


def test_refits_are_timed_and_proved(fake: Any) -> None:
    found = bench_refits(generator_config(), 32, "fp32", count=2, make=lambda precision, folder: trt(folder, precision))
    assert found["built"] == [1, 0] and found["ran"]["gpu"] == "a fake"
    assert all(refit["psnr_db"] is None or refit["psnr_db"] > 80 for refit in found["refits"])
    assert len({refit["ms"] for refit in found["refits"]}) == 2


@pytest.mark.parametrize(("precision", "changes"), [(precision, changes) for precision, _, changes in GRAPHS])
def test_refit_names_are_the_folded_weights_one_to_one(precision: str, changes: dict[str, Any]) -> None:
    module, latent, card = fitted(**changes)
    model = to_onnx(module.state_dict(), latent, card, precision=precision)
    ends = (".weight", ".bias", "low", "width")
    names = [t.name for t in model.graph.initializer if t.name.endswith(ends)]
    net = fold(card.architecture, module.state_dict(), latent)
    assert sorted(names) == sorted(net.state_dict())
    kinds = {t.name: t.data_type for t in model.graph.initializer}
    for name, value in tensorrt._typed(net, precision).items():
        assert kinds[name] == (10 if value.dtype == torch.float16 else 1)


def test_the_graphs_hold_only_what_tensorrt_supports() -> None:
    assert set(ON_THE_LIST.split()) >= OPERATORS


@pytest.mark.parametrize("changes", FP32)
def test_the_graphs_use_operators_as_tensorrt_supports_them(changes: dict[str, Any]) -> None:
    module, latent, card = fitted(**changes)
    for node in to_onnx(module.state_dict(), latent, card).graph.node:
        for attribute in node.attribute:
            value = onnx.helper.get_attribute_value(attribute)
            allowed = ALLOWED.get((node.op_type, attribute.name))
            assert allowed is None or (tuple(value) if isinstance(value, list) else value) in allowed, node


def called() -> set[str]:
    """The names that the two modules take from TensorRT's objects, read from their source."""
    holders = {"trt", "builder", "config", "parser", "profile", "refitter", "engine", "context", "network"}
    found = set()
    sources = (Path(module.__file__).read_text() for module in (engine_module, tensorrt))
    for node in (node for source in sources for node in ast.walk(ast.parse(source))):
        if isinstance(node, ast.Attribute):
            parts = ast.unparse(node.value).replace("self.", "").split("(")[0].split(".")
            if parts[0] in holders and ast.unparse(node.value) != "self":
                found.add(node.attr)
    ours = {"facts", "stream", "wait", "device", "refit", "run", "engine", "key", "__init__", "__version__"}
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
