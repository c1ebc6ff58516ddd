"""The files of one item: what is read before its fit, the fit's checkpoint, and what is written after it. No device.

The record is written last: it is what makes an item done.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from dipfast.errors import ItemError
from dipfast.image import Image, Source, check_output, encode, format_of, losses, read
from dipfast.plan import Job
from dipfast.record import Record, damaged_of, uncertainty_of
from dipfast.restoration.describe import describe
from dipfast.restoration.line import Observation, Restored, observe, pose
from dipfast.samples import locate
from dipfast.store.folder import RunFolder
from dipfast.store.inputs import hash_of, limits_of
from dipfast.tasks import Problem

CHANGED = "changed"  # the kind of failure of an input that is not the one that was planned


@dataclass(frozen=True)
class Loaded:
    """An item that is ready to be fitted."""

    job: Job
    image: Image
    observation: Observation
    problem: Problem
    seconds: dict[str, float]  # load, pose
    since: float  # when its loading began, by `time.perf_counter`
    reference_sha256: str | None = None


def load(job: Job) -> Loaded:
    """Read the files of ``job``. Raises ItemError and DipfastError for what is wrong with them."""
    start = time.perf_counter()
    path = locate(job.path)
    image = _read(job, path)
    _check_hash(job, path, job.input_sha256)
    mask = None
    if job.mask is not None:
        mask = _read(job, job.mask)
        _check_hash(job, job.mask, job.mask_sha256)
    reference, digest = None, None
    if job.reference is not None:
        reference = _read(job, job.reference)
        digest = hash_of(job.reference, job.shared.input.max_bytes)
    observation = observe(job.settings, image, mask, reference)
    for output in job.outputs:
        check_output(observation.source, output, bit_depth=job.shared.output.bit_depth)
    loaded = time.perf_counter()
    problem = pose(job.settings, observation)
    seconds = {"load": loaded - start, "pose": time.perf_counter() - loaded}
    return Loaded(job, image, observation, problem, seconds, start, digest)


def _check_hash(job: Job, path: str, expected: str | None) -> None:
    """Raise ItemError for a file that is another than the one that the id of ``job`` was made of."""
    if hash_of(path, job.shared.input.max_bytes) != expected:
        raise ItemError(CHANGED, f"{path}: the file changed after the run had started; the next run takes it as it is")


def _read(job: Job, path: str) -> Image:
    return read(path, limits_of(job.shared))


class CheckpointFile:
    """A `dipfast.fit.Checkpoint` of the fit of item ``id``, as a file of the run."""

    def __init__(self, folder: RunFolder, id: str) -> None:
        self.folder, self.path = folder, f"checkpoints/{id}.safetensors"

    def load(self) -> dict[str, Tensor] | None:
        """Return what another process saved; None where that was nothing that can be read."""
        try:
            return safetensors.torch.load(self.folder.read(self.path))
        except (OSError, safetensors.SafetensorError):
            return None

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Write the file whole or not at all. A disk that cannot take it costs no fit."""
        with suppress(OSError):
            self.folder.put(self.path, safetensors.torch.save(tensors))


def save(loaded: Loaded, restored: Restored, folder: RunFolder, slot: int) -> Record:
    """Write the files of an item, and commit its record, which is returned. ``slot``: in which it was fitted.

    Raises ItemError and DipfastError for what cannot be encoded, OSError where the run's folder cannot be written.
    """
    start, job = time.perf_counter(), loaded.job
    output, generator = _write(loaded, restored, folder)
    seconds = loaded.seconds | restored.seconds | {"save": time.perf_counter() - start}
    seconds["total"] = sum(seconds.values())
    record = describe(job.id, job.settings, loaded.image, loaded.observation, restored, seconds)
    mode = "rgb" if len(restored.pixels) == 3 else "gray"
    record = replace(
        record,
        input={"path": job.path, "sha256": job.input_sha256, **record.input, "mask": job.mask} | _reference(loaded),
        ran=record.ran | {"lane": slot},
        generator=record.generator | generator,
        warnings=[*record.warnings, *losses(restored.source, format_of(job.outputs[0]), mode)],
        output=record.output | output,
        facts=record.facts | ({"task_chosen": job.chosen} if job.chosen else {}),
    )
    folder.commit(record)
    folder.checkpoint(job.id).unlink(missing_ok=True)
    return record


def _reference(loaded: Loaded) -> dict[str, Any]:
    """Return what the record says of the reference, where the picture was measured against one."""
    job = loaded.job
    if loaded.observation.clean is None or job.reference is None:
        return {}
    return {"reference": {"path": job.reference, "sha256": loaded.reference_sha256}}


def _outputs_elsewhere(job: Job, folder: RunFolder) -> list[str]:
    """Return pictures of the same id that the run of another shard has written since this one began."""
    record = folder.record(job.id)
    return [] if record is None else [path for path in record.pictures if path not in job.outputs]


def _write(loaded: Loaded, restored: Restored, folder: RunFolder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the pictures and the generators. Return what the record says of them, as `output` and `generator`."""
    job, observation = loaded.job, loaded.observation
    depth = job.shared.output.bit_depth
    data = encode(restored.pixels, restored.source, format_of(job.outputs[0]), bit_depth=depth)
    outputs = [*job.outputs, *_outputs_elsewhere(job, folder)]
    for name in outputs:
        folder.put(f"images/{name}", data)
        if observation.damaged:
            damaged = encode(observation.observed, restored.source, "png", bit_depth=depth)
            folder.put(damaged_of(name), damaged)
    path = f"generators/{job.id}.safetensors"
    folder.put(path, restored.generator)
    output: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "paths": outputs}
    generator: dict[str, Any] = {"path": path, "sha256": hashlib.sha256(restored.generator).hexdigest()}
    if restored.deviation is not None:
        mode = "gray" if len(restored.deviation) == 1 else "rgb"
        deviation = encode(restored.deviation, Source("png", mode, 16), "png", bit_depth=16)
        output["uncertainty"] = _written(folder, uncertainty_of(job.outputs[0]), deviation)
    if restored.kept:
        names = [f"generators/{job.id}.sample-{k + 1}.safetensors" for k in range(len(restored.kept))]
        samples = zip(names, restored.kept, strict=True)
        generator["samples"] = [_written(folder, name, sample) for name, sample in samples]
    return output, generator | _further(job, folder, restored)


def _further(job: Job, folder: RunFolder, restored: Restored) -> dict[str, Any]:
    """Write the snapshots of the fit and the generators of its other seeds. Return what the record says of them."""
    found: dict[str, list[dict[str, Any]]] = {"checkpoints": [], "seeds": []}
    for step, data in restored.trail:
        one = _written(folder, f"generators/{job.id}.step-{step}.safetensors", data)
        found["checkpoints"].append(one | {"step": step})
    for number, data in enumerate(restored.members, 2):
        one = _written(folder, f"generators/{job.id}.seed-{number}.safetensors", data)
        found["seeds"].append(one | {"number": number})
    return {kind: parts for kind, parts in found.items() if parts}


def _written(folder: RunFolder, path: str, data: bytes) -> dict[str, str]:
    folder.put(path, data)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest()}
