"""The bench of one picture from file to file, on a tiny fit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from dipfast.bench.image import bench_image

TINY = ("generator.channels=[8,8]", "fit.precision=fp32")


@pytest.fixture
def file(tmp_path: Any) -> str:
    y, x = np.mgrid[0:48, 0:48] / 47
    pixels = np.stack((x, y, 0.5 + 0.4 * np.sin(9 * x * y)), axis=-1)
    path = tmp_path / "ramp.png"
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)
    return str(path)


def test_a_picture_is_timed_from_file_to_file_cold_and_warm(file: str) -> None:
    result = bench_image(file, "fast", [*TINY, "fit.steps=2"], devices="cpu", repeats=2)
    assert result["size"] == [48, 48] and len(result["warm"]) == 2 and result["steps"] == [2, 2, 2]
    assert {"load", "setup", "fit", "save", "total"} <= set(result["cold"])
    assert sum(fit["total"] for fit in (result["cold"], *result["warm"])) < result["wall_seconds"]
