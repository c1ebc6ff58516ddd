"""What a generator's settings say of its shapes."""

from __future__ import annotations

import pytest
from conftest import latent_of

from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.shapes import PER_SCALE, latent_channels, on_grid, padded_side, per_scale


def test_settings_are_one_entry_for_each_scale() -> None:
    generator = SkipGenerator(channels=(8, 16), skip_channels=(0, 4))
    assert dict(zip(PER_SCALE, per_scale(generator), strict=True)) == {
        "channels": (8, 16),
        "up_channels": (8, 16),
        "skip_channels": (0, 4),
        "kernel_down": (3, 3),
        "kernel_up": (3, 3),
        "upsample": ("bilinear", "bilinear"),
    }


@pytest.mark.parametrize(
    ("latent", "channels"),
    [
        ({"type": "noise", "depth": 7}, 7),
        ({"type": "meshgrid"}, 2),
        ({"type": "image"}, 3),
        ({"type": "fourier", "frequencies": 5}, 20),
    ],
)
def test_a_latent_has_its_channels(latent: dict[str, object], channels: int) -> None:
    assert latent_channels(latent_of(latent), 3) == channels


def test_the_grid_has_few_sizes_and_adds_less_than_a_quarter() -> None:
    exact = [padded_side(side, 32, grid=False) for side in range(1, 2049)]
    grown = [padded_side(side, 32, grid=True) for side in range(1, 2049)]
    assert all(one <= other < 1.25 * one for one, other in zip(exact, grown, strict=True))
    assert [side // 32 for side in sorted(set(grown))] == [*range(1, 9), 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64]
    assert len(set(exact)) == 64


@pytest.mark.parametrize("side", [4, 40, 96, 320, 1792])
def test_a_size_of_the_grid_stays(side: int) -> None:
    assert padded_side(padded_side(side, 4, grid=True), 4, grid=True) == padded_side(side, 4, grid=True)


@pytest.mark.parametrize(
    ("shapes", "engine", "expected"),
    [
        ("auto", "auto", False),
        ("auto", "eager", False),
        ("auto", "compile", True),
        ("auto", "cudagraph", True),
        ("exact", "compile", False),
        ("grid", "eager", True),
    ],
)
def test_auto_is_the_grid_where_each_size_costs_a_program(shapes: str, engine: str, expected: bool) -> None:
    assert on_grid(Fit.model_validate({"shapes": shapes, "engine": engine})) is expected
