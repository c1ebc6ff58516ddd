"""The fit: it fits, it repeats itself, it averages, it stops, it rolls back, it refuses what is not there."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Memory, damage_of, fit_plan, generator_config, latent_of, task_of

from dipfast import ops, tasks
from dipfast.errors import ItemError, MachineError, UsageError
from dipfast.fit import Cancelled, FitResult, ProgramCache, fit
from dipfast.fit.engine import WARM_UP, Machine, Step, choose_machine, compilations
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step
from dipfast.fit.statistics import newest_weight
from dipfast.fit.step import FitState, Member, derive_seed
from dipfast.fit.stop import make_stop
from dipfast.fit.stop.residual import Sure
from dipfast.fit.watch import LOOK_EVERY, Watch
from dipfast.generators import make_latent
from dipfast.metrics import psnr
from dipfast.settings.fit import Adam, Muon
from dipfast.tasks.operators import Identity
from dipfast.tasks.problem import mean_square

GAUSSIAN = task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}})
ADAM = {"type": "adam", "lr": 0.01}
MUON = {"type": "muon", "lr": 0.01}
MACHINE = choose_machine(fit_plan())
NOISE, BLIND = latent_of({"type": "noise"}), latent_of({"type": "image", "blind": 0.1})
NOTHING = tasks.pose(task_of({"type": "jpeg"}), np.zeros((1, 2, 2), np.float32))


def problem_of(clean: np.ndarray, damage: dict[str, Any], task: dict[str, Any]) -> tasks.Problem:
    damaged = tasks.degrade(damage_of(damage), clean)
    return tasks.pose(task_of(task), damaged.observed, damaged.known)


@pytest.fixture
def noisy(picture: np.ndarray) -> tasks.Problem:
    return problem_of(picture, {"type": "gaussian", "sigma": 25.0}, GAUSSIAN)


def prepared(problem: tasks.Problem, plan: Any, **generator: Any) -> tuple[FitState, Step]:
    return ProgramCache().prepare(problem, generator_config(**generator), plan, choose_machine(plan))


def fitted(problem: tasks.Problem, config: Any = None, **changes: Any) -> FitResult:
    return fit(problem, config or generator_config(), fit_plan(**changes))


@pytest.mark.parametrize(
    ("damage", "task"),
    [
        ({"type": "gaussian", "sigma": 25.0}, GAUSSIAN),
        ({"type": "poisson", "peak": 20.0}, {"type": "denoise", "noise": {"type": "poisson", "peak": 20.0}}),
        ({"type": "salt-pepper", "amount": 0.2}, {"type": "denoise", "noise": {"type": "salt-pepper"}}),
        ({"type": "missing", "fraction": 0.5}, {"type": "inpaint", "known": "white", "keep_known": True}),
        (
            {"type": "downsample", "scale": 2, "kernel": "lanczos2"},
            {"type": "superres", "scale": 2, "kernel": "lanczos2"},
        ),
    ],
    ids=["gaussian", "poisson", "salt-pepper", "inpaint", "superres"],
)
def test_a_fit_restores(damage: dict[str, Any], task: dict[str, Any]) -> None:
    y, x = np.mgrid[0:32, 0:32] / 31
    clean = np.stack((0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.5 + 0.3 * np.sin(5 * x + 3 * y))).astype(np.float32)
    problem = problem_of(clean, damage, task)
    result = fitted(problem, steps=120, optimizer=MUON, average=0.9)
    after = psnr(result.image[0].numpy(), clean)
    if problem.exact:  # a picture as smooth as this one, bicubic interpolation enlarges almost exactly
        assert after > 23
    else:
        assert after > psnr(problem.guide[0].numpy(), clean) + 2


@pytest.mark.parametrize("optimizer", [ADAM, MUON], ids=["adam", "muon"])
def test_the_same_seed_gives_the_same_bits(noisy: tasks.Problem, optimizer: dict[str, Any]) -> None:
    first, again = (fitted(noisy, optimizer=optimizer) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert first.losses == again.losses


def test_members_come_out_as_they_do_alone_and_their_mean_is_the_answer(noisy: tasks.Problem) -> None:
    plan = fit_plan(seeds=3, optimizer=MUON)
    machine = choose_machine(plan)
    together, step = ProgramCache().prepare(noisy, generator_config(), plan, machine)
    alone = Member(noisy, generator_config(), machine.device, 1)
    alone.reset(plan.seed)
    for _ in range(5):
        step()
        together.member_step(alone)
    outputs = [member.output for member in together.members]
    assert torch.equal(outputs[1], alone.output)
    assert not torch.equal(outputs[0], outputs[1])
    torch.testing.assert_close(together.output, torch.stack(outputs).mean(0))


def test_the_first_of_several_seeds_is_the_fit_of_one(noisy: tasks.Problem) -> None:
    states = [ProgramCache().prepare(noisy, generator_config(), fit_plan(seeds=n), MACHINE) for n in (1, 2)]
    for _, step in states:
        step()
    one, two = (state.first.output for state, _ in states)
    assert torch.equal(one, two)


def test_the_mean_of_seeds_is_better_than_one(noisy: tasks.Problem, picture: np.ndarray) -> None:
    one, four = (fitted(noisy, steps=60, optimizer=MUON, seeds=n, average=None).image[0] for n in (1, 4))
    assert psnr(four.numpy(), picture) > psnr(one.numpy(), picture) + 0.2


def test_another_seed_gives_another_picture(noisy: tasks.Problem) -> None:
    assert not torch.equal(fitted(noisy, seed=1).image, fitted(noisy, seed=2).image)


def test_looking_and_reporting_change_nothing(noisy: tasks.Problem) -> None:
    seen: list[int] = []
    watched = fit(
        noisy, generator_config(), fit_plan(), progress=lambda step, loss: seen.append(step), cancelled=lambda: False
    )
    assert torch.equal(watched.image, fitted(noisy).image)
    assert seen == list(range(1, 31))


def test_adam_on_the_flat_buffer_is_pytorchs_adam() -> None:
    settings = {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    module, twin = (torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Conv2d(16, 2, 1)).double() for _ in "ab")
    twin.load_state_dict(module.state_dict())
    torch.set_default_dtype(torch.float64)
    try:
        flat = FlatParameters(module, torch.device("cpu"))
        state = OptimizerState.zeros_like(flat.values)
        theirs = torch.optim.Adam(twin.parameters(), **settings)
        for seed in range(5):
            x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
            flat.grads.zero_()
            theirs.zero_grad()
            for net in (module, twin):
                net(x).square().mean().backward()
            optimizer_step(Adam(**settings), flat, state, torch.float64)
            theirs.step()
    finally:
        torch.set_default_dtype(torch.float32)
    for ours, reference in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_muon_moves_large_convolutions_orthogonally_and_leaves_the_rest_to_adam() -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(4, 16, 3, bias=False), torch.nn.Conv2d(16, 2, 1, bias=False))
    before = [p.detach().clone() for p in module.parameters()]
    flat = FlatParameters(module, torch.device("cpu"))
    assert [group[1:] for group in flat.groups] == [(1, 16, 36)]
    flat.grads.normal_(generator=torch.Generator().manual_seed(0))
    config = Muon(newton_schulz_steps=5)
    optimizer_step(config, flat, OptimizerState.zeros_like(flat.values), torch.float32)
    large, small = (p.detach() - b for p, b in zip(module.parameters(), before, strict=True))
    singular = torch.linalg.svdvals(large.flatten(1)) / (2 * 0.01)
    assert float(singular.min()) > 0.5 and float(singular.max()) < 1.4
    torch.testing.assert_close(small.abs(), torch.full_like(small, 0.01), rtol=1e-3, atol=1e-5)


def test_parameters_and_gradients_are_views_of_one_buffer_in_channels_last_order() -> None:
    module = torch.nn.Conv2d(4, 16, 3)
    values = [p.detach().clone() for p in module.parameters()]
    flat = FlatParameters(module, torch.device("cpu"))
    assert all(torch.equal(p, v) for p, v in zip(module.parameters(), values, strict=True))
    assert module.weight.is_contiguous(memory_format=torch.channels_last)
    flat.values.zero_()
    assert not module.weight.any()


@pytest.mark.parametrize("kind", [0.9, "auto"])
def test_the_first_value_of_an_average_is_itself(kind: float | str) -> None:
    assert float(newest_weight(kind, torch.tensor(0))) == 1


def test_a_constant_average_forgets_at_its_rate_and_auto_over_a_share_of_the_steps() -> None:
    assert float(newest_weight(0.9, torch.tensor(7))) == pytest.approx(0.1)
    assert [float(newest_weight("auto", torch.tensor(n))) for n in (4, 76)] == pytest.approx([1 / 2, 1 / 20])


def test_averages_begin_anew_behind_a_rollback_to_the_beginning(noisy: tasks.Problem) -> None:
    plan = fit_plan(stop={"type": "ema-variance"})
    state, step = prepared(noisy, plan)
    watch = Watch(plan, state)
    for _ in range(5):
        step()
    state.residual.fill_(torch.nan)
    watch.look()
    step()
    torch.testing.assert_close(state.average, state.output)
    torch.testing.assert_close(state.stop.mean, state.output)
    assert float(state.stop.value) == 0


def test_a_loss_that_was_not_finite_for_a_moment_leaves_no_trace(noisy: tasks.Problem) -> None:
    program_cache = ProgramCache()
    plan = fit_plan(steps=60)
    state, _ = program_cache.prepare(noisy, generator_config(), plan, choose_machine(plan))

    def poison(step: int, loss: float) -> None:
        if step == 10:
            state.first.parameters.values.fill_(torch.nan)

    result = fit(noisy, generator_config(), plan, progress=poison, program_cache=program_cache)
    assert result.rollbacks == 1
    assert all(np.isfinite(loss) for _, loss in result.losses)
    assert bool(torch.isfinite(result.image).all())


def test_without_an_average_the_answer_is_the_last_output(noisy: tasks.Problem) -> None:
    result = fitted(noisy, average=None)
    assert torch.equal(result.image, result.last)


def test_no_steps_give_the_untouched_generator(noisy: tasks.Problem) -> None:
    result = fitted(noisy, steps=0)
    assert (result.steps, result.chosen_step, result.losses) == (0, 0, [])
    assert torch.equal(result.image, result.last)


def test_no_jitter_is_no_jitter(noisy: tasks.Problem) -> None:
    still, step = prepared(noisy, fit_plan(reg_noise_std=0.0))
    step()
    assert not still.first.noise.any()


def test_discrepancy_stops_when_the_residual_is_the_noise(noisy: tasks.Problem) -> None:
    result = fitted(noisy, steps=400, optimizer=MUON, stop={"type": "discrepancy", "factor": 1.2})
    assert result.steps < 400
    assert 1 <= result.chosen_step <= result.steps <= result.chosen_step + LOOK_EVERY
    assert "of what the noise leaves" in result.why


def test_discrepancy_without_a_noise_level_is_refused(picture: np.ndarray) -> None:
    problem = problem_of(picture, {"type": "jpeg", "quality": 10}, {"type": "jpeg", "quality": None})
    with pytest.raises(UsageError, match="the task knows no noise level"):
        fitted(problem, stop={"type": "discrepancy"})


def drive(stop: Any, outputs: list[float]) -> None:
    for step, value in enumerate(outputs):
        picture = torch.full((1, 3, 4, 4), value)
        stop.update(torch.tensor(step), picture, picture, picture.mean())


def stop_of(kind: str, problem: tasks.Problem = NOTHING, steps: int = 400, **settings: Any) -> Any:
    stop = make_stop(fit_plan(stop={"type": kind, **settings}).stop, torch.zeros(1, 3, 4, 4), problem, steps, NOISE)
    stop.reset(0)
    return stop


def descent(pace: int) -> list[float]:
    """Outputs that come to rest, then begin to swing ever wider; ``pace`` times as slowly."""
    rest = [1 - math.exp(-step / (4 * pace)) for step in range(40 * pace)]
    return rest + [1 + 0.05 * step / pace * (-1) ** step for step in range(80 * pace)]


@pytest.mark.parametrize("pace", [1, 8], ids=["fast", "slow"])
@pytest.mark.parametrize("kind", ["ema-variance", "windowed-variance"])
def test_a_variance_criterion_keeps_the_picture_at_the_valley_of_a_fast_fit_and_of_a_slow_one(
    kind: str, pace: int
) -> None:
    stop = stop_of(kind, steps=120 * pace)
    drive(stop, descent(pace))
    assert bool(stop.done)
    assert 0.7 < int(stop.best_step) / (40 * pace) < 1.3
    assert float(stop.best.mean()) == pytest.approx(1, abs=0.05)
    assert "was lowest" in stop.why()


@pytest.mark.parametrize("pace", [1, 4], ids=["fast", "slow"])
def test_with_blind_spots_the_outputs_variance_is_lowest_where_their_average_is_best(pace: int) -> None:
    """Outputs that come to the scene, swing, and take up what is not there; their average has a best step."""
    rng = torch.Generator().manual_seed(0)
    scene, noise = torch.rand(1, 3, 16, 16, generator=rng), torch.randn(1, 3, 16, 16, generator=rng)
    stop = make_stop(fit_plan(stop={"type": "ema-variance"}).stop, scene, NOTHING, 600, BLIND)
    stop.reset(0)
    average, errors = torch.zeros_like(scene), []
    for step in range(150 * pace):
        time = step / pace
        swing = 0.03 * (1 + (time / 100) ** 2) * torch.randn(scene.shape, generator=rng)
        output = scene * (1 - math.exp(-time / 8)) + 0.01 * (time / 100) ** 2 * noise + swing
        average.lerp_(output, newest_weight("auto", torch.tensor(step)))
        errors.append(float((average - scene).square().mean()))
        stop.update(torch.tensor(step), output, average, output.mean())
    assert bool(stop.done)
    assert errors[int(stop.best_step)] < 1.1 * min(errors)
    assert float((stop.best - scene).square().mean()) == pytest.approx(errors[int(stop.best_step)])


@pytest.mark.parametrize("kind", ["ema-variance", "windowed-variance"])
def test_a_variance_criterion_stays_at_the_first_valley_that_patience_confirmed(kind: str) -> None:
    stop = stop_of(kind)
    drive(stop, descent(1))
    first = int(stop.best_step)
    for step in range(120, 400):
        picture = torch.full((1, 3, 4, 4), 0.5)
        stop.update(torch.tensor(step), picture, picture, picture.mean())
    assert int(stop.best_step) == first


def test_a_windowed_variance_by_running_sums_is_the_variance_of_the_window() -> None:
    stop = stop_of("windowed-variance", share=0.25, steps=200)
    rng = torch.Generator().manual_seed(0)
    outputs = torch.rand(200, 1, 3, 4, 4, generator=rng, dtype=torch.float64)
    for step, output in enumerate(outputs.float()):
        stop.update(torch.tensor(step), output, output, output.mean())
        window = outputs[: step + 1][-max(2, (step + 1) // 4) :].float().double()
        expected = float(window.var(0, correction=0).mean())
        assert float(stop.value) == pytest.approx(expected, rel=1e-5)


def test_pixels_held_out_are_kept_from_the_loss_and_judge_the_picture(noisy: tasks.Problem) -> None:
    noisy = replace(noisy, operator=Identity())
    plan = fit_plan(stop={"type": "held-out", "share": 0.2})
    state, _ = prepared(noisy, plan)
    held = state.stop.held.expand_as(noisy.target)
    assert 0.1 < float(held.float().mean()) < 0.3
    prediction = torch.rand_like(noisy.target).requires_grad_()
    state.stop.predict(prediction).sum().backward()
    assert torch.equal(prediction.grad == 0, held)
    state.stop.update(torch.tensor(50), noisy.target + 0.1 * held, noisy.target + 0.1 * held, torch.tensor(0.0))
    assert float(state.stop.value) == pytest.approx(0.01, rel=1e-4)
    other, _ = prepared(noisy, plan.model_copy(update={"seed": 5}))
    assert not torch.equal(other.stop.held, state.stop.held)


def test_held_out_stops_a_fit_that_has_begun_to_take_up_noise(noisy: tasks.Problem) -> None:
    result = fitted(noisy, steps=600, optimizer=MUON, stop={"type": "held-out", "share": 0.1}, average="auto")
    assert result.chosen_step < result.steps < 600
    assert result.stop_curve[-1][1] > min(value for _, value in result.stop_curve)


@pytest.mark.parametrize("noise", ["gaussian", "poisson"])
def test_the_risk_of_sure_is_the_true_one_in_expectation(noise: str, picture: np.ndarray) -> None:
    sharpness, rng = 0.6, torch.Generator().manual_seed(0)
    clean = 0.25 + 0.5 * torch.rand(1, 3, 64, 64, generator=rng)
    if noise == "gaussian":
        task = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
        y = clean + 25 / 255 * torch.randn(clean.shape, generator=rng)
    else:
        task = {"type": "denoise", "noise": {"type": "poisson", "peak": 60.0}}
        y = torch.poisson(clean * 60, generator=rng) / 60
    stop = Sure(torch.zeros_like(y), tasks.pose(task_of(task), y[0].numpy()), "image")
    stop.probe.normal_(generator=rng)

    def shrink(z: torch.Tensor) -> torch.Tensor:  # a linear estimator, whose risk is known
        return 0.5 + sharpness * (z - 0.5)

    risk = mean_square(shrink(y), y) + stop.penalty(shrink(y), shrink(y + stop.probe_step * stop.probe))
    assert float(risk) == pytest.approx(float(mean_square(shrink(y), clean)), rel=0.08)


def test_sure_fits_and_stops(noisy: tasks.Problem) -> None:
    config = generator_config(input={"type": "image"})
    result = fitted(noisy, config, steps=300, optimizer=MUON, stop={"type": "sure"}, average="auto")
    assert result.steps < 300
    assert "estimated risk" in result.why


def test_sure_is_refused_where_it_does_not_apply(noisy: tasks.Problem, picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match=r"needs generator\.input\.type image, is noise"):
        fitted(noisy, stop={"type": "sure"})
    with pytest.raises(UsageError, match="needs a denoise task"):
        fitted(NOTHING, generator_config(input={"type": "image"}), stop={"type": "sure"})


@pytest.mark.parametrize("steps", [0, 1])
def test_a_short_fit_can_be_warmed_up(noisy: tasks.Problem, steps: int) -> None:
    state, step = prepared(noisy, fit_plan(steps=steps))
    for _ in range(WARM_UP):
        step()
    assert int(state.step) == WARM_UP


def state_step_and_watch(problem: tasks.Problem, **changes: Any) -> tuple[FitState, Step, Watch]:
    plan = fit_plan(**changes)
    state, step = prepared(problem, plan)
    for _ in range(5):
        step()
    watch = Watch(plan, state)
    watch.look()
    return state, step, watch


def test_a_drop_of_the_fits_own_psnr_restores_weights_moments_and_averages(noisy: tasks.Problem) -> None:
    state, _, watch = state_step_and_watch(noisy, rollback_db=5.0)
    good = state.snapshot()
    for tensor in state.state_dict().values():
        tensor.zero_()
    state.residual.mul_(10)
    watch.look()
    assert watch.rollbacks == 1
    assert all(torch.equal(tensor, good[name]) for name, tensor in state.state_dict().items())


def test_a_smaller_drop_is_left_alone(noisy: tasks.Problem) -> None:
    state, _, watch = state_step_and_watch(noisy, rollback_db=5.0)
    state.residual.mul_(2)
    watch.look()
    assert watch.rollbacks == 0


def test_a_fit_that_goes_on_after_a_rollback_still_fits(noisy: tasks.Problem) -> None:
    state, step, watch = state_step_and_watch(noisy)
    before = float(state.residual)
    state.first.parameters.values.fill_(torch.nan)
    state.residual.fill_(torch.nan)
    watch.look()
    for _ in range(20):
        step()
    assert float(state.residual) < before


def test_values_that_stay_non_finite_fail_the_item(picture: np.ndarray) -> None:
    problem = problem_of(picture, {"type": "gaussian", "sigma": 25.0}, GAUSSIAN)
    problem.target[0, 0, 0, 0] = torch.nan
    with pytest.raises(ItemError, match="non-finite") as error:
        fitted(problem, steps=200)
    assert error.value.kind == "non-finite"


def test_a_cancelled_fit_says_after_how_many_steps(noisy: tasks.Problem) -> None:
    asked: list[int] = []
    with pytest.raises(Cancelled, match="after 3 steps"):
        fit(noisy, generator_config(), fit_plan(), cancelled=lambda: asked.append(1) or len(asked) > 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engine": "cudagraph"}, "fit.engine is cudagraph, which cpu does not have"),
        ({"precision": "tf32"}, "fit.precision is tf32"),
        pytest.param(
            {"precision": "fp16"},
            "fit.precision is fp16, which this CPU has no instructions for",
            marks=pytest.mark.skipif(torch.ops.mkldnn._is_mkldnn_fp16_supported(), reason="it has"),
        ),
        ({"device": "cuda:63"}, "fit.device is cuda:63"),
        pytest.param(
            {"kernels": "triton"},
            "fit.kernels is triton, which needs a CUDA device, and the device is cpu; use plain",
            marks=pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
        ),
    ],
)
def test_what_the_machine_cannot_do_is_an_error(
    changes: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # which the tests of the kernels set
    with pytest.raises(MachineError, match=message):
        choose_machine(fit_plan(**changes))


@pytest.mark.parametrize("interpreted", ["0", "1"])
def test_kernels_without_triton_are_an_error(interpreted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(MachineError, match=r"^fit\.kernels is triton, which needs the package triton; use plain$"):
        choose_machine(fit_plan(kernels="triton"))


@pytest.mark.parametrize("kernels", ["auto", "plain"])
def test_kernels_are_plain_unless_asked_for(kernels: str) -> None:
    assert choose_machine(fit_plan(kernels=kernels)).kernels == "plain"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_precision_is_what_runs(noisy: tasks.Problem, precision: str) -> None:
    assert fitted(noisy, steps=2, precision=precision).machine.precision == precision


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.1), ("fp16", 0.04)])
def test_gradients_in_low_precision_are_those_of_fp32(
    noisy: tasks.Problem, precision: str, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.ops.SMALL_PRODUCTS", 0)
    grads = []
    for name in ("fp32", precision):  # whatever this CPU has instructions for: fp16 is then slow, and right
        machine = Machine(torch.device("cpu"), "eager", name)
        plan = fit_plan(optimizer={"type": "adam", "lr": 1e-12})
        state, step = ProgramCache().prepare(noisy, generator_config(upsample="nearest"), plan, machine)
        step()
        grads.append(state.first.parameters.grads.clone())
    exact, low = grads
    assert not torch.equal(exact, low)
    assert float((low - exact).norm() / exact.norm()) < tolerance


def test_weights_and_moments_stay_in_fp32_when_convolutions_are_bf16(
    noisy: tasks.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.ops.SMALL_PRODUCTS", 0)
    state, step = prepared(noisy, fit_plan(precision="bf16"))
    step()
    kept = [*state.first.generator.parameters(), state.average, *vars(state.first.optimizer).values(), state.losses]
    assert {tensor.dtype for tensor in kept} == {torch.float32}


def test_a_cpu_convolves_in_bf16_what_is_large_enough_to_gain_by_it() -> None:
    for side, expected in ((16, torch.float32), (128, torch.bfloat16)):
        x = torch.zeros(1, 32, side, side)
        assert ops.conv_dtype(torch.bfloat16, x, 32 * 32 * 9 * side * side) == expected
    assert ops.conv_dtype(torch.float64, torch.zeros(1, 1, 2, 2), 36) == torch.float64


@pytest.mark.parametrize(
    "stop", [{"type": k} for k in ("fixed", "ema-variance", "windowed-variance", "held-out", "discrepancy")], ids=str
)
def test_an_item_on_a_used_program_cache_comes_out_as_it_does_alone(picture: np.ndarray, stop: dict[str, Any]) -> None:
    items = [
        problem_of(picture * dim, {"type": "gaussian", "sigma": sigma}, noise_of(sigma))
        for dim, sigma in ((1, 25.0), (0.5, 10.0))
    ]
    plans = [fit_plan(steps=12, seed=seed, stop=stop, optimizer=MUON) for seed in (3, 4)]
    program_cache = ProgramCache()
    shared = [
        fit(item, generator_config(), plan, program_cache=program_cache)
        for item, plan in zip(items, plans, strict=True)
    ]
    alone = [fit(item, generator_config(), plan) for item, plan in zip(items, plans, strict=True)]
    assert program_cache.programs == 1
    for one, other in zip(shared, alone, strict=True):
        assert torch.equal(one.image, other.image)
        assert (one.losses, one.chosen_step, one.why) == (other.losses, other.chosen_step, other.why)


def noise_of(sigma: float) -> dict[str, Any]:
    return {"type": "denoise", "noise": {"type": "gaussian", "sigma": sigma}}


def test_every_fit_turns_to_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(
        ProgramCache, "_build", lambda self, *_: vars(self).update(_state=SimpleNamespace(), _step=None)
    )
    monkeypatch.setattr(tasks.Problem, "to", lambda self, device: self)
    program_cache = ProgramCache()
    for name in ("cuda:1", "cuda", "cpu"):
        program_cache.prepare(NOTHING, generator_config(), fit_plan(), Machine(torch.device(name), "eager", "fp32"))
    assert devices == [1, 0]


def test_another_size_another_plan_and_another_net_need_another_program(noisy: tasks.Problem) -> None:
    program_cache = ProgramCache()
    small = tasks.pose(GAUSSIAN, noisy.target[0, :, :16, :16].numpy())
    fit(noisy, generator_config(), fit_plan(steps=1), program_cache=program_cache)
    fit(small, generator_config(), fit_plan(steps=1), program_cache=program_cache)
    fit(small, generator_config(), fit_plan(steps=2), program_cache=program_cache)
    fit(small, generator_config(upsample="nearest"), fit_plan(steps=2), program_cache=program_cache)
    assert program_cache.programs == 4


def test_a_fit_leaves_its_problem_alone(noisy: tasks.Problem) -> None:
    before = noisy.target.clone()
    program_cache = ProgramCache()
    fit(noisy, generator_config(), fit_plan(steps=1), program_cache=program_cache)
    fit(
        tasks.pose(GAUSSIAN, np.zeros((3, 32, 32), np.float32)),
        generator_config(),
        fit_plan(steps=1),
        program_cache=program_cache,
    )
    assert torch.equal(noisy.target, before)


@pytest.mark.timeout(400)  # a compiler that has cached nothing yet, on a busy machine
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor itself calls torch.jit
def test_a_compiled_step_is_the_eager_step(noisy: tasks.Problem) -> None:
    config = generator_config(channels=(8,), upsample="nearest")
    eager, compiled = (fitted(noisy, config, steps=5, engine=engine) for engine in ("eager", "compile"))
    assert compiled.machine.engine == "compile"
    torch.testing.assert_close(compiled.image, eager.image, rtol=0, atol=2e-4)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_shapes_are_compiled_once_and_one_too_many_is_an_error(
    noisy: tasks.Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("dipfast.fit.engine.MOST_PROGRAMS", 2)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))  # quicker than code
    config, plan, before = generator_config(channels=(8,)), fit_plan(steps=2, engine="compile"), compilations()

    def at(side: int, bench: ProgramCache) -> FitResult:
        return fit(tasks.pose(GAUSSIAN, noisy.target[0, :, :side, :side].numpy()), config, plan, program_cache=bench)

    bench = ProgramCache()
    for side in (16, 16, 32, 16):
        at(side, bench)
    assert (bench.programs, compilations() - before) == (3, 2)  # back at a known shape nothing is compiled
    with pytest.raises(MachineError, match="has compiled for 2 shapes, which is the most"):
        at(24, bench)
    assert at(32, bench).steps == 2  # the others go on
    torch._dynamo.reset()


def test_freed_memory_is_kept_by_the_process() -> None:
    code = """
