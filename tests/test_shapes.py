"""What a generator's settings say of its shapes."""

from __future__ import annotations

import pytest

from dipfast.manifest.schema import SkipGenerator
from dipfast.shapes import PER_SCALE, latent_channels, per_scale


def test_settings_are_one_entry_for_each_scale() -> None:
    generator = SkipGenerator(channels=(8, 16), skip_channels=(0, 4)).model_dump(mode="json")
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
    assert latent_channels(latent, 3) == channels
