"""Noise that blind spots are not for is told from white noise, and the user hears of it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import settings_of, task_of
from scipy.ndimage import gaussian_filter

from dipfast.image import Limits, read
from dipfast.progress import sentence
from dipfast.restoration.warnings import warnings_of
from dipfast.samples import locate
from dipfast.tasks import pose

BLIND = {"generator": {"input": {"type": "image", "blind": 0.1}}}
MEASURED = {"generator": {"input": {"type": "image", "blind": 0.1, "reach": "auto"}}}
SIGHTED = {"generator": {"input": {"type": "noise"}}}


def facts(name: str, sigma: float, blur: float, said: float | str) -> dict[str, float | str]:
    clean = read(locate(name), Limits()).pixels[:, 100:228, 100:228]
    noise = np.random.default_rng(0).normal(size=clean.shape)
    noise = gaussian_filter(noise, (0, blur, blur))
    observed = (clean + noise / noise.std() * sigma / 255).clip(0, 1).astype(np.float32)
    return pose(task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": said}}), observed).facts


@pytest.mark.parametrize("name", ["sample:coffee", "sample:brick", "sample:rocket"])
@pytest.mark.parametrize("sigma", [10, 50])
def test_white_noise_is_taken_as_such(name: str, sigma: float) -> None:
    assert warnings_of(settings_of(BLIND), facts(name, sigma, 0, sigma)) == []


@pytest.mark.parametrize(("blur", "said"), [(0.7, 25), (0, 40)])
def test_shared_noise_and_less_noise_are_told(blur: float, said: float) -> None:
    found = facts("sample:coffee", 25, blur, said)
    (text,) = warnings_of(settings_of(BLIND), found)
    assert text.startswith(f"task.noise.sigma is {said}, but the finest details hold ")
    assert warnings_of(settings_of(SIGHTED), found) == []


def test_where_neighbours_that_share_their_noise_are_hidden_only_less_noise_is_told() -> None:
    assert warnings_of(settings_of(MEASURED), facts("sample:coffee", 25, 0.7, 25)) == []
    (text,) = warnings_of(settings_of(MEASURED), facts("sample:coffee", 25, 0, 40))
    assert text.endswith("of such noise: it is less; sigma: auto estimates it")


def test_nothing_is_said_of_a_level_that_was_estimated_or_a_picture_that_shows_none() -> None:
    assert warnings_of(settings_of(BLIND), facts("sample:coffee", 25, 0.7, "auto")) == []
    flat = pose(
        task_of({"type": "denoise", "noise": {"type": "gaussian", "sigma": 25}}), np.full((1, 8, 8), 0.5, np.float32)
    )
    assert warnings_of(settings_of(BLIND), flat.facts) == []


def test_a_terminal_hears_of_it() -> None:
    event = {"event": "done", "path": "a.png", "wall": 1.0, "record": {"warnings": ["too\nsoft"]}}
    assert (sentence(event) or "").endswith("; warning: too\\nsoft")
