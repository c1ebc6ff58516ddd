"""A picture fitted at smaller sizes first: which, what they see, what goes on from there, and the same bits again."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Memory, fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.fit import Cancelled, FitResult, Hooks, ProgramCache, Slot, choose_machine, finish_all, fit, fitting
from dipfast.fit.distil import distil_steps
from dipfast.fit.loop import FitLoop, smaller_fits
from dipfast.image import Limits, read
from dipfast.manifest.layers import Layer, resolve
from dipfast.metrics import psnr
from dipfast.plan import fit_bytes, fit_flops
from dipfast.samples import locate
from dipfast.settings.document import Settings
from dipfast.settings.shapes import coarse_steps, halves
from dipfast.tasks.problem import ClippedGaussian, NoiseCorrelation

BLIND = {"type": "image", "blind": 0.2}
PAIRED = BLIND | {"reach": "auto", "recorrupt": 0.7}
CONFIG = generator_config(input=BLIND)
STANDARD = generator_config(channels=(32,) * 5)
GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}
STILLEST = {"type": "ema-variance", "alpha": "auto", "patience": 0.2, "min_steps": 10}


@pytest.fixture(scope="module")
def clean() -> np.ndarray:
    """[3, 128, 128] from the middle of a photograph."""
    pixels = read(locate("sample:chelsea"), Limits()).pixels
    return pixels[:, 86:214, 160:288]


@pytest.fixture(scope="module")
def noisy(clean: np.ndarray) -> tasks.Problem:
    drawn = np.random.default_rng(0).normal(scale=25 / 255, size=clean.shape)
    return tasks.pose(task_of(GAUSSIAN), (clean + drawn).clip(0, 1).astype(np.float32))


def plan(**changes: Any) -> Any:
    muon = {"type": "muon", "lr": 0.04}
    settings = {"reg_noise_std": 0.0, "optimizer": muon, "average": "auto", "stop": {"type": "fixed"}, "coarse": 20}
    return fit_plan(**settings | changes)


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ((96, 512), []),
        ((128, 128), [(64, 64)]),
        ((160, 256), [(96, 128)]),
        ((512, 768), [(256, 384), (128, 192), (64, 96)]),
    ],
)
def test_sizes_are_halved_while_sides_have_64_pixels(sides: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert halves(STANDARD, plan(), sides) == expected


def test_only_networks_with_recorrupted_pairs_begin_at_smaller_sizes_by_themselves() -> None:
    def steps(latent: dict[str, Any], **changes: Any) -> int:
        return coarse_steps(generator_config(input=latent), plan(**{"coarse": "auto", "steps": 400} | changes))

    assert steps(PAIRED) == 40
    assert steps(BLIND) == 0
    assert steps({"type": "noise"}) == 0
    assert steps(PAIRED, optimizer={"type": "sgld"}) == 0
    assert steps(PAIRED, engine="compile") == 0
    assert steps(BLIND, coarse=7) == 7


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"fit": {"coarse": 5}, "generator": {"input": {"type": "noise"}}}, "without generator.input.blind"),
        ({"fit": {"coarse": 5}, "task": {"type": "superres", "scale": 4}}, "without generator.input.blind"),
        ({"fit": {"coarse": 5, "seeds": 1, "steps": 400, "optimizer": {"type": "sgld"}}}, "with optimizer sgld"),
    ],
)
def test_a_number_of_steps_that_cannot_be_is_refused(settings: dict[str, Any], text: str) -> None:
    found = resolve([Layer(settings, "here")])
    assert isinstance(found, list)
    assert [problem.text for problem in found] == [f"fit.coarse: should be 0 or auto {text}"]


def test_a_halved_problem_has_means_of_four_pixels_and_their_noise() -> None:
    flat = np.full((1, 256, 256), 0.1, np.float32)
    drawn = np.random.default_rng(0).normal(scale=50 / 255, size=flat.shape)
    task = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 50}}
    problem = replace(
        tasks.pose(task_of(task), (flat + drawn).clip(0, 1).astype(np.float32)),
        noise_correlation=NoiseCorrelation(radius=1),
    )
    half = problem.halved((160, 128))
    assert half.target.shape == (1, 1, 160, 128)
    assert torch.equal(half.guide, half.target)
    assert float(half.target[0, 0, 5, 7]) == pytest.approx(float(problem.target[0, 0, 10:12, 14:16].mean()))
    assert torch.equal(half.target[0, 0, 128], half.target[0, 0, 126])
    truth = torch.full((1, 1, 128, 128), 0.1)
    assert isinstance(half.expected_residual, ClippedGaussian)
    seen = half.target[..., :128, :]
    assert float(half.expected_residual.deviation(truth).mean()) == pytest.approx(float(seen.std()), rel=0.03)
    assert float(half.operator(truth).mean()) == pytest.approx(float(seen.mean()), rel=0.02)
    left = float((seen - half.operator(truth)).square().mean())
    assert float(half.expected_residual(truth)) == pytest.approx(left, rel=0.05)
    assert half.noise_correlation == NoiseCorrelation(radius=1)
    assert half.halved((64, 64)).noise_correlation == NoiseCorrelation(radius=1)


def test_noise_that_was_not_clipped_is_halved_too() -> None:
    residual = ClippedGaussian(torch.tensor(0.2), about_mean=False, over=4)
    assert float(residual.deviation(torch.rand(1, 3, 8, 8))) == pytest.approx(0.1)


def test_a_fit_that_began_smaller_is_nearer_to_the_truth_after_as_many_steps(
    noisy: tasks.Problem, clean: np.ndarray
) -> None:
    alone, behind = (fit(noisy, CONFIG, plan(steps=30, coarse=coarse)) for coarse in (0, 30))
    assert psnr(behind.image[0].numpy(), clean) > psnr(alone.image[0].numpy(), clean) + 0.5
    assert (alone.coarse, behind.coarse) == ((), ((30, (64, 64)),))


@pytest.mark.parametrize(
    "correlation", [NoiseCorrelation(radius=1), NoiseCorrelation(across_channels=True)], ids=["neighbours", "channels"]
)
def test_noise_that_is_shared_is_fitted_at_once_unless_asked(
    noisy: tasks.Problem, correlation: NoiseCorrelation
) -> None:
    shared, config = replace(noisy, noise_correlation=correlation), generator_config(input=PAIRED)
    assert fit(shared, config, plan(steps=10, coarse="auto")).coarse == ()
    assert fit(noisy, config, plan(steps=10, coarse="auto")).coarse == ((1, (64, 64)),)
    assert fit(shared, config, plan(steps=1, coarse=1)).coarse == ((1, (64, 64)),)


def test_it_takes_over_weights_and_what_the_smaller_fit_saw(noisy: tasks.Problem) -> None:
    asked = plan(stop=STILLEST)
    running = FitLoop(noisy, CONFIG, asked, choose_machine(asked), smaller_fits(noisy, CONFIG, asked))
    before = running.state.first.parameters.values.clone()
    for _ in running.begin():
        pass
    state, half = running.state, running.program_cache.half._state
    assert torch.equal(state.first.parameters.values, half.first.parameters.values)
    assert not torch.equal(state.first.parameters.values, before)
    assert torch.equal(state.first.optimizer.first, half.first.optimizer.first) and half.first.optimizer.first.any()
    assert float((state.average - noisy.target).square().mean()) < 0.04
    assert torch.equal(state.stop.state_dict()["mean"], state.average)
    assert int(state.step) == 0


def test_it_stops_by_itself(noisy: tasks.Problem) -> None:
    result = fit(noisy, CONFIG, plan(steps=300, stop=STILLEST, coarse=30))
    assert 20 < result.chosen_step < result.steps < 300


def test_alone_second_on_a_program_cache_in_slots_and_resumed_the_bits_are_the_same(
    noisy: tasks.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.fit.loop.LEAST_SECONDS", 0.0)
    asked = plan(steps=10, coarse=5, seeds=2, keep_seeds=True)
    other = replace(noisy, target=1 - noisy.target, guide=1 - noisy.guide)
    whole, bench = fit(noisy, CONFIG, asked), ProgramCache()
    fit(other, CONFIG, asked.model_copy(update={"seed": 3}), program_cache=bench)
    second = fit(noisy, CONFIG, asked, program_cache=bench)
    assert bench.programs == second.programs == 2

    def course(problem: tasks.Problem, program_cache: ProgramCache) -> Any:
        return fitting(problem, CONFIG, asked, hooks=Hooks(program_cache=program_cache))

    slots: list[Slot[FitResult]] = [Slot(torch.device("cpu")) for _ in range(2)]
    first, beside = finish_all([partial(course, noisy), partial(course, other)], slots)
    found = [second, first, *(_interrupted(noisy, asked, after) for after in (3, 7, 12))]
    for result in found:
        assert torch.equal(result.image, whole.image) and torch.equal(result.averaged, whole.averaged)
        assert (result.losses, result.coarse) == (whole.losses, whole.coarse)
    assert not torch.equal(beside.image, whole.image)


def _interrupted(problem: tasks.Problem, asked: Any, after: int) -> FitResult:
    """Cancelled behind so many steps, those at half of the size among them, and gone on from."""
    memory, steps, taken = Memory(), [0], []

    def enough() -> bool:
        steps[0] += 1
        return steps[0] > after

    with pytest.raises(Cancelled):
        fit(problem, CONFIG, asked, cancelled=enough, checkpoint=memory)
    assert (memory.saved is None) == (after < 5)
    found = fit(problem, CONFIG, asked, progress=lambda step, loss: taken.append(step), checkpoint=memory)
    assert taken[0] == max(0, after - 5) + 1
    return found


def test_operations_bytes_and_the_distillation_count_the_smaller_sizes(noisy: tasks.Problem) -> None:
    def settings(coarse: int) -> Settings:
        return Settings(generator=CONFIG, fit=plan(steps=100, coarse=coarse))

    without, having = settings(0), settings(40)
    assert fit_flops(having, (3, 128, 128)) == pytest.approx(1.1 * fit_flops(without, (3, 128, 128)))
    assert fit_flops(having, (3, 96, 96)) == fit_flops(without, (3, 96, 96))
    assert 1.2 < fit_bytes(having, (3, 128, 128), "fp32") / fit_bytes(without, (3, 128, 128), "fp32") < 1.35
    result = fit(noisy, CONFIG, plan(steps=0))
    assert result.coarse == ()
    assert distil_steps(replace(result, steps=100), plan(coarse=0)) == 5
    assert distil_steps(replace(result, steps=100, coarse=((200, (64, 64)),)), plan()) == 7
