"""JPEG's quantisation is estimated from pixels, repeated on another grid, and kept by the result."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from conftest import fit_plan, generator_config, settings_of, task_of
from PIL import Image
from torch import Tensor

from dipfast import tasks
from dipfast.errors import UsageError
from dipfast.fit import fit
from dipfast.manifest import settings_from
from dipfast.restoration.warnings import warnings_of
from dipfast.samples import locate
from dipfast.tasks.coding import LUMA, CodedSquare, Coding, dct, inverse_dct, tables
from dipfast.tasks.jpeg import chroma_is_halved, quantisation_of

CORNER = torch.zeros(2, dtype=torch.int64)


def photograph(gray: bool = False) -> np.ndarray:  # [H, W, C] uint8
    picture = Image.open(locate("sample:chelsea")).convert("L" if gray else "RGB").crop((100, 60, 228, 172))
    return np.asarray(picture).reshape(112, 128, -1)


def coded(pixels: np.ndarray, quality: int, **options: int) -> Tensor:  # [1, C, H, W]
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(buffer, "JPEG", quality=quality, **options)
    return tensor(np.asarray(Image.open(buffer)).reshape(pixels.shape))


def tensor(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels.transpose(2, 0, 1).astype(np.float32) / 255)[None]


def posed(picture: Tensor, **task: object) -> tasks.Problem:
    return tasks.pose(task_of({"type": "jpeg", **task}), picture[0].numpy())


def test_the_tables_are_those_that_libjpeg_writes():
    for quality in (1, 10, 49, 50, 75, 100):
        buffer = io.BytesIO()
        Image.fromarray(photograph()).save(buffer, "JPEG", quality=quality)
        written = Image.open(buffer).quantization
        for number, table in enumerate(tables(quality)):
            assert (255 * table).round().int().flatten().tolist() == list(written[number])


@pytest.mark.parametrize("quality", [5, 10, 30, 75, 90])
@pytest.mark.parametrize("gray", [True, False])
def test_the_quality_is_measured_on_the_pixels(quality: int, gray: bool):
    found = quantisation_of(coded(photograph(gray), quality))
    assert found is not None
    assert (found.quality, found.corner) == (quality, (0, 0))


def test_a_cut_moves_the_grid():
    found = quantisation_of(coded(photograph(gray=True), 20)[..., 3:, 6:])
    assert found is not None
    assert (found.quality, found.corner) == (20, (3, 6))


def test_a_picture_that_was_turned_has_its_grid_elsewhere():
    whole = coded(photograph(gray=True)[:109, :123], 15)
    for times in (1, 2, 3):
        found = quantisation_of(torch.rot90(whole, times, (2, 3)))
        assert found is not None
        corners = {1: (-123 % 8, 0), 2: (-109 % 8, -123 % 8), 3: (0, -109 % 8)}
        assert found.corner == corners[times]
        assert abs(found.quality - 15) <= 1  # the table of steps is transposed


@pytest.mark.parametrize("gray", [True, False])
def test_of_a_picture_that_was_saved_again_the_coarse_quality_is_meant(gray: bool):
    pixels = (255 * coded(photograph(gray), 10)).round().to(torch.uint8)[0].permute(1, 2, 0).numpy()
    found = quantisation_of(coded(pixels, 90))
    assert found is not None
    assert 8 <= found.quality <= 12


def test_what_was_never_coded_has_no_quality():
    assert quantisation_of(tensor(photograph())) is None
    assert quantisation_of(torch.zeros(1, 3, 8, 8)) is None
    assert posed(torch.full((1, 1, 4, 5), 0.5)).facts == {"quality": 50, "quality_source": "assumed"}


def test_whether_the_chroma_has_half_the_pixels():
    colours = np.random.default_rng(0).normal(128, 6, (64, 64, 3)).astype(np.uint8)
    assert chroma_is_halved(coded(colours, 95, subsampling=2))
    assert not chroma_is_halved(coded(colours, 95, subsampling=0))


def test_the_transform_is_orthonormal():
    plane = torch.randn(1, 2, 24, 16, dtype=torch.float64)
    coefficients = dct(plane)
    torch.testing.assert_close(coefficients.square().sum(), plane.square().sum())
    torch.testing.assert_close(inverse_dct(coefficients), plane)


@pytest.mark.parametrize("gray", [True, False])
def test_quantised_again_on_its_own_grid_a_picture_is_what_the_codec_makes_of_it(gray: bool):
    pixels = np.tile(photograph(gray).mean(axis=(0, 1), keepdims=True), (64, 48, 1)).astype(np.uint8)
    pixels = (0.8 * pixels + 0.2 * photograph(gray)[:64, :48]).astype(np.uint8)  # far from black and white
    expected = coded(pixels, 30)
    coding = Coding(*tables(30), CORNER, halved=not gray)
    error = (coding.again(tensor(pixels), CORNER) - expected).abs() * 255
    assert error.mean() < (0.3 if gray else 1)  # the codec rounds pixels, and filters chroma by other weights
    other = coding.again(tensor(pixels), torch.tensor([3, 12]))
    assert (other - expected).abs().mean() * 255 > 2 * error.mean()


def test_the_picture_comes_out_within_half_a_step():
    picture = coded(photograph(gray=True), 10)
    problem = posed(picture)
    assert problem.coding is not None
    blurred = torch.nn.functional.avg_pool2d(picture, 9, 1, 4, count_include_pad=False)
    inside = problem.coding.nearest(blurred, picture)
    before, after, wanted = (problem.coding.coefficients(x)[0][:, :, :14, :, :16] for x in (blurred, inside, picture))
    assert ((before - wanted) / problem.coding.steps[0]).abs().max() > 1
    assert ((after - wanted) / problem.coding.steps[0]).abs().max() < 0.501
    torch.testing.assert_close(problem.coding.nearest(picture, picture), picture)


def test_the_truth_is_as_far_as_rounding_leaves_it():
    clean = tensor(photograph(gray=True))
    problem = posed(coded(photograph(gray=True), 30))
    assert 0.8 < float(problem.remaining(clean)) < 1.3
    assert float(problem.remaining(problem.target)) < 0.01
    assert float(posed(torch.full((1, 1, 32, 32), 128 / 255)).remaining(torch.zeros(1, 1, 32, 32))) == torch.inf


def test_nothing_is_held_to_a_quality_that_was_assumed():
    problem = posed(tensor(photograph()))
    black = torch.zeros_like(problem.guide)
    assert problem.facts["quality_source"] == "assumed"
    assert torch.equal(problem.finish(black), black)
    with pytest.raises(UsageError, match=r"give task\.quality"):
        fit(problem, generator_config(), fit_plan(steps=1, stop={"type": "discrepancy"}))
    (text,) = warnings_of(settings_of({"generator": {"input": {"type": "image"}}}), problem.facts)
    assert text == (
        "no JPEG quantisation was found in the pixels, so quality 50 was assumed; task.quality says another"
    )


def test_a_coarse_coefficient_counts_less():
    coding = Coding(*tables(50), CORNER, halved=False)
    flat = torch.full((1, 1, 16, 16), 0.5)
    losses = []
    for row, column in ((0, 1), (7, 7)):
        waves = torch.zeros(1, 1, 2, 8, 2, 8)
        waves[..., row, :, column] = 0.1
        losses.append(float(CodedSquare(coding)(flat + inverse_dct(waves), flat)))
    assert losses[0] / losses[1] == pytest.approx(LUMA[7][7] / LUMA[0][1], rel=0.15)  # reflected pixels count twice


def test_a_fit_of_a_compressed_picture_repeats_and_comes_nearer_to_the_truth():
    pixels = photograph()[:64, :64]
    problem, clean = posed(coded(pixels, 10)), tensor(pixels)
    config = generator_config(
        channels=[16] * 3, skip_channels=4, upsample="nearest", input={"type": "image", "recompress": True}
    )
    plan = fit_plan(steps=60, optimizer={"type": "muon", "lr": 0.04}, average="auto", stop="auto")
    first, again = (fit(problem, config, plan) for _ in range(2))
    assert torch.equal(first.image, again.image)
    assert first.stop.type == "discrepancy"
    before, after = ((x - clean).square().mean() for x in (problem.target, first.image))
    assert after < 0.9 * before


def test_recompress_needs_a_quality():
    config = generator_config(input={"type": "image", "recompress": True})
    with pytest.raises(UsageError, match="needs task jpeg of some quality"):
        fit(posed(torch.zeros(1, 3, 32, 32), quality=None), config, fit_plan(steps=1))


@pytest.mark.parametrize("task", [{"type": "denoise"}, {"type": "jpeg", "quality": None}])
def test_a_manifest_that_recompresses_what_has_no_quality_is_refused(task: dict[str, object]):
    given = {"generator": {"input": {"type": "image", "recompress": True}}}
    with pytest.raises(UsageError, match=r"generator\.input\.recompress: should be null"):
        settings_from(task, "fast", given)


def test_the_paper_compares_pixels():
    assert settings_from({"type": "jpeg"}, "paper", {}).task.quality is None
    assert settings_from({"type": "jpeg"}, "fast", {}).generator.input.recompress is True
    assert settings_from({"type": "jpeg", "quality": None}, "fast", {}).generator.input.type == "noise"
