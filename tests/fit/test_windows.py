"""Fits on windows: where they lie, one program for all sizes, the same bits again, and the frozen network's answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Memory, fit_plan, generator_config, settings_of, task_of

import dipfast
from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import Cancelled, ProgramCache, fit
from dipfast.fit.windows import sampled
from dipfast.metrics import psnr
from dipfast.plan import fit_bytes, fit_flops
from dipfast.samples import locate
from dipfast.settings.fit import Windows
from dipfast.settings.rules import conflicts
from dipfast.settings.shapes import fitted_pixels, window_grid, windows_of
from dipfast.tasks.operators import Identity
from dipfast.tasks.problem import NoiseCorrelation, mean_square

CONFIG = generator_config(
    channels=(8, 8), upsample="nearest", input={"type": "image", "blind": 0.1, "reach": "auto", "recorrupt": 0.7}
)
MUON = {"type": "muon", "lr": 0.04}


def plan(**changes: Any) -> Any:
    windows = {"count": 4, "side": 16}
    return fit_plan(**{"windows": windows, "optimizer": MUON, "reg_noise_std": 0.0, "average": None} | changes)


def problem(height: int = 48, width: int = 40, seed: int = 0) -> tasks.Problem:
    """A ramp with a disc, and noise of sigma 25."""
    y, x = np.mgrid[0:height, 0:width] / 48
    clean = np.stack((0.2 + 0.4 * x, 0.3 + 0.4 * y, 0.2 + 0.5 * ((x - 0.4) ** 2 + (y - 0.5) ** 2 < 0.06)))
    noisy = clean + np.random.default_rng(seed).normal(scale=25 / 255, size=clean.shape)
    task = task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}})
    return tasks.pose(task, noisy.clip(0, 1).astype(np.float32))


def whole_numbers(height: int, width: int) -> tasks.Problem:
    """A problem whose target holds each pixel's number."""
    numbers = torch.arange(height * width, dtype=torch.float32).view(1, 1, height, width)
    return tasks.Problem(Identity(), mean_square, numbers, numbers)


@pytest.mark.parametrize(
    ("height", "width", "count", "rows", "columns"),
    [
        (64, 96, 4, 2, 2),
        (40, 200, 6, 1, 6),
        (16, 16, 6, 1, 1),
        (300, 200, 6, 3, 2),
        (33, 47, 9, 3, 3),
        (16, 40, 9, 1, 3),
    ],
)
def test_windows_lie_in_a_grid(height: int, width: int, count: int, rows: int, columns: int) -> None:
    batch = sampled(whole_numbers(height, width), Windows(count=count, side=16)).target
    assert batch.shape == (rows * columns, 1, 16, 16)
    for number, window in enumerate(batch[:, 0].long()):
        top, left = divmod(int(window[0, 0]), width)
        steps = torch.arange(16)
        assert torch.equal(window, (top + steps[:, None]) * width + left + steps)
        row, column = divmod(number, columns)
        for start, place, side, cells in ((top, row, height, rows), (left, column, width, columns)):
            if 16 * cells < side:
                assert abs(start + 8 - (place + 0.5) * side / cells) <= 1


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 47), (16, 16), (100, 17)])
def test_windows_cover_a_small_picture(height: int, width: int) -> None:
    batch = sampled(whole_numbers(height, width), Windows(count=16, side=16)).target
    assert len(batch.unique()) == height * width


def test_a_grid_of_sizes_has_all_windows_so_that_pictures_share_a_program() -> None:
    windows = Windows(count=12, side=16)
    grids = [
        window_grid(windows, *sides, True) for sides in ((16, 16), (256, 256), (100, 1000), (1000, 100), (512, 768))
    ]
    assert grids == [(4, 3), (4, 3), (1, 12), (12, 1), (3, 4)]


def test_halves_have_half_as_many_windows() -> None:
    fit = plan(windows={"count": 16, "side": 16})
    assert list(fitted_pixels(CONFIG, fit, (640, 320))) == [(fit.steps, 16 * 256), (40, 8 * 256), (40, 4 * 256)]
    assert list(fitted_pixels(CONFIG, fit, (31, 640))) == [(fit.steps, 16 * 256)]
    assert list(fitted_pixels(CONFIG, fit, (40, 40))) == [(fit.steps, 9 * 256), (40, 4 * 256)]