import resource, torch
from dipfast.fit import keep_freed_memory
keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(1 << 24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(8)))  # the first few may still grow the heap
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 64 MiB faulted in anew would be 16384 pages


def test_a_fit_that_was_rolled_back_says_so(noisy: tasks.Problem) -> None:
    jumpy = fitted(noisy, steps=150, optimizer={"type": "adam", "lr": 0.3}, rollback_db=0.05)
    assert jumpy.rollbacks > 0
    assert jumpy.why.endswith(f"; rolled back {jumpy.rollbacks} times")
    assert "rolled back" not in fitted(noisy).why


def test_seeds_that_are_kept_have_averaged_weights(noisy: tasks.Problem) -> None:
    plan = fit_plan(steps=40, optimizer=MUON, average="auto", seeds=2, keep_seeds=True)
    averaged, last = (
        fit(noisy, generator_config(), plan),
        fit(noisy, generator_config(), plan.model_copy(update={"average": None})),
    )

    def apart(result: FitResult) -> float:
        latent = make_latent(generator_config().input, 32, 32, derive_seed(plan.seed, "latent", 1), noisy.guide)
        with torch.no_grad():
            return float((result.members[0](latent, torch.float32) - averaged.picture).square().mean())

    assert apart(averaged) < 0.7 * apart(last)


