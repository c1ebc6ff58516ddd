"""Stop criteria: which task can have which, what `auto` takes, and the blocks of a codec."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, latent_of, stop_of, task_of
from PIL import Image
from torch import Tensor

from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import fit
from dipfast.fit.stop import choose_stop, make_stop
from dipfast.fit.stop.criterion import Valley
from dipfast.fit.stop.residual import TAKEN_UP
from dipfast.manifest import settings_from
from dipfast.settings.fit import Fit
from dipfast.settings.stop import BlocksStop, DiscrepancyStop, EmaVarianceStop, FixedStop, HeldOutStop, Stop, ValleyStop
from dipfast.tasks.coding import LINES_AROUND, border_strength, first_border

NOISE, IMAGE, BLIND = map(latent_of, ({"type": "noise"}, {"type": "image"}, {"type": "image", "blind": 0.1}))
BLOCKS, DISCREPANCY, FIXED, STILLEST = BlocksStop(), DiscrepancyStop(), FixedStop(), EmaVarianceStop()
TASKS: dict[str, dict[str, Any]] = {
    "gaussian": {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}},
    "estimated": {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}},
    "poisson": {"type": "denoise", "noise": {"type": "poisson", "peak": 30.0}},
    "salt-pepper": {"type": "denoise", "noise": {"type": "salt-pepper"}},
    "jpeg": {"type": "jpeg", "quality": 30},
    "jpeg, by pixels": {"type": "jpeg", "quality": None},
    "inpaint": {"type": "inpaint", "known": "white", "keep_known": True},
    "superres": {"type": "superres", "scale": 4, "kernel": "lanczos2"},
}
SEEING = {"input": {"type": "image", "blind": None, "recorrupt": None}}
NOT_SEEING = {"input": {"type": "noise"}}
JPEGS = {"jpeg", "jpeg, by pixels"}
NOISY = {"gaussian", "estimated", "poisson"}
FITS = {  # criterion: the tasks that can have it
    "auto": set(TASKS),
    "fixed": set(TASKS),
    "ema-variance": set(TASKS),
    "windowed-variance": set(TASKS),
    "held-out": set(TASKS) - JPEGS,
    "sure": NOISY,
    "discrepancy": NOISY | {"jpeg"},
    "blocks": JPEGS,
}
NEEDS = {
    "held-out": "held-out needs a task whose pixels err each for itself, is task jpeg",
    "sure": "sure needs task denoise with gaussian or poisson noise, is task",
    "discrepancy": "discrepancy needs task denoise with gaussian or poisson noise, or jpeg of some quality, is task",
    "blocks": "blocks needs task jpeg, is task",
}


def problem_of(name: str, observed: np.ndarray | None = None) -> tasks.Problem:
    if observed is None:
        observed = 0.5 + np.random.default_rng(0).normal(scale=0.1, size=(3, 32, 32)).astype(np.float32)
    known = np.arange(32 * 32).reshape(1, 32, 32) % 2 == 0
    return tasks.pose(task_of(TASKS[name]), observed, known if name == "inpaint" else None)


def settings(task: str, stop: str) -> Any:
    generator = SEEING if stop == "sure" else NOT_SEEING if stop == "held-out" else {}
    return settings_from(TASKS[task], "fast", {"stop": stop, "generator": generator})


def test_every_criterion_of_the_manifest_is_in_the_table() -> None:
    assert {part.model_fields["type"].annotation.__args__[0] for part in Stop.__args__[0].__args__} == set(FITS)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("stop", FITS)
def test_a_criterion_is_taken_by_the_tasks_that_can_have_it_and_refused_elsewhere(task: str, stop: str) -> None:
    if task not in FITS[stop]:
        with pytest.raises(UsageError, match=NEEDS[stop]):
            settings(task, stop)
        if stop != "auto":
            config = stop_of({"type": stop})
            with pytest.raises(UsageError, match=f"fit.stop is {stop}"):
                make_stop(config, torch.zeros(1, 3, 32, 32), problem_of(task), 9, IMAGE if stop == "sure" else NOISE)
        return
    found = settings(task, stop).fit.stop
    assert found.type == stop
    problem = problem_of(task)
    chosen = choose_stop(fit_plan(stop=found), problem, NOISE).stop
    criterion = make_stop(chosen, torch.zeros(1, *problem.shape), problem, 9, IMAGE if stop == "sure" else NOISE)
    criterion.reset(0)
    picture = problem.guide.clone()
    criterion.update(torch.tensor(0), picture, picture, torch.tensor(1.0))
    assert criterion.why()


@pytest.mark.parametrize("task", ["inpaint", "superres"])
def test_what_a_latent_shows_cannot_be_held_out(task: str) -> None:
    with pytest.raises(UsageError, match=r"held-out needs generator\.input\.type noise, or blind spots, is image"):
        settings_from(TASKS[task], "fast", {"stop": "held-out"})
    with pytest.raises(UsageError, match="image shows what is held out"):
        make_stop(HeldOutStop(), torch.zeros(1, 3, 32, 32), problem_of(task), 9, IMAGE)


@pytest.mark.parametrize(
    ("task", "expected", "because"),
    [
        ("gaussian", DISCREPANCY, "sigma is given: 25"),
        ("estimated", DISCREPANCY, "sigma is estimated: 2"),
        ("poisson", DISCREPANCY, "photon noise of peak 30"),
        ("salt-pepper", FIXED, "the task knows no noise level"),
        ("jpeg, by pixels", BLOCKS, "a codec worked in blocks of 8"),
        ("jpeg", DISCREPANCY, "JPEG's quality is given: 30"),
        ("inpaint", FIXED, "the task knows no noise level"),
        ("superres", FIXED, "the task knows no noise level"),
    ],
)
def test_auto_takes_what_suits_the_task_and_says_why(task: str, expected: Stop, because: str) -> None:
    choice = choose_stop(fit_plan(stop="auto"), problem_of(task), NOISE)
    assert choice.stop == expected and choice.because is not None and choice.because.startswith(because)
    result = fit(problem_of(task), generator_config(), fit_plan(steps=2, stop="auto"))
    assert result.stop == expected
    assert result.why.startswith(f"{expected.type}, for {because}")


def test_auto_takes_all_steps_where_no_noise_is_found_and_where_samples_are_drawn() -> None:
    flat = problem_of("estimated", np.full((3, 32, 32), 0.5, np.float32))
    assert choose_stop(fit_plan(stop="auto"), flat, NOISE).because == "no noise was found"
    chain = fit_plan(stop="auto", optimizer={"type": "sgld"}, posterior={"burn_in": 5, "every": 5})
    assert choose_stop(chain, problem_of("gaussian"), NOISE).stop == FIXED


def test_auto_takes_the_stillest_picture_of_a_network_with_blind_spots() -> None:
    choice = choose_stop(fit_plan(stop="auto"), problem_of("gaussian"), BLIND)
    assert choice.stop == STILLEST
    config = generator_config(input={"type": "image", "blind": 0.1})
    assert fit(problem_of("gaussian"), config, fit_plan(steps=2, stop="auto")).stop == STILLEST


def test_auto_can_be_said_in_one_word_and_is_the_default() -> None:
    assert Fit.model_validate({"stop": "auto"}) == Fit()
    assert settings_from(TASKS["jpeg"], "balanced", {}).fit.stop.type == "auto"
    with pytest.raises(UsageError, match=r"sure needs generator\.input\.type image, is noise"):
        settings_from(TASKS["estimated"], "fast", {"stop": "sure", "generator": {"input": {"type": "noise"}}})
    with pytest.raises(UsageError, match=r"sure needs fit\.seeds 1, is 4"):
        settings_from(TASKS["gaussian"], "balanced", {"stop": "sure", "generator": SEEING, "seeds": 4})


@pytest.mark.parametrize("channels", [1, 3])
def test_the_automatic_factor_leaves_the_channels_their_share_of_the_noise(channels: int) -> None:
    picture = np.full((channels, 16, 16), 0.5, np.float32)
    stop = make_stop(DISCREPANCY, torch.zeros(1, channels, 16, 16), problem_of("gaussian", picture), 9, NOISE)
    assert stop.factor == 1 - TAKEN_UP / channels


def compressed(left: int = 0) -> Tensor:  # [1, 1, 96, 96]
    """A smooth scene as JPEG leaves it, with ``left`` columns cut off afterwards."""
    y, x = np.mgrid[0:96, 0 : 96 + left] / 96
    scene = 0.5 + 0.3 * np.sin(9 * x + 4 * y) * np.cos(7 * y * x)
    file = io.BytesIO()
    Image.fromarray((255 * scene).round().astype(np.uint8)).save(file, "JPEG", quality=10)
    return torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255)[None, None, :, left:]


@pytest.mark.parametrize("left", [0, 1, 5])
def test_the_grid_is_found_where_it_is(left: int) -> None:
    assert first_border(border_strength(compressed(left), 3), 8) == (7 - left - LINES_AROUND) % 8
    assert first_border(border_strength(compressed(left), 2), 8) == 7 - LINES_AROUND


def test_blocks_stop_when_the_picture_shows_them() -> None:
    y, x = np.mgrid[0:96, 0:96] / 96
    scene = torch.from_numpy(0.5 + 0.3 * np.sin(9 * x + 4 * y) * np.cos(7 * y * x)).float()[None, None]
    problem = tasks.pose(task_of({"type": "jpeg"}), compressed()[0].numpy())
    stop = make_stop(BLOCKS, torch.zeros_like(scene), problem, 20, NOISE)
    stop.reset(0)
    for step in range(20):
        picture = torch.lerp(scene, problem.target, step / 10)
        stop.update(torch.tensor(step), picture, picture, torch.tensor(0.0))
    assert bool(stop.done) and 1 <= int(stop.best_step) <= 9
    torch.testing.assert_close(stop.best, torch.lerp(scene, problem.target, int(stop.best_step) / 10))
    assert "jumps at the borders of blocks are 1." in stop.why()


def test_the_next_picture_of_a_bucket_has_its_own_grid() -> None:
    problem = tasks.pose(task_of({"type": "jpeg"}), compressed()[0].numpy())
    stop = make_stop(BLOCKS, torch.zeros_like(problem.target), problem, 20, NOISE)
    stop.reset(0)
    problem.adopt(tasks.pose(task_of({"type": "jpeg"}), compressed(5)[0].numpy()))
    stop.reset(0)
    assert int(stop.columns[0]) == (2 - LINES_AROUND) % 8 and int(stop.rows[0]) == 7 - LINES_AROUND


def test_an_edge_of_the_scene_on_a_border_is_no_block() -> None:
    y, x = np.mgrid[0:96, 0:96] / 96
    scene = 0.3 + 0.1 * np.sin(9 * x + 4 * y)
    scene[40:] += 0.5
    picture = torch.from_numpy(scene).float()[None, None]
    problem = tasks.pose(task_of({"type": "jpeg"}), compressed()[0].numpy())
    stop = make_stop(BLOCKS, picture, problem, 20, NOISE)
    stop.reset(0)
    stop.update(torch.tensor(0), picture, picture, torch.tensor(0.0))
    assert float(border_strength(picture, 2).max()) > 20 and not bool(stop.done)


def test_a_picture_too_small_for_blocks_takes_all_steps() -> None:
    small = tasks.pose(task_of(TASKS["jpeg, by pixels"]), np.zeros((1, 8, 40), np.float32))
    assert choose_stop(fit_plan(stop="auto"), small, NOISE).stop == FIXED
    with pytest.raises(UsageError, match="needs a picture of two blocks a side, has 40×8"):
        make_stop(BLOCKS, small.guide, small, 20, NOISE)


def test_a_blind_network_stops_by_what_it_said_where_it_was_blind() -> None:
    problem = problem_of("gaussian")
    picture = (problem.guide + 0.3).clamp(0, 1)  # far from the target
    noise = float(problem.expected_residual(picture))  # type: ignore[misc]
    for config, blind, done in (
        (DISCREPANCY, 0.1, True),
        (DISCREPANCY, None, False),
        (DiscrepancyStop(factor=0.9), 0.1, False),
    ):
        stop = make_stop(
            config, torch.zeros_like(problem.guide), problem, 9, latent_of({"type": "image", "blind": blind})
        )
        stop.reset(0)
        stop.update(torch.tensor(0), picture, picture, torch.tensor(0.1 * noise * 1.2))
        assert not bool(stop.done)
        for step in range(1, 20):
            stop.update(torch.tensor(step), picture, picture, torch.tensor(0.1 * noise * 0.5))
        assert bool(stop.done) is done


def test_a_fit_too_short_for_a_minimum_says_so() -> None:
    problem = problem_of("gaussian")
    stop = make_stop(STILLEST, torch.zeros_like(problem.guide), problem, 3, BLIND)
    stop.reset(0)
    stop.update(torch.tensor(0), problem.guide, problem.guide, torch.tensor(1.0))
    assert stop.why() == "all steps taken; the outputs' moving variance had no minimum yet"


class Told(Valley):
    """A criterion that is told its value."""

    def told(self, values: list[float]) -> None:
        for step, value in enumerate(values):
            self.value.fill_(value)
            self._descend(torch.tensor(step), torch.full_like(self.best, value))


@pytest.mark.parametrize(("falling", "lowest"), [(0.9, 2.0), (0.0, 5.0)])
def test_a_fit_that_jumped_is_waited_for_while_its_variance_falls_again(falling: float, lowest: float) -> None:
    stop = Told(torch.zeros(1, 1, 2, 2), ValleyStop(patience=0.2, min_steps=10))
    stop.falling = falling
    stop.reset(0)
    before, jumped, after = np.linspace(20, 5, 20), np.linspace(30, 2, 60), np.linspace(2, 9, 60)
    stop.told([*before, *jumped, *after])
    assert bool(stop.done)
    assert float(stop.lowest) == float(stop.best.mean()) == lowest
