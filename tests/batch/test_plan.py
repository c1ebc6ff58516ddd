"""The plan: buckets, order, shards, and the arithmetic of operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import TINY, generator_config, settings_of

from dipfast import generators
from dipfast.batch.prepare import fitted_shape
from dipfast.generators.architecture import architecture_of
from dipfast.generators.cost import forward_flops, parameter_count
from dipfast.image import Image, Source
from dipfast.manifest import settings_from
from dipfast.plan import (
    Job,
    Queue,
    expected_share,
    fit_flops,
    predicted_bytes,
    predicted_seconds,
    program,
    shard,
    spread,
)
from dipfast.restoration.line import observe, restore


def job(id: str, height: int = 64, width: int = 64, steps: int = 10, task: Any = "denoise", **settings: Any) -> Job:
    overrides = {"fit": {"steps": steps}, "generator": TINY | {"channels": [8, 8]}, **settings}
    plain = settings_from(task, "balanced", overrides)
    padded = fitted_shape(plain, (3, height, width))
    return Job(
        id,
        f"/in/{id}.png",
        "0" * 64,
        (f"{id}.png",),
        plain,
        padded=padded,
        bucket=(program(plain), padded),
        flops=fit_flops(plain, padded),
    )


def test_the_standard_net_costs_what_was_counted() -> None:
    """155.0 GFLOP for a forward pass of the standard denoising net at 512×512, by an independent count."""
    paper = generator_config(channels=(128,) * 5, input={"type": "noise", "depth": 32})
    assert forward_flops(architecture_of(paper, 3), 512 * 512) == pytest.approx(155.0e9, rel=0.005)


@pytest.mark.parametrize(
    "changes",
    [
        {"pad": "zero", "kernel_down": (3, 5, 3)},
        {"upsample": "nearest"},
        {"upsample": "nearest", "skip_channels": (8, 1, 0)},
        {"upsample": ("nearest", "bilinear", "nearest"), "kernel_up": (3, 3, 5)},
    ],
)
def test_operations_are_those_of_the_modules_convolutions(changes: dict[str, Any]) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    config = generator_config(**{"channels": (8, 12, 16), "skip_channels": (0, 4, 2)} | changes)
    module = generators.build(config, 3, 0)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 8, 32, 48))
    borders = 1.2 if "nearest" in str(changes) else 1  # phases are cut from a picture with its border
    assert (
        counter.get_total_flops() / borders
        <= forward_flops(architecture_of(config, 3), 32 * 48)
        <= counter.get_total_flops()
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias": True, "pointwise_up": False, "skip_channels": 0},
        {"channels": (8, 12, 16), "up_channels": (6, 8, 10), "kernel_down": (3, 5, 3), "input": {"type": "meshgrid"}},
    ],
)
def test_parameters_are_counted_as_the_module_has_them(changes: Any) -> None:
    config = generator_config(**changes)
    module = generators.build(config, 3, 0)
    assert parameter_count(architecture_of(config, 3)) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("task", "height", "settings"),
    [
        ("denoise", 5, {}),
        ("denoise", 33, {"generator": TINY | {"channels": [8, 8, 8], "kernel_down": 7}}),
        ({"type": "superres", "scale": 2}, 7, {}),
        ({"type": "superres", "scale": 3}, 20, {}),
        ("denoise", 40, {"degrade": {"type": "gaussian", "sigma": 5.0, "crop": 21}}),
        ({"type": "superres", "scale": 4}, 70, {"degrade": {"type": "downsample", "scale": 4, "crop": 66}}),
    ],
)
def test_what_is_planned_is_the_size_that_is_fitted(task: Any, height: int, settings: Any) -> None:
    planned = job("a", height, 80, steps=0, task=task, **settings)
    image = Image(np.full((3, height, 80), 0.5, np.float32), Source("png", "rgb", 8))
    observation = observe(planned.settings, image, None, None)
    *_, card = generators.from_bytes(restore(planned.settings, observation, "cpu").generator)
    assert (card.channels, *card.padded) == planned.padded


@pytest.mark.parametrize(
    ("task", "settings", "padded"),
    [
        ("denoise", {}, (3, 64, 104)),
        ({"type": "superres", "scale": 3}, {}, (3, 192, 312)),
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
    jobs = [
        job("a"),
        job("b", 128, 128),
        job("c"),
        job("d", 128, 128, fit={"steps": 90, "seed": 3}),
        job("e", 128, 128),
    ]
    queue = Queue(jobs)
    assert [each.id for each in queue] == ["d", "b", "e", "a", "c"]


def test_a_seed_does_not_make_a_bucket_and_what_changes_the_program_does() -> None:
    seeds = [job("a", fit={"steps": 5, "seed": seed}) for seed in (1, 2)]
    assert seeds[0].bucket == seeds[1].bucket
    others = [job("a", 80), job("a", steps=5), job("a", task="jpeg"), job("a", generator={"channels": [8]})]
    assert len({job("a").bucket, *(other.bucket for other in others)}) == 5


def test_a_worker_stays_with_its_bucket_then_takes_a_free_one_then_helps_another() -> None:
    large, middle, small = ([job(f"{size}{i}", size, size) for i in range(2)] for size in (128, 96, 64))
    queue = Queue([*small, *middle, *large])
    first = queue.take(None, [None])
    second = queue.take(None, [first.bucket])
    assert (first.id, second.id) == ("1280", "960")
    assert queue.take(first.bucket, [second.bucket]).id == "1281"
    third = queue.take(first.bucket, [second.bucket])
    assert third.id == "640"
    assert queue.take(third.bucket, [second.bucket]).id == "641"
    assert queue.take(third.bucket, [second.bucket]).id == "961"
    assert not queue


def test_a_job_that_is_put_back_is_the_next_of_its_bucket() -> None:
    queue = Queue([job("a"), job("b"), job("c", 96, 96)])
    lost = queue.take(job("a").bucket, [])
    queue.put_back(lost)
    assert queue.take(lost.bucket, []).id == lost.id == "a"
    assert sorted(each.id for each in queue) == ["b", "c"]


def test_help_goes_where_most_is_left_by_operations_not_by_number() -> None:
    many = [job(f"s{i}", 64, 64) for i in range(3)]
    long = [job(f"l{i}", 256, 256) for i in range(2)]
    queue = Queue([*many, *long])
    taken = [bucket.bucket for bucket in (many[0], long[0])]
    assert queue.take(None, taken).id == "l0"
    queue.put_back(long[0])
    assert [queue.take(None, taken).id for _ in range(3)] == ["l0", "l1", "s0"]


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_all_shards_together_are_all_items_once(count: int) -> None:
    parts = [shard(range(10), index, count) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == list(range(10))


def test_more_steps_and_pixels_take_longer_and_more_threads_less() -> None:
    small, large = job("a"), job("b", 256, 256)
    seconds = predicted_seconds(small, "cpu", 1, "fp32")
    assert seconds < predicted_seconds(large, "cpu", 1, "fp32")
    assert seconds > predicted_seconds(small, "cpu", 2, "fp32")


def test_steps_of_small_pictures_take_longer_than_their_operations() -> None:
    seconds = [predicted_seconds(job("a", side, side), "cpu", 1, "fp32") for side in (32, 64)]
    assert seconds[1] / seconds[0] < 2 < job("a", 64, 64).flops / job("a", 32, 32).flops


@pytest.mark.parametrize(
    ("task", "fit", "ends"),
    [
        ({"type": "denoise", "noise": {"type": "gaussian"}}, {}, True),
        ({"type": "denoise", "noise": {"type": "salt-pepper"}}, {}, False),
        ({"type": "jpeg"}, {}, True),
        ({"type": "superres", "scale": 2}, {}, False),
        ({"type": "superres", "scale": 2}, {"stop": {"type": "ema-variance"}}, True),
        ({"type": "jpeg"}, {"stop": {"type": "fixed"}}, False),
        ({"type": "jpeg"}, {"optimizer": {"type": "sgld"}}, False),
    ],
)
def test_a_fit_is_expected_to_end_early_where_a_criterion_ends_it(task: Any, fit: Any, ends: bool) -> None:
    share = expected_share(settings_of({"task": task, "fit": fit}))
    assert (share < 1) == ends


def test_memory_is_that_of_pixels_and_of_weights() -> None:
    small, large, wide = (
        job("a"),
        job("b", 256, 256),
        job("c", generator={"channels": [256, 256], "input": {"type": "noise", "depth": 8}}),
    )
    weights = 4 * 7 * small.settings.fit.seeds * parameter_count(architecture_of(small.settings.generator, 3))
    assert predicted_bytes(large) - weights == pytest.approx(16 * (predicted_bytes(small) - weights), abs=64)
    assert predicted_bytes(wide) > 4 * 7 * parameter_count(architecture_of(wide.settings.generator, 3)) > 2e7


@pytest.mark.parametrize(
    ("cores", "jobs", "workers", "threads", "expected"),
    [
        *((8, 3, None, None, (3, 2)), (2, 100, None, None, (2, 1)), (2, 1, None, None, (1, 2))),
        *((4, 0, None, None, (1, 4)), (4, 9, 2, None, (2, 2))),
        *((2, 1, 1, 1, (1, 1)), (8, 100, None, 2, (4, 2)), (8, 3, None, 1, (3, 1)), (2, 9, None, 4, (1, 4))),
    ],
)
def test_cores_are_spread_over_workers(cores: int, jobs: int, workers: Any, threads: Any, expected: Any) -> None:
    assert spread(cores, jobs, workers, threads) == expected


def test_pictures_of_many_sizes_come_to_few_buckets_on_the_grid() -> None:
    def buckets(shapes: str) -> set[tuple]:
        fit = {"steps": 10, "shapes": shapes}
        return {job("a", side, side, fit=fit).bucket for side in range(40, 80, 4)}

    assert len(buckets("exact")) == 10
    assert len(buckets("grid")) == 5


def test_a_picture_on_the_grid_is_fitted_larger_and_comes_back_at_its_size(picture: np.ndarray) -> None:
    overrides = {"fit": {"steps": 2, "shapes": "grid"}, "generator": TINY}
    given = settings_from("denoise", "paper", overrides)
    image = Image(picture[:, :30, :18], Source("png", "rgb", 8))
    assert fitted_shape(given, (3, 30, 18)) == (3, 32, 20)
    image = Image(np.pad(picture, ((0, 0), (0, 6), (0, 0)), mode="edge"), Source("png", "rgb", 8))
    done = restore(given, observe(given, image, None, None), "cpu")
    assert fitted_shape(given, image.pixels.shape) == (3, 40, 32)
    assert done.pixels.shape == image.pixels.shape == (3, 38, 32)
    assert done.fit.picture.shape[2:] == (40, 32)
