"""Steps and whole fits on the kernels agree with plain ones, and the record says which ran."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, task_of
from dipfast.kernels import checks, newton_schulz, norm_pad
from test_capture import Refused

import dipfast
from dipfast import tasks
from dipfast.fit import FitResult, ProgramCache, choose_machine, fit
from dipfast.fit.distil import distilling
from dipfast.fit.result import averaged_generator
from dipfast.fit.slots import finish
from dipfast.fit.step import FitState

GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
MUON = {"type": "muon", "lr": 0.01}
# As the presets' network: upsampling in phases, and a skip branch of less than a quarter of the channels.
NEAREST = {"upsample": "nearest", "channels": (12, 10), "skip_channels": 2}
BILINEAR = {"upsample": "bilinear", "channels": (10, 12), "skip_channels": 3}
Margins = list[tuple[int, str]]


@pytest.fixture
def margins(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> Margins:
    """Record how far and in which mode the kernel padded; a single program suits the interpreter."""
    from dipfast.kernels import norm_pad_triton as kernel

    found: Margins = []
    forward = kernel.forward

    def watched(*arguments: Any) -> torch.Tensor:
        margin, mode = arguments[-2:]
        found.append((margin, mode if margin else ""))
        return forward(*arguments)

    monkeypatch.setattr(kernel, "forward", watched)
    for name in ("TILE", "BACKWARD_TILE"):
        monkeypatch.setattr(kernel, name, 2**14)
    return found


@pytest.fixture
def problem() -> tasks.Problem:
    return tasks.pose(task_of(GAUSSIAN), noisy())


def noisy() -> np.ndarray:
    return np.random.default_rng(0).random((3, 16, 16)).astype(np.float32)


def stepped(problem: tasks.Problem, config: Any, recompute: bool = False, **changes: Any) -> FitState:
    """Return a state after one step."""
    plan = fit_plan(**{"steps": 3, "optimizer": MUON, "reg_noise_std": 0.0} | changes)
    machine = replace(choose_machine(plan), recompute=recompute)
    state, step = ProgramCache().prepare(problem, config, plan, machine)
    step()
    return state


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize(
    ("config", "padded"),
    [
        (NEAREST, {(1, "reflection"): 3, (2, "reflection"): 2, (0, ""): 5}),
        (NEAREST | {"skip_channels": 4, "pad": "replication"}, {(1, "replication"): 5, (0, ""): 5}),
        (BILINEAR, {(1, "reflection"): 5, (0, ""): 7}),
        (BILINEAR | {"skip_channels": 0, "pad": "zero", "activation": "swish"}, {(0, ""): 10}),
        (BILINEAR | {"kernel_down": 5, "kernel_skip": 3, "channels": (10,)}, {(2, "reflection"): 1}),
    ],
    ids=["phases", "replication", "bilinear", "zero", "wide"],
)
def test_a_step_on_the_kernels_is_the_plain_step(
    config: dict[str, Any],
    padded: dict[tuple[int, str], int],
    problem: tasks.Problem,
    device: torch.device,
    margins: Margins,
) -> None:
    states = [stepped(problem, generator_config(**config), kernels=k, device=device.type) for k in ("triton", "plain")]
    one, other = (state.first for state in states)
    assert {margin: margins.count(margin) for margin in padded} == padded
    assert distance(one.output, other.output) < 1e-6
    assert distance(one.parameters.grads, other.parameters.grads) < 1e-5
    rest = one.parameters.rest  # Adam's first step is the sign of the gradient, and some gradients are only rounding
    assert rest
    assert distance(one.parameters.values[:rest], other.parameters.values[:rest]) < 1e-5


def test_a_step_can_be_captured(problem: tasks.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """The twins replace the kernels, because the interpreter itself does what the test forbids."""
    monkeypatch.setattr(checks, "missing", lambda device: None)
    monkeypatch.setattr(norm_pad, "norm_pad", lambda *arguments: (norm_pad.plain(*arguments),))
    monkeypatch.setattr(newton_schulz, "newton_schulz", newton_schulz.plain)
    plan = fit_plan(steps=3, optimizer=MUON, seeds=2, kernels="triton")
    _, step = ProgramCache().prepare(problem, generator_config(**NEAREST), plan, choose_machine(plan))
    step()
    with Refused():
        step()


def test_activations_recomputed_give_the_same_bits(
    problem: tasks.Problem, device: torch.device, margins: Margins
) -> None:
    config, options = generator_config(**NEAREST | {"channels": (10,)}), {"kernels": "triton", "device": device.type}
    kept, again = (stepped(problem, config, recompute=on, **options).first.parameters for on in (False, True))
    assert torch.equal(kept.grads, again.grads)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler instantiates autograd's functions
def test_a_compiled_step_runs_on_the_kernels(
    problem: tasks.Problem, device: torch.device, margins: Margins, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))  # quicker than generating code
    config, options = generator_config(**NEAREST | {"channels": (10,)}), {"kernels": "triton", "device": device.type}
    eager, compiled = (stepped(problem, config, engine=e, **options).first for e in ("eager", "compile"))
    assert distance(compiled.parameters.grads, eager.parameters.grads) < 1e-5


def test_a_whole_fit_and_its_distillation_are_the_plain_ones(
    problem: tasks.Problem, device: torch.device, margins: Margins
) -> None:
    config = generator_config(**NEAREST | {"channels": (10,)})
    latent = torch.rand(1, 2 * 8, 16, 16, generator=torch.Generator().manual_seed(0)).to(device)  # of both seeds
    results: dict[str, tuple[FitResult, torch.Tensor]] = {}
    for kernels in ("triton", "plain"):
        plan = fit_plan(steps=2, optimizer=MUON, seeds=2, average="auto", kernels=kernels, device=device.type)
        found = fit(problem, config, plan)
        margins.clear()
        module = averaged_generator(found, config, plan)
        distilled = finish(distilling(module, latent, found.picture, 1, found.machine.dtype)).generator
        assert bool(margins) is (kernels == "triton")
        with torch.no_grad():
            results[kernels] = found, distilled(latent)
    (one, one_rendered), (other, other_rendered) = results["triton"], results["plain"]
    torch.testing.assert_close(one.image, other.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(one_rendered, other_rendered, rtol=0, atol=1e-3)
    assert [loss for _, loss in one.losses] == pytest.approx([loss for _, loss in other.losses], rel=1e-5)


def test_the_record_says_what_ran_under_the_same_id(device: torch.device, margins: Margins) -> None:
    generator = {"upsample": "nearest", "channels": [10], "skip_channels": 2, "input": {"type": "noise", "depth": 4}}
    how = {"generator": generator, "steps": 2, "optimizer": MUON, "precision": "fp32", "device": device.type}
    picture = noisy().transpose(1, 2, 0)
    one, other, usual = (
        dipfast.restore(picture, task="denoise", sigma=25, preset="paper", **how, **kernels)
        for kernels in ({"kernels": "triton"}, {"kernels": "plain"}, {})
    )
    assert [result.record["ran"]["kernels"] for result in (one, other, usual)] == ["triton", "plain", "plain"]
    assert one.record["id"] == other.record["id"] == usual.record["id"]
    assert np.array_equal(other.image, usual.image)
    np.testing.assert_allclose(one.image, other.image, rtol=0, atol=1e-5)
    np.testing.assert_allclose(one.generator.render(), other.generator.render(), rtol=0, atol=1e-3)
