"""The benchmarks: what they measure is checked first, what they print is complete, and the GPU check runs dry."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from conftest import generator_config

from dipfast.bench.arithmetic import expect
from dipfast.bench.step import STANDARD, bench_step
from dipfast.cli.app import main
from dipfast.errors import UsageError
from dipfast.generators import build
from dipfast.generators.architecture import architecture_of
from dipfast.generators.cost import tensor_elements
from dipfast.generators.skip import Conv
from dipfast.settings.generator import SkipGenerator

PEER = """
import torch
def skip(inputs, outputs, num_channels_down, num_channels_up, num_channels_skip, upsample_mode, pad):
    return torch.nn.Sequential(torch.nn.Conv2d(inputs, outputs, 1), torch.nn.Sigmoid())
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A stand-in for a checkout of the original code: the same function, one convolution behind it."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "__init__.py").write_text("")
    (tmp_path / "models" / "skip.py").write_text(PEER)
    return tmp_path


def test_the_standard_net_is_the_schemas_default() -> None:
    assert SkipGenerator() == STANDARD


def test_every_variant_has_its_samples_and_its_share_of_the_floor(checkout: Path) -> None:
    result = bench_step(64, ["eager"], ["fp32", "bf16"], device="cpu", rounds=2, steps=1, peer=checkout)
    names = [row["name"] for row in result["variants"]]
    assert names == ["dipfast eager fp32", "dipfast eager bf16", "original, cleaned loop", "original, own loop"]
    assert all(len(row["ms"]) == 2 and row["median_ms"] > 0 and row["share_of_floor"] > 0 for row in result["variants"])
    assert result["machine"]["threads"] == 1


def test_a_peer_that_is_not_the_original_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--peer .* has no models/skip\.py"):
        bench_step(64, ["eager"], ["fp32"], device="cpu", peer=tmp_path)


def test_a_size_that_the_net_cannot_have_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--size", "100"]) == 2
    assert "--size should be a multiple of 32, is 100" in capsys.readouterr().err


def gpu_check() -> ModuleType:
    path = Path(__file__).parent.parent.parent / "bench" / "gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "section",
    [
        "machine",
        "kernels_are_exact",
        "device_agrees_with_cpu",
        "engines_agree",
        "engines_agree_on_jpeg",
        "used_program_cache",
        "cohorts",
        "repeats",
        "kernels_by_speed",
        "kernels_in_fits",
        "whole_fits",
        "renders",
    ],
)
def test_a_section_of_the_gpu_check_runs_dry(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # which the tests of the kernels set
    module = gpu_check()
    check = module.Check(dry=True)
    check.engines = ("eager",)  # compiling has a test of its own
    outcome = module.run_section(getattr(module.Check, section), check)
    assert outcome["ok"], outcome


def test_a_section_that_fails_is_recorded_and_ends_nothing() -> None:
    module = gpu_check()

    def broken(check: object) -> None:
        raise RuntimeError("no such kernel")

    outcome = module.run_section(broken, module.Check(dry=True))
    assert (outcome["ok"], outcome["error"]) == (False, "RuntimeError: no such kernel")


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:x"])
def test_a_device_that_is_none_is_wrong_usage(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "step", "--size", "64", "--device", device]) == 2
    error = capsys.readouterr().err
    assert error == f"dipfast: error: bench: device: should be auto, cpu, cuda or cuda:N, is '{device}'\n"


def test_expectations_are_arithmetic_and_grow_with_the_pixels() -> None:
    small, large = expect(STANDARD, [256, 512], 790e12, 4.3e12, 2)
    assert large["flops"] == pytest.approx(465e9, rel=0.01)  # 155.0 GFLOP forward, by an independent count
    assert large["bytes"]["eager"] == pytest.approx(4 * small["bytes"]["eager"])
    assert large["sum_ms"]["compiled"] == pytest.approx(large["compute_ms"] + large["transfer_ms"]["compiled"])
    assert large["floor_ms"] < large["sum_ms"]["fused"] < large["sum_ms"]["compiled"] < large["sum_ms"]["eager"]


def test_the_elements_of_a_net_are_those_that_its_modules_give() -> None:
    config, found = generator_config(channels=(8, 8), skip_channels=4), []
    module = build(config, 3, seed=0)
    for one in module.modules():
        if isinstance(one, Conv):
            one.register_forward_hook(lambda module, inputs, output: found.append(output.numel()))
    module(torch.zeros(1, 8, 32, 32))
    assert tensor_elements(architecture_of(config, 3), 32 * 32) == (sum(found), 12 * (32 * 32 + 16 * 16))
