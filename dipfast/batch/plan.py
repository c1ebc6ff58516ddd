"""What a run will do, before it does it: jobs, buckets, shards, predicted seconds and memory. Pure arithmetic.

The seconds are a prediction from floating-point operations and a rate; they order the queue and set expectations,
and are not a promise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

# Operations per second of a whole step: one core of a server CPU as measured, and an H200 as estimated.
RATES = {("cpu", "fp32"): 8e10, ("cpu", "bf16"): 9e10, ("cuda", "fp32"): 2e13, ("cuda", "bf16"): 2e14}
SECONDS_AROUND_A_FIT = 0.5  # decode, encode, save
ACTIVATION_COPIES = 4  # what a step keeps of each activation, in float32 equivalents


@dataclass(frozen=True)
class Job:
    """One fit to do, and every file that it gives: items with the same bytes, settings and seed share one.

    ``settings`` is the item's, every default filled in, as plain data; ``outputs`` are relative to `images/`.
    """

    id: str
    path: str
    input_sha256: str
    outputs: tuple[str, ...]
    settings: dict[str, Any]
    mask: str | None = None
    reference: str | None = None
    shape: tuple[int, int, int] | None = None  # channels, height and width of the picture given, from its header

    @property
    def bucket(self) -> tuple:
        """Jobs of one bucket run the same program: task, generator and padded shape."""
        generator = self.settings["generator"]
        return self.settings["task"]["type"], repr(generator), self.padded

    @property
    def padded(self) -> tuple[int, int, int]:
        """Channels, height and width that the generator works at; zeros where the header could not be read."""
        if self.shape is None:
            return (0, 0, 0)
        scale = self.settings["task"].get("scale", 1)
        channels, height, width = self.shape
        side = 2 ** len(self.settings["generator"]["channels"])
        crop = (self.settings.get("degrade") or {}).get("crop")
        sides = (min(side_length, crop or side_length) for side_length in (height, width))
        grow = 1 if self.settings.get("degrade") else scale
        return channels, *(math.ceil(length * grow / side) * side for length in sides)

    @property
    def flops(self) -> float:
        """Multiplications and additions of the whole fit at its most steps."""
        channels, height, width = self.padded
        forward = forward_flops(self.settings["generator"], channels, height * width)
        return 3 * forward * self.settings["fit"]["steps"]


def forward_flops(generator: Mapping[str, Any], image_channels: int, pixels: int) -> float:
    """Operations (two for each multiply-add) of the convolutions of one forward pass over ``pixels`` pixels."""
    down = list(generator["channels"])
    up = list(generator["up_channels"] or down)
    skip, size_down, size_up = (
        _per_scale(generator[name], len(down)) for name in ("skip_channels", "kernel_down", "kernel_up")
    )
    inputs, total = _latent_depth(generator["input"], image_channels), 2.0 * pixels * up[0] * image_channels
    for i, width in enumerate(down):
        full, half = pixels / 4**i, pixels / 4 ** (i + 1)
        before = half if generator["downsample"] == "stride" else full
        deeper = width if i + 1 == len(down) else up[i + 1]
        macs = before * inputs * width * size_down[i] ** 2 + half * width**2 * size_down[i] ** 2
        macs += full * (inputs * skip[i] * generator["kernel_skip"] ** 2 + (deeper + skip[i]) * up[i] * size_up[i] ** 2)
        total += 2 * (macs + (full * up[i] ** 2 if generator["pointwise_up"] else 0))
        inputs = width
    return total


def _per_scale(value: Any, scales: int) -> list[int]:
    return list(value) if isinstance(value, list | tuple) else [value] * scales


def _latent_depth(latent: Mapping[str, Any], image_channels: int) -> int:
    depths = {"meshgrid": 2, "image": image_channels, "fourier": 4 * latent.get("frequencies", 0)}
    return int(depths.get(latent["type"], latent.get("depth", 0)))


def predicted_seconds(job: Job, kind: str, threads: int, precision: str) -> float:
    """Seconds for ``job`` on a device of ``kind`` (cpu, cuda) in ``precision`` (fp32, tf32 or bf16)."""
    rate = RATES[kind, "bf16" if precision == "bf16" else "fp32"]
    return SECONDS_AROUND_A_FIT + job.flops / (rate * (threads if kind == "cpu" else 1))


def predicted_bytes(job: Job) -> int:
    """Bytes that the fit's tensors take at the most: activations of a step, and the float32 images."""
    _, height, width = job.padded
    generator = job.settings["generator"]
    skip = _per_scale(generator["skip_channels"], len(generator["channels"]))
    up = list(generator["up_channels"] or generator["channels"])
    elements = sum(
        height * width / 4**i * (3 * up[i] + 2 * skip[i] + generator["channels"][i] / 2) for i in range(len(up))
    )
    return int(4 * ACTIVATION_COPIES * elements)


def ordered(jobs: Iterable[Job]) -> list[Job]:
    """Longest first, so that no long job starts last; jobs of one bucket stay together."""
    listed = list(jobs)
    longest: dict[tuple, float] = {}
    for job in listed:
        longest[job.bucket] = max(longest.get(job.bucket, 0.0), job.flops)
    return sorted(listed, key=lambda job: (-longest[job.bucket], job.bucket, -job.flops, job.id))


def shard(items: Sequence[Any], index: int, count: int) -> list[Any]:
    """Shard ``index`` of ``count``, from 1: every ``count``-th item. All shards together are all items, once."""
    return list(items[index - 1 :: count])


def spread(cores: int, jobs: int, workers: int | None = None) -> tuple[int, int]:
    """Workers and threads for each on a CPU: one core for each while there are jobs enough for all cores.

    It depends on the whole plan, not on what is left of it, so that a resumed run sums in the same order.
    """
    count = workers or max(1, min(cores, jobs))
    return count, max(1, cores // count)
