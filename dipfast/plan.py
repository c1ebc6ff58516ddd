"""What a run will do, before it does it: jobs, buckets, shards, predicted seconds and memory. Pure arithmetic.

The seconds are a prediction from floating-point operations and a rate; they order the queue and set expectations,
and are not a promise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from dipfast.generators.architecture import architecture_of
from dipfast.generators.cost import activations_per_pixel, forward_flops, parameter_count
from dipfast.settings.document import Settings
from dipfast.settings.own import NOTHING, Own
from dipfast.settings.refine import Refine
from dipfast.settings.shapes import fitted_pixels, windows_of
from dipfast.settings.stop import AutoStop, FixedStop
from dipfast.settings.task import Denoise, Jpeg, SaltPepperNoise, SuperRes

# Operations per second of a whole step: one core of a server CPU as measured, and an H200 as estimated.
RATES = {("cpu", "fp32"): 8e10, ("cpu", "bf16"): 9e10, ("cuda", "fp32"): 2e13, ("cuda", "bf16"): 2e14}
SECONDS_A_STEP = {"cpu": 0.01, "cuda": 0.001}  # beside its operations, for each seed; the first measured (LOG.md)
SECONDS_AROUND_A_FIT = 0.5  # decode, encode, save
STOPPED_SHARE = 0.35  # of their steps, that fits take where a criterion ends them (LOG.md)
# What a step has of each activation at its worst, kept and recomputed, as measured on a CPU (LOG.md).
ACTIVATION_COPIES = {("fp32", False): 4.0, ("fp32", True): 2.7, ("bf16", False): 4.5, ("bf16", True): 3.3}
PARAMETER_COPIES = 7  # values, gradients, two moments, and the rollback's values and moments
LATENT_COPIES = 3  # latent, jitter, their sum
IMAGE_COPIES = 8  # target, guide, output, average, best, and the rollback's
WHOLE_COPIES = 16  # of a picture that is fitted on windows and refined: buffers of its size
TILE_PIXELS = 600**2  # of a tile of the render, with its overlap
TILE_COPIES = 3  # of each activation of a tile
BAND_NUMBERS = 250_000_000  # of a band of the refinement
SHALLOW_WEIGHT = 4.0  # of an operation of a fit on windows, whose network is mostly at full size (LOG.md, 2026-12-01)
REFINE_OPERATIONS = 17_000  # for each pixel, patch of a group, and group in a square of 36 pixels, as measured


@dataclass(frozen=True)
class Place:
    """Where a worker lives: a name for its ledger, its device, and its number of CPU threads.

    ``cohort``: how many items it fits side by side; None where it is to be found. ``neighbours``: the workers that
    share its machine's memory, itself among them.
    """

    name: str
    device: str
    threads: int
    cohort: int | None = None
    neighbours: int = 1


class Job(NamedTuple):
    """One fit to do, and every file that it gives: items with the same bytes, settings and seed share one.

    ``shared``: the settings that jobs share, which are the item's but for the few of its ``own``; ``outputs`` are
    relative to `images/`. A tuple, for a million of them are made in a fifth of a frozen dataclass's time.
    """

    id: str
    path: str
    input_sha256: str
    outputs: tuple[str, ...]
    shared: Settings
    mask: str | None = None
    mask_sha256: str | None = None
    reference: str | None = None
    reference_sha256: str | None = None  # None, too, where it cannot be read
    padded: tuple[int, int, int] = (0, 0, 0)  # channels, height and width that the generator works at
    bucket: tuple = ()  # jobs of one bucket run the same program
    flops: float = 0.0  # multiplications and additions of the whole fit at its most steps
    own: Own = NOTHING
    chosen: str = ""  # why its task was chosen, where that was left to the picture

    @property
    def settings(self) -> Settings:
        """The item's settings, made anew where it has some of its own."""
        return self.own.settings(self.shared)


def program(settings: Settings) -> str:
    """What jobs of one program have in common, but for the fitted shape. As text, whose hash is known once computed."""
    scale = settings.task.scale if isinstance(settings.task, SuperRes) else None
    fit = settings.fit.model_dump(mode="json", exclude={"seed"})
    return repr((settings.task.type, scale, settings.generator.model_dump(mode="json"), fit))


def fit_flops(settings: Settings, padded: tuple[int, int, int]) -> float:
    """Operations of a fit at its most steps, over all its seeds; the backward pass counts twice the forward one."""
    channels, height, width = padded
    generator, fit = settings.generator, settings.fit
    architecture = architecture_of(generator, channels)
    refined = height * width * _refine_operations(settings.refine, channels)
    rendered = height * width if windows_of(generator, fit) is not None else 0
    return _step_flops(settings, padded) + forward_flops(architecture, rendered) * fit.seeds + refined


def _step_flops(settings: Settings, padded: tuple[int, int, int]) -> float:
    """Operations of the steps of a fit at its most, over all its seeds."""
    channels, height, width = padded
    pixels = sum(steps * seen for steps, seen in fitted_pixels(settings.generator, settings.fit, (height, width)))
    return 3 * forward_flops(architecture_of(settings.generator, channels), pixels) * settings.fit.seeds


def _refine_operations(refine: Refine | None, channels: int) -> float:
    """Operations of the refinement for each pixel."""
    if refine is None:
        return 0.0
    return REFINE_OPERATIONS * refine.neighbours * 36 / refine.stride**2 * (2 + channels) / 5