INTERRUPTED: list[dict[str, Any]] = [
    {"stop": {"type": "held-out"}, "average": "auto", "optimizer": MUON, "seeds": 2, "checkpoints": 2}
    | {"keep_seeds": True},
    {"stop": {"type": "windowed-variance"}, "average": 0.9},
    {"optimizer": {"type": "sgld"}, "posterior": {"burn_in": 4, "every": 2, "keep": 2}, "stop": {"type": "fixed"}},
]


@pytest.mark.parametrize("changes", INTERRUPTED, ids=["members", "window", "posterior"])
@pytest.mark.parametrize("after", [7, 12])
def test_a_fit_that_was_interrupted_goes_on_to_the_same_bits(
    noisy: tasks.Problem, changes: dict[str, Any], after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.fit.loop.LEAST_SECONDS", 0.0)
    plan, memory, steps = fit_plan(steps=18, **changes), Memory(), [0]

    def enough() -> bool:
        steps[0] += 1
        return steps[0] > after

    with pytest.raises(Cancelled):
        fit(noisy, generator_config(), plan, cancelled=enough, checkpoint=memory)
    taken: list[int] = []
    resumed = fit(noisy, generator_config(), plan, progress=lambda step, loss: taken.append(step), checkpoint=memory)
    whole = fit(noisy, generator_config(), plan)
    assert taken[0] == after + 1
    assert torch.equal(resumed.image, whole.image) and torch.equal(resumed.averaged, whole.averaged)
    assert (resumed.losses, resumed.stop_curve, resumed.why) == (whole.losses, whole.stop_curve, whole.why)
    for (step, one), (other, two) in zip(resumed.snapshots, whole.snapshots, strict=True):
        assert step == other and all(
            torch.equal(*pair) for pair in zip(one.parameters(), two.parameters(), strict=True)
        )
    for kept, known in zip(resumed.members, whole.members, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), known.parameters(), strict=True))


def test_a_long_fit_is_saved_as_it_goes(noisy: tasks.Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipfast.fit.loop.EVERY_SECONDS", 0.0)
    memory = Memory()
    fit(noisy, generator_config(), fit_plan(steps=25), checkpoint=memory)
    assert memory.saved is not None and int(memory.saved["step"]) == 25


def test_a_checkpoint_of_another_fit_is_left_alone(noisy: tasks.Problem) -> None:
    memory = Memory()
    memory.save({"step": torch.tensor(9), "losses": torch.zeros(9), "numbers": torch.zeros(4)})
    result = fit(noisy, generator_config(), fit_plan(), checkpoint=memory)
    assert torch.equal(result.image, fitted(noisy).image)
