"""From a restored picture to the files of a run. The record is written last: it is what makes an item done."""

from __future__ import annotations

import hashlib
import time
from typing import Any

from dipfast.image import Source, encode, format_of, losses
from dipfast.plan import Job
from dipfast.restoration.line import Restored, describe
from dipfast.store.folder import Record, RunFolder, damaged_of, uncertainty_of
from dipfast.workers.load import Loaded


def save(loaded: Loaded, restored: Restored, folder: RunFolder, lane: int) -> Record:
    """Write the files of an item, and commit its record, which is returned. ``lane``: in which it was fitted.

    Raises ItemError and DipfastError for what cannot be encoded, OSError where the run's folder cannot be written.
    """
    start, job = time.perf_counter(), loaded.job
    files = _write(loaded, restored, folder)
    seconds = loaded.seconds | restored.fit.seconds | {"save": time.perf_counter() - start}
    seconds["total"] = sum(seconds.values())
    record = describe(job.id, job.settings, loaded.image, loaded.observation, restored, seconds)
    record |= files | {"generator": record["generator"] | files["generator"]}
    record["input"] = {"path": job.path, "sha256": job.input_sha256} | record["input"]
    record["input"]["mask"] = job.mask
    record["warnings"] += losses(
        restored.source, format_of(job.outputs[0]), "rgb" if len(restored.pixels) == 3 else "gray"
    )
    if loaded.observation.clean is not None and job.reference is not None:
        record["input"]["reference"] = {"path": job.reference, "sha256": loaded.reference_sha256}
    record["ran"] |= {"lane": lane}
    folder.commit(record)
    folder.checkpoint(job.id).unlink(missing_ok=True)
    return record


def _outputs_elsewhere(job: Job, folder: RunFolder) -> list[str]:
    """Pictures of the same id that the run of another shard has written since this one began."""
    record = folder.record(job.id)
    return [] if record is None else [path for path in record["output"]["paths"] if path not in job.outputs]


def _write(loaded: Loaded, restored: Restored, folder: RunFolder) -> dict[str, Any]:
    """Write the pictures and the generator. Returns their paths and hashes, for the record."""
    job, observation = loaded.job, loaded.observation
    depth = job.settings["output"]["bit_depth"]
    data = encode(restored.pixels, restored.source, format_of(job.outputs[0]), bit_depth=depth)
    outputs = [*job.outputs, *_outputs_elsewhere(job, folder)]
    for output in outputs:
        folder.put(f"images/{output}", data)
        if observation.damaged:
            damaged = encode(observation.observed, restored.source, "png", bit_depth=depth)
            folder.put(damaged_of(output), damaged)
    path = f"generators/{job.id}.safetensors"
    folder.put(path, restored.generator)
    files: dict[str, Any] = {
        "output": {"sha256": hashlib.sha256(data).hexdigest(), "paths": outputs},
        "generator": {"path": path, "sha256": hashlib.sha256(restored.generator).hexdigest()},
    }
    if restored.deviation is not None:
        mode = "gray" if len(restored.deviation) == 1 else "rgb"
        deviation = encode(restored.deviation, Source("png", mode, 16), "png", bit_depth=16)
        files["output"]["uncertainty"] = _written(folder, uncertainty_of(job.outputs[0]), deviation)
    if restored.kept:
        names = [f"generators/{job.id}.sample-{k + 1}.safetensors" for k in range(len(restored.kept))]
        samples = zip(names, restored.kept, strict=True)
        files["generator"]["samples"] = [_written(folder, name, sample) for name, sample in samples]
    files["generator"] |= _further(job, folder, restored)
    return files


def _further(job: Job, folder: RunFolder, restored: Restored) -> dict[str, Any]:
    """Write the generators kept along the fit and those of its other seeds: their entries in the record."""
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
