"""The plan: buckets, order, shards, and the arithmetic of operations."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import TINY, generator_config

from dipfast.batch.plan import Job, forward_flops, ordered, predicted_bytes, predicted_seconds, shard, spread
from dipfast.manifest import settings_from


def job(id: str, height: int = 64, width: int = 64, steps: int = 10, task: Any = "denoise", **settings: Any) -> Job:
    overrides = {"fit": {"steps": steps}, "generator": TINY | {"channels": [8, 8]}, **settings}
    plain = settings_from(task, "balanced", overrides).model_dump(mode="json")
    return Job(id, f"/in/{id}.png", "0" * 64, (f"{id}.png",), plain, shape=(3, height, width))


def test_the_standard_net_costs_what_was_counted() -> None:
    """155.0 GFLOP for a forward pass of the standard denoising net at 512×512, by an independent count."""
    paper = generator_config(channels=(128,) * 5, input={"type": "noise", "depth": 32})
    assert forward_flops(paper, 3, 512 * 512) == pytest.approx(155.0e9, rel=0.005)


def test_operations_are_those_of_the_modules_convolutions() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from dipfast import generators

    config = generator_config(channels=(8, 12, 16), kernel_down=(3, 5, 3), skip_channels=(0, 4, 2), pad="zero")
    module = generators.build(config, 3, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 8, 32, 48))
    assert forward_flops(config, 3, 32 * 48) == counter.get_total_flops()


@pytest.mark.parametrize(
    ("task", "settings", "padded"),
    [
        ("denoise", {}, (3, 64, 104)),
        ({"type": "superres", "scale": 3}, {}, (3, 184, 304)),
        ("denoise", {"degrade": {"type": "gaussian", "sigma": 5.0, "crop": 33}}, (3, 36, 36)),
        (
            {"type": "superres", "scale": 2},
            {"degrade": {"type": "downsample", "scale": 2, "crop": 40}},
            (3, 40, 40),
        ),
    ],
)
def test_a_job_is_fitted_at_the_padded_size_of_the_picture_sought(task: Any, settings: Any, padded: Any) -> None:
    assert job("a", 61, 101, task=task, **settings).padded == padded


def test_jobs_of_one_bucket_stay_together_longest_first() -> None:
    jobs = [job("a"), job("b", 128, 128), job("c"), job("d", 128, 128, steps=90)]
    assert [each.id for each in ordered(jobs)] == ["d", "b", "a", "c"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_shards_together_are_all_items_once(count: int) -> None:
    parts = [shard(range(10), index, count) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(10))


def test_more_steps_and_pixels_take_longer_and_more_threads_less() -> None:
    small, large = job("a"), job("b", 256, 256)
    seconds = predicted_seconds(small, "cpu", 1, "fp32")
    assert seconds < predicted_seconds(large, "cpu", 1, "fp32")
    assert seconds > predicted_seconds(small, "cpu", 2, "fp32")
    assert predicted_bytes(large) == 16 * predicted_bytes(small)


@pytest.mark.parametrize(
    ("cores", "jobs", "workers", "expected"),
    [(8, 3, None, (3, 2)), (2, 100, None, (2, 1)), (2, 1, None, (1, 2)), (4, 0, None, (1, 4)), (4, 9, 2, (2, 2))],
)
def test_cores_are_spread_over_workers(cores: int, jobs: int, workers: Any, expected: Any) -> None:
    assert spread(cores, jobs, workers) == expected
