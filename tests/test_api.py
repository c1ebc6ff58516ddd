"""The Python face: arrays in, arrays out, and what a wrong argument is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

import dipfast
from dipfast.errors import ItemError, MachineError, UsageError
from dipfast.image import Source, write

TINY: dict[str, Any] = {"channels": [8, 8], "input": {"type": "noise", "depth": 4}}
QUICK: dict[str, Any] = {"generator": TINY, "steps": 4, "seeds": 1, "precision": "fp32", "device": "cpu"}


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 2), (20, 30, 3), (20, 30, 4)])
def test_an_array_comes_back_in_its_dtype_and_shape(dtype: Any, shape: tuple[int, ...]) -> None:
    top = 1 if np.issubdtype(dtype, np.floating) else np.iinfo(dtype).max
    array = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    image = dipfast.restore(array, sigma=25, **QUICK).image
    assert (image.dtype, image.shape) == (array.dtype, array.shape)
    if shape[-1] in (2, 4):
        assert np.array_equal(image[..., -1], array[..., -1])


def test_the_same_seed_gives_the_same_bits_and_another_does_not(picture: np.ndarray) -> None:
    array = picture.transpose(1, 2, 0)
    one, two, other = (dipfast.restore(array, seed=seed, sigma=25, **QUICK).image for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_known_pixels_come_back_exactly(picture: np.ndarray) -> None:
    array = (picture.transpose(1, 2, 0) * 255).astype(np.uint8)
    mask = np.full(array.shape[:2], 255, np.uint8)
    mask[8:12] = 0
    image = dipfast.restore(array, "inpaint", mask=mask, **QUICK).image
    assert np.array_equal(image[mask > 0], array[mask > 0])


@pytest.mark.parametrize("task", ["inpaint", {"type": "inpaint", "known": "black"}])
def test_a_mask_may_be_bool(task: Any, picture: np.ndarray) -> None:
    array = (picture.transpose(1, 2, 0) * 255).astype(np.uint8)
    mask = np.zeros(array.shape[:2], bool)
    mask[8:12] = True
    kept = mask if task == "inpaint" else ~mask
    image = dipfast.restore(array, task, mask=mask, **QUICK).image
    assert np.array_equal(image[kept], array[kept])
    assert not np.array_equal(image[~kept], array[~kept])


def test_a_tasks_own_mask_is_found_beside_the_image(picture: np.ndarray, tmp_path: Path) -> None:
    mask = np.ones((1, 32, 32), np.float32)
    mask[:, 8:12] = 0
    write(tmp_path / "a.png", picture, Source("png", "rgb", 8))
    write(tmp_path / "a_mask{}.png", mask, Source("png", "gray", 8))
    path = tmp_path / "a.png"
    by_task = dipfast.restore(path, {"type": "inpaint", "mask": f"{tmp_path}/{{stem}}_mask{{{{}}}}.png"}, **QUICK)
    by_path = dipfast.restore(path, "inpaint", mask=tmp_path / "a_mask{}.png", **QUICK)
    by_array = dipfast.restore(path, "inpaint", mask=mask[0], **QUICK)
    assert np.array_equal(by_task.image, by_array.image)
    assert by_task.record["id"] == by_path.record["id"] == by_array.record["id"]


def test_damage_makes_its_own_mask(picture: np.ndarray) -> None:
    result = dipfast.restore(picture.transpose(1, 2, 0), "inpaint", degrade={"type": "missing"}, **QUICK)
    assert 0.3 < result.record["facts"]["unknown_fraction"] < 0.7
    assert result.record["metrics"]["psnr"] > 0


def test_a_reference_is_measured_against_and_changes_no_pixel(picture: np.ndarray, tmp_path: Path) -> None:
    array = picture.transpose(1, 2, 0)
    noisy = (array + np.random.default_rng(0).normal(scale=0.1, size=array.shape)).clip(0, 1)
    write(tmp_path / "clean.tif", picture, Source("tiff", "rgb", 32))
    results = [dipfast.restore(noisy, sigma=25, reference=truth, **QUICK) for truth in (None, array, noisy)]
    by_path = dipfast.restore(noisy, sigma=25, reference=tmp_path / "clean.tif", **QUICK)
    assert results[0].record["metrics"] == {}
    assert results[1].record["metrics"] == by_path.record["metrics"]
    assert results[1].record["metrics"]["psnr"] > 5
    assert results[1].record["metrics"] != results[2].record["metrics"]
    assert len({result.record["id"] for result in results}) == 1
    assert np.array_equal(results[0].image, results[1].image)


def test_a_reference_of_another_size_is_refused(picture: np.ndarray) -> None:
    with pytest.raises(ItemError, match="reference should be 32×32"):
        dipfast.restore(picture.transpose(1, 2, 0), reference=np.zeros((31, 32, 3), np.uint8), **QUICK)


def test_a_sample_can_be_named() -> None:
    limits = {"max_pixels": 10}
    with pytest.raises(ItemError, match="pixels"):
        dipfast.restore("sample:camera", input=limits, **QUICK)


def test_nothing_but_an_image_is_a_balanced_denoise(picture: np.ndarray) -> None:
    record = dipfast.restore(picture.transpose(1, 2, 0), None, preset=None, **QUICK).record
    assert (record["settings"]["task"]["type"], record["settings"]["preset"]) == ("denoise", "balanced")


def test_super_resolution_enlarges(picture: np.ndarray) -> None:
    image = dipfast.restore(picture.transpose(1, 2, 0)[:9, :7], "superres", scale=3, **QUICK).image
    assert image.shape == (27, 21, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40, 3), (7, 5), (65, 33, 3)])
def test_any_size_can_be_restored(shape: tuple[int, ...]) -> None:
    array = np.full(shape, 0.5, np.float32)
    assert dipfast.restore(array, sigma=5, **QUICK).image.shape == shape


def test_the_generator_renders_what_the_fit_rendered(picture: np.ndarray, tmp_path: Path) -> None:
    result = dipfast.restore(picture.transpose(1, 2, 0), **QUICK | {"steps": 0, "seeds": 1, "refine": None})
    np.testing.assert_array_equal(result.generator.render(), result.image)


def test_a_generator_of_a_run_can_be_loaded(picture: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.png", picture[:, :20], Source("png", "rgb", 8))
    sets = (
        "generator.channels=[8, 8]",
        "generator.input.type=noise",
        "generator.input.depth=4",
        "fit.steps=3",
        "fit.precision=fp32",
    )
    result = dipfast.run(tmp_path / "in", tmp_path / "run", workers=1, sets=sets)
    assert result.exit_code == 0
    assert (tmp_path / "run" / "report.html").is_file()
    record = result.rows[0].record
    assert record is not None
    generator = dipfast.load(tmp_path / "run" / record["generator"]["path"])
    assert generator.render().shape == (20, 32, 3)
    assert np.array_equal(generator.render(), generator.render())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stepz": 3}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"sigma": -3}, "sigma"),
        ({"task": "denoize"}, "denoise"),
        ({"task": "jpeg", "sigma": 5}, "sigma belongs to task denoise"),
        ({"task": "inpaint"}, "mask"),
        ({"mask": np.zeros((32, 32), np.uint8)}, "mask belongs to task inpaint"),
        ({"task": "superres"}, "scale"),
        ({"preset": "slow"}, "slow"),
        ({"task": {"noise": "poisson"}, "sigma": 5}, "sigma"),
        ({"task": {"noise": "gausian"}}, "did you mean 'gaussian'"),
        ({"image": None}, "image: an image must be a numpy array"),
        ({"task": {"sigma": 5}}, "sigma"),
        ({"task": 3}, "task: should be a mapping"),
        ({"task": {"noise": {"type": "poisson", "peak": 3}}, "sigma": 5}, "sigma"),
        ({"noise": {"type": "poisson", "peak": 3}, "sigma": 5}, "sigma"),
        ({"sigma": [1]}, "sigma"),
        ({"task": "inpaint", "mask": np.zeros((2, 3, 4, 5), np.uint8)}, "mask: an image array must be"),
        ({"reference": np.zeros((2, 3, 4, 5), np.uint8)}, "reference: an image array must be"),
        ({"reference": [1, 2]}, "reference"),
        ({"task": "inpaint", "mask": np.ones((32, 32), bool), "degrade": {"type": "missing"}}, "left out"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], message: str, picture: np.ndarray) -> None:
    with pytest.raises(UsageError, match=message):
        dipfast.restore(**{"image": picture.transpose(1, 2, 0)} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": -1}, "workers should be at least 1, is -1"),
        ({"cohort": 0}, "cohort should be at least 1, is 0"),
        ({"resume": "yes"}, "resume should be auto or never or failed, is 'yes'"),
        ({"executor": "slurm"}, "executor should be local or ray, is 'slurm'"),
        ({"shard": (0, 2)}, r"shard should be \(I, N\) with I from 1 to N, is \(0, 2\)"),
    ],
)
def test_a_wrong_option_of_a_run_is_named(
    arguments: dict[str, Any], message: str, inputs: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        dipfast.run(inputs, tmp_path / "run", **arguments)


def test_an_engine_that_is_not_here_is_an_error(picture: np.ndarray) -> None:
    with pytest.raises(MachineError, match=r"fit\.engine is cudagraph"):
        dipfast.restore(picture.transpose(1, 2, 0), engine="cudagraph")


def test_the_record_says_what_was_asked_and_what_ran(picture: np.ndarray) -> None:
    record = dipfast.restore(picture.transpose(1, 2, 0), sigma="auto", seed=7, **QUICK).record
    assert record["seed"] == 7
    assert record["ran"]["engine"] == "eager"
    assert record["facts"]["sigma_source"] == "estimated"
    assert record["seconds"]["total"] > 0


def test_restore_asks_about_a_sigma_that_may_be_a_share_of_the_range(picture: np.ndarray) -> None:
    net = {"channels": [8], "skip_channels": 2, "input": {"depth": 2}}
    with pytest.warns(UserWarning, match=r"task.noise.sigma is 0.1 of 255.*is 25.5 meant\?"):
        dipfast.restore(picture[0], sigma=0.1, preset="paper", steps=1, generator=net, device="cpu")


def test_restore_chooses_the_task_of_a_file(tmp_path: Path, picture: np.ndarray) -> None:
    net = {"channels": [8], "skip_channels": 2, "input": {"type": "noise", "depth": 2}}
    pixels = np.ascontiguousarray((255 * picture).astype(np.uint8).transpose(1, 2, 0))
    PIL.Image.fromarray(pixels).save(tmp_path / "old.jpg", quality=10)
    tasks = [
        dipfast.restore(tmp_path / "old.jpg", "auto", steps=1, generator=net, device="cpu", **given).record["settings"]
        for given in ({}, {"scale": 2})
    ]
    assert [settings["task"]["type"] for settings in tasks] == ["jpeg", "superres"]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1), (20, 30, 3), (20, 30, 4)])
def test_strength_0_returns_the_array_and_1_what_none_given_returns(dtype: Any, shape: tuple[int, ...]) -> None:
    top = 1 if dtype == np.float32 else np.iinfo(dtype).max
    array = (np.random.default_rng(0).random(shape) * top).astype(dtype)
    if shape[-1] == 4:
        array[:9, :, 3] = 0  # colours that alpha hides
    none, whole, default = (
        dipfast.restore(array, sigma=25, **QUICK, **strength).image
        for strength in ({"strength": 0}, {"strength": 1.0}, {})
    )
    assert np.array_equal(none, array)
    assert np.array_equal(whole, default) and not np.array_equal(default, array)


@pytest.mark.parametrize("strength", [0.7, np.float64(0.7)])
def test_a_share_of_the_change_is_applied_recorded_and_part_of_the_id(strength: Any, picture: np.ndarray) -> None:
    array = picture.transpose(1, 2, 0)
    whole, part = (dipfast.restore(array, sigma=25, strength=share, **QUICK) for share in (None, strength))
    np.testing.assert_allclose(part.image, array + 0.7 * (whole.image - array), atol=1e-6)
    assert part.record["settings"]["output"]["strength"] == part.record["output"]["strength"] == 0.7
    assert part.record["id"] != whole.record["id"] and "output" not in whole.record
    assert np.array_equal(part.generator.render(), whole.generator.render())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strength": 1.5}, "restore(): strength: should be at most 1, is 1.5"),
        ({"strength": -0.1}, "restore(): strength: should be at least 0, is -0.1"),
        ({"strength": float("nan")}, "restore(): strength: should be a finite number, is nan"),
        ({"strength": "high"}, "restore(): strength: should be a number, is 'high'"),
        ({"strength": True}, "restore(): strength: should be a number, is true"),
        (
            {"strength": 0.5, "task": "superres", "scale": 2},
            "restore(): strength: should be 1 for task superres, whose answer has another size, is 0.5",
        ),
    ],
)
def test_a_wrong_strength_is_one_line(given: dict[str, Any], message: str, picture: np.ndarray) -> None:
    with pytest.raises(UsageError) as error:
        dipfast.restore(picture.transpose(1, 2, 0), **given)
    assert str(error.value) == message


def test_holes_are_filled_and_known_pixels_kept_at_any_strength(picture: np.ndarray) -> None:
    array = picture.transpose(1, 2, 0)
    mask = np.ones(array.shape[:2], bool)
    mask[8:12] = False
    none, whole = (dipfast.restore(array, "inpaint", mask=mask, strength=share, **QUICK).image for share in (0, 1))
    assert np.array_equal(none, whole) and np.array_equal(none[mask], array[mask])


def test_the_uncertainty_is_that_of_the_picture_returned() -> None:
    rng = np.random.default_rng(0)
    array = (0.5 + 0.1 * rng.normal(size=(64, 64, 3))).clip(0, 1).astype(np.float32)
    maps = [
        dipfast.restore(array, sigma=25.5, strength=share, preset="fast", steps=2).uncertainty for share in (0, 0.5, 1)
    ]
    none, half, whole = (np.asarray(one) for one in maps)
    np.testing.assert_allclose(none, 0.1, rtol=0.02)
    np.testing.assert_allclose(half**2, whole**2 + (0.1**2 - whole**2) / 4, rtol=0.05)
