"""Rendering again: the same bits on torch, the run's depth, size and metadata, and known pixels put back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import task_of

import dipfast
from dipfast import tasks
from dipfast.cli.app import main
from dipfast.export.save import export_onnx
from dipfast.export.targets import targets
from dipfast.image import Source, read, write
from dipfast.metrics import psnr
from dipfast.render.generator import FittedGenerator, TorchRenderer
from dipfast.render.pictures import render_targets

SETS = (
    "generator.channels=[8, 8]",
    "generator.input.type=noise",
    "generator.input.depth=4",
    "fit.steps=4",
    "fit.precision=fp32",
)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture of 16 bits and one of 8."""
    folder = tmp_path_factory.mktemp("in")
    rng = np.random.default_rng(0)
    for name, size, depth in (("deep", (30, 29), 16), ("plain", (32, 32), 8)):
        write(folder / f"{name}.png", rng.random((3, *size), np.float32), Source("png", "rgb", depth, dpi=(300, 300)))
    return folder


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures denoised, for a few steps."""
    folder = tmp_path_factory.mktemp("rendered")
    assert dipfast.run(pictures, folder, workers=1, sets=SETS).exit_code == 0
    return folder


def rendered(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    assert main(["render", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_run_comes_back_in_its_depth_size_and_metadata(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rendered(capsys, run)
    for name, depth in (("deep", 16), ("plain", 8)):
        again, before = (read(run / folder / f"{name}.png") for folder in ("renders", "images"))
        assert again.pixels.shape == before.pixels.shape
        assert again.source.bit_depth == before.source.bit_depth == depth
        assert again.source.dpi == before.source.dpi
        assert psnr(again.pixels, dipfast_render(run, name)) > 45


def dipfast_render(run: Path, name: str) -> np.ndarray:
    target = next(t for t in targets(run) if t.record and t.record["output"]["paths"] == [f"{name}.png"])
    return dipfast.load(target.generator).render("fp32").transpose(2, 0, 1)


def test_a_generator_of_an_fp16_fit_renders_in_fp32(run: Path) -> None:
    fitted = dipfast.load(targets(run)[0].generator)
    half = replace(fitted, card=replace(fitted.card, precision="fp16"))
    assert np.array_equal(half.render(), fitted.render("fp32"))


def test_torch_renders_the_same_bytes_again(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("one", "two"):
        rendered(capsys, run, "-o", tmp_path / folder)
    for name in ("deep.png", "plain.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_onnxruntime_renders_the_same_picture(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rendered(capsys, run, "-o", tmp_path / "torch")
    found = rendered(capsys, run, "--backend", "onnxruntime", "-o", tmp_path / "ort")
    assert found["ran"]["device"] == "CPUExecutionProvider"
    assert len(found["rendered"]) == 2 and all(one["ms"] > 0 for one in found["rendered"])
    for name in ("deep.png", "plain.png"):
        a, b = (read(tmp_path / folder / name).pixels for folder in ("torch", "ort"))
        assert np.abs(a - b).max() < 1.01 / 255


def test_known_pixels_are_put_back(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.ones((1, 32, 32), np.float32)
    mask[:, 10:14] = 0
    write(tmp_path / "mask.png", mask, Source("png", "gray", 8))
    sets = (*SETS[:1], *SETS[3:], "task.type=inpaint", f"task.mask={tmp_path / 'mask.png'}")
    dipfast.run(pictures / "plain.png", tmp_path / "run", workers=1, sets=sets)
    rendered(capsys, tmp_path / "run")
    again, before = read(tmp_path / "run/renders/plain.png").pixels, read(pictures / "plain.png").pixels
    known = np.broadcast_to(mask > 0, before.shape)
    np.testing.assert_array_equal(again[known], before[known])
    assert not np.array_equal(again[~known], before[~known])


@pytest.mark.parametrize(("task", "key", "value"), [("superres", "scale", 2), ("jpeg", "quality", 10)])
def test_what_the_input_says_of_the_picture_is_put_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str, key: str, value: int
) -> None:
    soft = 0.4 + 0.2 * np.random.default_rng(0).random((3, 32, 32), np.float32)
    write(tmp_path / "soft.png", soft, Source("png", "rgb", 8))
    sets = (*SETS[:1], *SETS[3:], f"task.type={task}", f"task.{key}={value}")
    dipfast.run(tmp_path / "soft.png", tmp_path / "run", workers=1, sets=sets)
    rendered(capsys, tmp_path / "run")
    again = torch.from_numpy(read(tmp_path / "run/renders/soft.png").pixels)[None]
    given = read(tmp_path / "soft.png").pixels
    problem = tasks.pose(task_of({"type": task, key: value}), given)
    torch.testing.assert_close(problem.finish(problem.range.of_full(again)), again, rtol=0, atol=2 / 255)


def test_a_lone_generator_and_its_model_give_png(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lone = tmp_path / "lone.safetensors"
    lone.write_bytes(targets(run)[0].generator.read_bytes())
    model = Path(export_onnx(lone, tmp_path)["path"])
    first = rendered(capsys, lone)["rendered"][0]
    second = rendered(capsys, model, "-o", tmp_path / "model.png")["rendered"][0]
    a, b = read(first["path"]), read(second["path"])
    assert first["path"] == str(tmp_path / "lone.png") and a.source.bit_depth == 8
    assert np.abs(a.pixels - b.pixels).max() < 1.01 / 255


def test_a_folder_of_generators_is_a_batch(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(5):
        (tmp_path / f"{i}.safetensors").write_bytes(targets(run)[i % 2].generator.read_bytes())
    found = rendered(capsys, tmp_path, "-o", tmp_path / "out")["rendered"]
    assert [Path(one["path"]).name for one in found] == [f"{i}.png" for i in range(5)]
    assert found[0]["id"] == found[2]["id"] != found[1]["id"]


class Watched(TorchRenderer):
    """Renders a picture only once the next generator is at hand."""

    def __init__(self) -> None:
        super().__init__("fp32")
        self.ready = [threading.Event() for _ in range(3)]

    def prepare(self, generator: FittedGenerator) -> Callable[[], np.ndarray]:
        number = next(i for i, event in enumerate(self.ready) if not event.is_set())
        self.ready[number].set()
        run = super().prepare(generator)

        def render() -> np.ndarray:
            assert self.ready[min(number + 1, 2)].wait(30)
            return run()

        return render


def test_loading_and_rendering_overlap(run: Path, tmp_path: Path) -> None:
    found = [targets(run)[i % 2] for i in range(3)]
    assert [one.id for one in render_targets(found, Watched(), tmp_path)] == [t.generator.stem for t in found]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["{run}", "-o", "one.png"], 2, "-o one.png: should be a folder, for there are 2 pictures"),
        (["{run}", "--precision", "fp16"], 2, "--precision fp16: torch renders in fp32, tf32, bf16"),
        (["{run}", "--backend", "onnxruntime", "--precision", "bf16"], 5, "--precision bf16"),
        (["{run}", "--backend", "onnxruntime", "--provider", "cuda"], 5, "CUDAExecutionProvider"),
        (["{run}", "--backend", "tensorrt"], 5, "TensorRT is not installed: pip install"),
        (["{run}", "-o", "{run}/summary.json/x"], 5, "summary.json/x: Not a directory"),
        (["{run}/none.onnx"], 2, "cannot be read"),
        (["{run}/summary.json"], 2, "is not a generator"),
        (["{run}/none.onnx", "--backend", "torch"], 2, "a model is rendered by onnxruntime"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    arguments: list[str], code: int, message: str, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = main(["render", *(argument.format(run=run) for argument in arguments)])
    out, error = capsys.readouterr()
    assert (got, out) == (code, "")
    assert message in error and "Traceback" not in error


def test_a_lone_generator_renders_the_same_bits_in_python(run: Path) -> None:
    path = targets(run)[0].generator
    one, two = (dipfast.load(path).output("fp32") for _ in range(2))
    np.testing.assert_array_equal(one, two)
    assert torch.get_num_threads() == 1