def predicted_seconds(job: Job, kind: str, threads: float, precision: str) -> float:
    """Seconds at the most for ``job`` on a device of ``kind`` (cpu, cuda) in ``precision`` (fp32, tf32 or bf16)."""
    rate = RATES[kind, "bf16" if precision == "bf16" else "fp32"] * (threads if kind == "cpu" else 1)
    settings, flops = job.shared, job.flops
    if windows_of(settings.generator, settings.fit) is not None:
        flops += (SHALLOW_WEIGHT - 1) * _step_flops(settings, job.padded)
    steps = settings.fit.steps * settings.fit.seeds
    return SECONDS_AROUND_A_FIT + flops / rate + steps * SECONDS_A_STEP[kind]


def expected_share(settings: Settings) -> float:
    """How many of its steps a fit takes, as far as its stop tells: all, or those of `STOPPED_SHARE`.

    With `stop: auto` a criterion is taken where the noise is known; salt and pepper and what is missing have none.
    """
    task, stop = settings.task, settings.fit.stop
    samples = settings.fit.posterior is not None  # a chain of them takes all its steps
    if samples or isinstance(stop, FixedStop) or windows_of(settings.generator, settings.fit) is not None:
        return 1.0
    known = isinstance(task, Jpeg) or (isinstance(task, Denoise) and not isinstance(task.noise, SaltPepperNoise))
    return STOPPED_SHARE if known or not isinstance(stop, AutoStop) else 1.0


def predicted_bytes(job: Job, precision: str = "fp32") -> int:
    """Bytes that the fit of ``job`` takes at the most, in ``precision``."""
    return fit_bytes(job.shared, job.padded, precision)


def fit_bytes(settings: Settings, padded: tuple[int, int, int], precision: str, recompute: bool = False) -> int:
    """Bytes that a fit's tensors take at the most.

    Activations of a step; weights, gradients, moments and what a rollback keeps of them; latents and float32 images.
    Those of the smaller sizes that are fitted first are kept beside, for the next picture.
    """
    channels, height, width = padded
    seen = fitted_pixels(settings.generator, settings.fit, (height, width))
    fitted = sum(_bytes_at(settings, channels, pixels, precision, recompute) for _, pixels in seen)
    if windows_of(settings.generator, settings.fit) is None:
        return fitted
    tile = TILE_COPIES * activations_per_pixel(architecture_of(settings.generator, channels)) * TILE_PIXELS
    return fitted + int(4 * (WHOLE_COPIES * channels * height * width + max(tile, BAND_NUMBERS)))


def _bytes_at(settings: Settings, channels: int, pixels: int, precision: str, recompute: bool) -> int:
    """Bytes of the tensors of one size."""
    architecture, low = architecture_of(settings.generator, channels), precision in ("bf16", "fp16")
    seeds = settings.fit.seeds
    copies = ACTIVATION_COPIES["bf16" if low else "fp32", recompute] * (0.5 if low else 1)  # in float32's
    activations = seeds * activations_per_pixel(architecture)
    images = LATENT_COPIES * seeds * architecture.latent + IMAGE_COPIES * channels
    elements = pixels * (copies * activations + images)
    return int(4 * (elements + PARAMETER_COPIES * seeds * parameter_count(architecture)))


class Queue:
    """Jobs by bucket, the bucket with the longest job first, and the longest job of a bucket first."""

    def __init__(self, jobs: Iterable[Job]) -> None:
        buckets: dict[tuple, list[Job]] = {}
        for job in jobs:
            buckets.setdefault(job.bucket, []).append(job)
        for members in buckets.values():
            members.sort(key=lambda job: (-job.flops, job.id))
        first = sorted(buckets.items(), key=lambda bucket: (-bucket[1][0].flops, bucket[1][0].id))
        self.buckets = {bucket: deque(members) for bucket, members in first}
        self.count = sum(map(len, buckets.values()))
        self.left = {bucket: sum(job.flops for job in members) for bucket, members in buckets.items()}

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Job]:
        return chain.from_iterable(self.buckets.values())

    def take(self, bucket: tuple | None, others: Collection[tuple | None]) -> Job:
        """The next job for a worker that did one of ``bucket``, while other workers do ``others``.

        It stays with its bucket; then it takes up one that nobody has; then it helps where most is left to do.
        """
        if bucket not in self.buckets:
            free = (known for known in self.buckets if known not in others)
            bucket = next(free, None) or max(self.buckets, key=self.left.__getitem__)
        members = self.buckets[bucket]
        job = members.popleft()
        self.count -= 1
        self.left[bucket] -= job.flops
        if not members:
            del self.buckets[bucket]
        return job

    def put_back(self, job: Job) -> None:
        """Have ``job`` done again, as the next of its bucket."""
        self.count += 1
        self.left[job.bucket] += job.flops
        self.buckets.setdefault(job.bucket, deque()).appendleft(job)


def shard(items: Sequence[Any], index: int, count: int) -> list[Any]:
    """Shard ``index`` of ``count``, from 1: every ``count``-th item. All shards together are all items, once."""
    return list(items[index - 1 :: count])


def spread(cores: int, jobs: int, workers: int | None = None, threads: int | None = None) -> tuple[int, int]:
    """Workers and threads for each on a CPU: one core for each while there are jobs enough for all cores.

    ``workers`` and ``threads`` that are given are taken at their word, and the other is what fits on the cores.
    It depends on the whole plan, not on what is left of it, so that a resumed run sums in the same order.
    """
    count = workers or max(1, min(cores // (threads or 1), jobs))
    return count, threads or max(1, cores // count)
