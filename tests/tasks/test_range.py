"""Pictures that fill little of the full range are fitted in their own range, and returned in the full one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import MANIFEST, TINY, task_of

import dipfast
from dipfast import tasks
from dipfast.cli.app import main
from dipfast.image import Limits, Source, read, write
from dipfast.metrics import psnr
from dipfast.samples import locate
from dipfast.tasks.range import outliers, range_of

RNG = np.random.default_rng(0)
GAUSSIAN: dict[str, Any] = {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}}
QUICK: dict[str, Any] = {"generator": TINY, "steps": 3, "seeds": 1, "precision": "fp32", "device": "cpu"}
POISSON: dict[str, Any] = {"type": "denoise", "noise": {"type": "poisson", "peak": 1000.0}}
SALTED: dict[str, Any] = {"type": "denoise", "noise": {"type": "salt-pepper"}}
SUPERRES: dict[str, Any] = {"type": "superres", "scale": 2, "kernel": "lanczos2", "keep_given": False}
INPAINT: dict[str, Any] = {"type": "inpaint", "known": "white", "keep_known": True}
TASKS = [GAUSSIAN, POISSON, SALTED, SUPERRES, INPAINT, {"type": "jpeg"}, {"type": "jpeg", "quality": None}]


def camera(side: int = 96) -> np.ndarray:
    """Return a crop of a photograph that fills the unit range, [1, side, side] float32."""
    crop = read(locate("sample:camera"), Limits()).pixels[:, 100 : 100 + side, 150 : 150 + side]
    return (crop - crop.min()) / np.ptp(crop)


def noisy(clean: np.ndarray, deviation: float = 0.08) -> np.ndarray:
    return (clean + deviation * RNG.standard_normal(clean.shape)).astype(np.float32)


def dim(unit: np.ndarray, low: float = 100 / 65535, width: float = 1000 / 65535) -> np.ndarray:
    return (low + width * unit).clip(0, 1).astype(np.float32)


def posed(task: dict[str, Any], observed: np.ndarray) -> tasks.Problem:
    known = None
    if task["type"] == "inpaint":
        known = np.ones((1, *observed.shape[1:]), bool)
        known[:, 20:24] = False
    return tasks.pose(task_of(task), observed, known)


def test_a_picture_that_fills_half_of_the_range_is_fitted_as_it_is() -> None:
    assert range_of(noisy(camera()).clip(0, 1)).is_whole
    assert tasks.pose(task_of(GAUSSIAN), noisy(camera()).clip(0, 1)).range.is_whole


@pytest.mark.parametrize("value", [0.0, 0.003, 1.0])
def test_a_constant_picture_has_no_range_and_comes_back(value: float) -> None:
    flat = np.full((16, 16, 3), value, np.float32)
    assert range_of(flat.transpose(2, 0, 1)).is_whole
    assert np.array_equal(dipfast.restore(flat, **QUICK).image, flat)


@pytest.mark.parametrize("deviation", [0.0, 0.08, 0.3])
def test_the_range_holds_the_clean_picture(deviation: float) -> None:
    found = range_of(dim(noisy(camera(), deviation)))
    unit = found.of_full(torch.from_numpy(dim(camera()))[None])
    assert float(unit.quantile(0.002)) >= 0 and float(unit.quantile(0.998)) <= 1
    assert float(unit.max() - unit.min()) > 0.3


def test_a_drawing_of_a_few_lines_keeps_its_ink() -> None:
    page = np.full((1, 64, 64), 0.2, np.float32)
    page[0, 32, 10:40] = 0.1
    found = range_of(page)
    assert float(found.low) == pytest.approx(0.1)


@pytest.mark.parametrize("hot", [1.0, 0.5])
def test_a_hot_pixel_stretches_nothing_and_is_kept(hot: float) -> None:
    observed = dim(noisy(camera()))
    plain = range_of(observed)
    observed[0, 40, 50] = hot
    found = range_of(observed)
    assert float(found.width) == pytest.approx(float(plain.width), rel=0.1)
    assert np.argwhere(outliers(observed, found)).tolist() == [[0, 40, 50]]
    restored = dipfast.restore(observed[0], **QUICK)
    assert restored.image[40, 50] == np.float32(hot)
    assert restored.record["facts"]["outliers_kept"] == 1


def test_a_lamp_in_the_night_is_kept_whole() -> None:
    observed = dim(noisy(camera()), 0.0, 0.02)
    observed[0, 30:33, 30:33] = 0.9
    assert outliers(observed, range_of(observed)).sum() == 9


def test_what_stands_in_a_hole_of_a_dim_picture_is_not_kept() -> None:
    observed = dim(camera(48))[0]
    mask = np.full((48, 48), 255, np.uint8)
    mask[20:24, 10:30] = 0
    image = dipfast.restore(np.where(mask > 0, observed, np.float32(1)), "inpaint", mask=mask, **QUICK).image
    assert image.max() < 0.03
    assert np.array_equal(image[mask > 0], observed[mask > 0])


@pytest.mark.parametrize("deviation", [0.08, 0.3, 0.6])
def test_noise_has_no_outliers(deviation: float) -> None:
    observed = dim(noisy(camera(), deviation), 0.01)
    assert not outliers(observed, range_of(observed)).any()


@pytest.mark.parametrize("deviation", [0.1, 0.4, 0.8])
@pytest.mark.parametrize("scale", [1.0, 0.05])
def test_values_beyond_black_and_white_come_through(deviation: float, scale: float) -> None:
    observed = scale * noisy(np.repeat(camera(), 3, axis=0), deviation)
    task = task_of(
        {"type": "denoise", "noise": {"type": "gaussian", "sigma": 255 * scale * deviation, "clipped": False}}
    )
    problem = tasks.pose(task, observed)
    assert observed.min() < 0 and problem.outlying is None
    if problem.range.is_whole:
        assert np.array_equal(problem.target[0].numpy(), observed)
    else:
        assert np.mean(np.abs(problem.range.to_full(problem.target)[0].numpy() - observed) > 1e-6) < 0.01


def test_no_value_of_a_file_lies_beyond_black_and_white() -> None:
    assert range_of(noisy(camera(), 0.5).clip(0, 1)).past == 0


def test_channels_that_differ_have_ranges_and_noise_of_their_own() -> None:
    unit = np.concatenate([noisy(camera()), noisy(camera(), 0.16), noisy(camera())])
    observed = (unit * np.array([0.9, 0.02, 0.3], np.float32)[:, None, None]).clip(0, 1)
    problem = tasks.pose(task_of(GAUSSIAN), observed)
    assert problem.range.apart
    sigmas = [float(sigma) for sigma in str(problem.facts["sigma_by_channel"]).split(", ")]
    assert sigmas == pytest.approx([255 * 0.08 * 0.9, 255 * 0.16 * 0.02, 255 * 0.08 * 0.3], rel=0.15)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: "-".join(map(str, task.values()))[:30])
def test_every_task_is_posed_in_the_unit_range_and_finished_in_the_full_one(task: dict[str, Any]) -> None:
    observed = dim(np.rint(255 * camera()) / 255)
    problem = posed(task, observed)
    assert float(problem.target.max()) > 0.7
    answer = problem.finish(problem.guide)
    assert answer.shape == problem.guide.shape
    assert float((answer - problem.range.to_full(problem.guide)).abs().max()) < 2e-3 * float(problem.range.width.max())


@pytest.mark.parametrize("task", [GAUSSIAN, POISSON])
def test_the_noise_is_known_in_units_of_the_range(task: dict[str, Any]) -> None:
    clean = dim(camera(128), 0.0, 0.05)
    peak, sigma = 1000.0, 0.004
    noise = RNG.poisson(clean * peak) / peak - clean if task is POISSON else sigma * RNG.standard_normal(clean.shape)
    problem = tasks.pose(task_of(task), (clean + noise).clip(0, 1).astype(np.float32))
    truth = problem.range.of_full(torch.from_numpy(clean)[None])
    assert float(problem.remaining(truth)) == pytest.approx(1, rel=0.12)


def test_a_darker_copy_is_restored_to_a_darker_copy_of_the_same_bits() -> None:
    """A power of two as a factor changes no digit of a float."""
    observed = dim(noisy(camera(32)), 0.0, 2.0**-4)[0]
    light, dark = (dipfast.restore(observed * factor, seed=3, **QUICK).image for factor in (1.0, 2.0**-4))
    assert np.array_equal(light * 2.0**-4, dark)


def test_sixteen_bits_of_a_microscope_get_better_not_worse(tmp_path: Path) -> None:
    clean = camera(64)
    seen = dim(noisy(clean))
    write(tmp_path / "dim.tif", seen, Source("tiff", "gray", 16))
    sets = ("generator.channels=[8,8]", "fit.steps=80", "fit.seeds=1", "fit.precision=fp32")
    small = [word for setting in sets for word in ("--set", setting)]
    assert main(["run", str(tmp_path / "dim.tif"), "-o", str(tmp_path / "out"), "--workers", "1", *small]) == 0
    answer = (read(tmp_path / "out" / "images" / "dim.png").pixels * 65535 - 100) / 1000
    assert psnr(answer, clean) > psnr((seen * 65535 - 100) / 1000, clean) + 3


def test_a_float_picture_with_one_hot_pixel_comes_back_near_itself(tmp_path: Path) -> None:
    values = (1000 * noisy(camera(32), 0.02)).clip(0)
    values[0, 5, 5] = 1e6
    tifffile.imwrite(tmp_path / "a.tif", values[0])
    image = read(tmp_path / "a.tif")
    write(tmp_path / "b.tif", image.pixels, image.source)
    assert np.array_equal(tifffile.imread(tmp_path / "b.tif"), values[0])  # to the bit
    sets = {"output": {"template": "{name}.tif"}, "generator": {"channels": [8, 8]}, "fit": {"steps": 30, "seeds": 1}}
    manifest = dipfast.manifest.load(str(tmp_path / "a.tif"), sets=tuple(_flat(sets)))
    result = dipfast.run(manifest, tmp_path / "run", workers=1)
    assert result.summary["done"] == 1
    answer = tifffile.imread(tmp_path / "run" / "images" / "a.tif")
    assert answer[5, 5] == np.float32(1e6)
    assert np.abs(answer - values[0])[np.abs(values[0]) < 1e5].max() < 1000


def _flat(sets: dict[str, dict[str, Any]]) -> list[str]:
    return [f"{part}.{key}={value}" for part, keys in sets.items() for key, value in keys.items()]


def test_a_float_reference_is_held_against_the_picture_in_its_own_units(tmp_path: Path) -> None:
    clean = 4000 * camera(32)[0]
    tifffile.imwrite(tmp_path / "clean.tif", clean)
    tifffile.imwrite(tmp_path / "a.tif", clean + 9000 * (np.arange(1024).reshape(32, 32) == 7))
    settings = ["--set", "reference=clean.tif", "--set", "output.template={name}.tif", "--set", "fit.steps=0"]
    assert main(["run", str(tmp_path / "a.tif"), "-o", str(tmp_path / "out"), "--workers", "1", *settings]) == 0
    (record,) = (tmp_path / "out" / "records").glob("*.json")
    before = json.loads(record.read_text())["metrics"]["psnr_before"]
    assert before == pytest.approx(-10 * np.log10((9000 / 16384) ** 2 / 1024), abs=0.01)


@pytest.mark.parametrize("latent", [{"type": "image"}, {"type": "noise", "depth": 4}])
def test_a_stored_generator_renders_the_full_range(latent: dict[str, Any]) -> None:
    observed = dim(noisy(camera(32)))[0]
    result = dipfast.restore(observed, **QUICK | {"generator": TINY | {"input": latent}, "steps": 20, "seeds": 2})
    assert result.generator.card.ranged is True
    error = result.generator.render("fp32") - result.image
    assert np.sqrt(np.mean(error**2)) < 0.1 * 1000 / 65535


def test_what_alpha_hides_is_no_part_of_the_fit_and_comes_back(picture: np.ndarray) -> None:
    array = np.dstack([(255 * picture.transpose(1, 2, 0)).astype(np.uint8), np.full((32, 32), 255, np.uint8)])
    array[:12, :, 3], array[12:14, :, 3] = 0, 90
    other = array.copy()
    array[:12, :, :3], other[:12, :, :3] = 0, RNG.integers(0, 256, (12, 32, 3))
    one, two = (dipfast.restore(each, sigma=20, **QUICK).image for each in (array, other))
    assert np.array_equal(one[12:], two[12:])
    assert np.array_equal(one[:12], array[:12]) and np.array_equal(two[:12], other[:12])


def test_premultiplied_colours_stay_as_they_are(tmp_path: Path) -> None:
    array = RNG.integers(1, 256, (16, 16, 4), dtype=np.uint8)
    array[:8] = 0
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", extrasamples=["assocalpha"])
    (tmp_path / "m.yaml").write_text(MANIFEST.format(steps=2).replace("*.png", "a.tif"))
    assert main(["run", str(tmp_path / "m.yaml"), "-o", str(tmp_path / "out"), "--workers", "1"]) == 0


def test_a_channel_of_one_value_comes_back_as_it_was(picture: np.ndarray) -> None:
    array = (255 * picture.transpose(1, 2, 0)).astype(np.uint8)
    array[..., 2] = 7
    image = dipfast.restore(array, sigma=20, **QUICK).image
    assert (image[..., 2] == 7).all() and not np.array_equal(image, array)
