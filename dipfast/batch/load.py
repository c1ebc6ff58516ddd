"""From a job to the problem that its fit is about: hashed, decoded under limits, observed, posed. No device."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dipfast.batch.inputs import hash_of
from dipfast.batch.plan import Job
from dipfast.batch.restore import Observation, observe, pose
from dipfast.errors import ItemError
from dipfast.image import Image, Limits, check_output, read
from dipfast.samples import locate
from dipfast.tasks import Problem


@dataclass(frozen=True)
class Loaded:
    """An item that is ready to be fitted."""

    job: Job
    image: Image
    observation: Observation
    problem: Problem
    seconds: dict[str, float]  # load, pose
    since: float  # when its loading began, by `time.perf_counter`


def load(job: Job) -> Loaded:
    """Read the files of ``job``. Raises ItemError and DipfastError for what is wrong with them."""
    start = time.perf_counter()
    path = locate(job.path)
    image = _read(job, path)
    if hash_of(path, job.settings["input"]["max_bytes"]) != job.input_sha256:
        raise ItemError("changed", f"{path}: the file changed after the run had started")
    mask = None if job.mask is None else _read(job, job.mask)
    reference = None if job.reference is None else _read(job, job.reference)
    observation = observe(job.settings, image, mask, reference)
    for output in job.outputs:
        check_output(observation.source, output, bit_depth=job.settings["output"]["bit_depth"])
    loaded = time.perf_counter()
    problem = pose(job.settings, observation)
    seconds = {"load": loaded - start, "pose": time.perf_counter() - loaded}
    return Loaded(job, image, observation, problem, seconds, since=start)


def _read(job: Job, path: str) -> Image:
    limits = job.settings["input"]
    return read(path, Limits(**(limits | {"formats": tuple(limits["formats"])})))