def test_same_seed_gives_the_same_bits_and_another_others() -> None:
    first, again, other = (fit(problem(), CONFIG, plan(seed=seed)).image for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_program_fits_pictures_of_all_sizes() -> None:
    cache = ProgramCache()
    problems = [problem(64, 80), problem(48, 48), problem(80, 64), problem(32, 64)]
    asked = plan(coarse=3)
    together = [fit(one, CONFIG, asked, program_cache=cache) for one in problems]
    assert cache.built == 1
    for one, found in zip(problems, together, strict=True):
        assert torch.equal(found.image, fit(one, CONFIG, asked).image)


def test_an_interrupted_fit_goes_on_with_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dipfast.fit.loop.LEAST_SECONDS", 0.0)
    whole, memory, asked = fit(problem(), CONFIG, plan()), Memory(), iter(range(1000))
    with pytest.raises(Cancelled):
        fit(problem(), CONFIG, plan(), cancelled=lambda: next(asked) >= 13, checkpoint=memory)
    assert torch.equal(fit(problem(), CONFIG, plan(), checkpoint=memory).image, whole.image)


def test_all_steps_are_taken() -> None:
    found = fit(problem(), CONFIG, plan(steps=20, coarse=7))
    assert (found.stop.type, found.steps) == ("fixed", 20)
    assert found.coarse == ((7, (24, 20)),)


@pytest.mark.parametrize("correlation", [NoiseCorrelation(radius=1), NoiseCorrelation(across_channels=True)])
def test_shared_noise_is_fitted_at_smaller_sizes_first(correlation: NoiseCorrelation) -> None:
    shared = replace(problem(), noise_correlation=correlation)
    assert fit(shared, CONFIG, plan(steps=1)).coarse == ((40, (24, 20)),)


def test_cost_does_not_grow_with_the_picture_but_for_render_and_buffers() -> None:
    settings = settings_of({"fit": plan().model_dump(), "generator": CONFIG.model_dump()})
    small, large = (fit_flops(settings, (3, side, side)) for side in (64, 640))
    assert large < 100 * small
    assert fit_bytes(settings, (3, 4000, 3000), "fp32") < 4e9


@pytest.mark.parametrize(
    ("fit_keys", "generator", "text"),
    [
        ({}, {"input": {"type": "noise"}}, "fit.windows: should be null without generator.input.blind"),
        ({"windows": {"side": 18}}, {}, "fit.windows.side: should be a multiple of 4"),
        ({"stop": {"type": "ema-variance"}}, {}, "fit.stop.type: should be fixed with fit.windows, is ema-variance"),
    ],
)
def test_what_windows_cannot_have_is_refused(fit_keys: Any, generator: Any, text: str) -> None:
    tree = {"fit": plan().model_dump() | fit_keys, "generator": CONFIG.model_dump() | generator}
    found = [reason for _, reason in conflicts(settings_of(tree), with_mask=False)]
    assert any(reason.startswith(text) for reason in found), found


@pytest.mark.parametrize(
    ("changes", "side"),
    [({}, 64), ({"channels": (8,) * 5}, 64), ({"channels": (8,) * 6}, 128), ({"input": {"type": "noise"}}, None)],
)
def test_optional_windows_give_way(changes: Any, side: int | None) -> None:
    config = generator_config(**{"input": {"type": "image", "blind": 0.1}} | changes)
    found = windows_of(config, plan(windows={"optional": True}))
    assert (None if found is None else found.side) == side


def test_refine_is_refused_where_noise_has_no_variance() -> None:
    settings = settings_of({"task": {"type": "denoise", "noise": {"type": "salt-pepper"}}, "refine": {}})
    assert [path for path, _ in conflicts(settings, with_mask=False)] == [("refine",)]


@pytest.fixture(scope="module")
def restored() -> tuple[np.ndarray, np.ndarray, Any]:
    """A photograph of a cat, the same with noise, and what `fast` makes of it in few steps."""
    from dipfast.image import Limits, read

    clean = read(locate("sample:chelsea"), Limits()).pixels[:, 100:196, 160:280].transpose(1, 2, 0)
    noisy = (clean + np.random.default_rng(1).normal(scale=0.1, size=clean.shape)).clip(0, 1).astype(np.float32)
    return clean, noisy, dipfast.restore(noisy, sigma=25.5, preset="fast", fit={"steps": 15, "precision": "fp32"})


def test_refined_answer_beats_the_pilot(restored: tuple[np.ndarray, np.ndarray, Any]) -> None:
    clean, noisy, found = restored
    generator = found.generator
    pilot = generator.output("fp32").transpose(1, 2, 0)[:96, :120]
    before, piloted, after = (psnr(one, clean) for one in (noisy, pilot.clip(0, 1), found.image))
    assert after > piloted + 0.5 > before + 3
    assert abs(found.record["generator"]["parity_db"] - psnr(pilot.clip(0, 1), found.image)) < 0.5


def test_stored_generator_gives_the_kept_picture_bit_for_bit(restored: tuple[np.ndarray, np.ndarray, Any]) -> None:
    _, _, found = restored
    assert np.array_equal(found.generator.render(), found.image)
    assert found.generator.card.frozen
    assert found.generator.card.refine is not None


def test_generator_of_a_whole_picture_is_distilled_onto_the_refined_one() -> None:
    rng = np.random.default_rng(2)
    noisy = (
        (0.5 + np.linspace(0, 0.3, 40)[:, None] + rng.normal(scale=0.1, size=(40, 40))).clip(0, 1).astype(np.float32)
    )
    noise = {"channels": (8, 8), "input": {"type": "noise", "depth": 8}}
    found = dipfast.restore(noisy, sigma=25.5, generator=noise, fit={"steps": 60, "precision": "fp32"})
    assert not found.generator.card.frozen
    assert found.generator.card.refine is None
    assert psnr(found.generator.render()[..., None], found.image[..., None]) > 30


@pytest.mark.parametrize(
    "refinement",
    [
        {},
        {"settings": {"patch": 1}, "noise": {"type": "gaussian"}},
        {"settings": {}, "noise": {"type": "gaussian", "clipped": True, "std": [], "lower": [0], "upper": [1]}},
        {"settings": {}, "noise": {"type": "poisson", "peak": "many", "low": [0], "width": [1]}},
        7,
    ],
)
def test_a_refinement_that_no_fit_stores_is_one_line(
    restored: tuple[np.ndarray, np.ndarray, Any], refinement: Any
) -> None:
    generator = restored[2].generator
    changed = replace(generator, card=replace(generator.card, refine=refinement))
    with pytest.raises(UsageError, match="the generator's refinement cannot be read") as caught:
        changed.picture(np.zeros((3, *generator.card.padded), np.float32))
    assert "\n" not in str(caught.value)


def test_a_picture_in_a_range_of_its_own_comes_back_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    dim = (0.02 * rng.random((5, 6)).repeat(8, 0).repeat(8, 1) + rng.normal(scale=0.002, size=(40, 48)) + 0.01).clip(
        0, 1
    )
    found = dipfast.restore(dim.astype(np.float32), sigma=0.5, preset="fast", fit={"steps": 10, "precision": "fp32"})
    assert found.generator.card.ranged
    assert np.array_equal(found.generator.render(), found.image)


def test_uncertainty_is_that_of_the_refined_picture(restored: tuple[np.ndarray, np.ndarray, Any]) -> None:
    clean, _, found = restored
    error = float(np.sqrt(np.mean((found.image - clean) ** 2)))
    assert found.uncertainty is not None
    assert 0.5 < error / float(np.sqrt(np.mean(found.uncertainty**2))) < 2


def test_unknown_keys_of_windows_are_refused() -> None:
    with pytest.raises(UsageError, match=r"windows: unknown key 'size'; did you mean 'side'"):
        dipfast.restore(np.zeros((32, 32), np.float32) + np.eye(32, dtype=np.float32), fit={"windows": {"size": 3}})
