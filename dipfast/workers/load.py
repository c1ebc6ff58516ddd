"""From a job to the problem that its fit is about: hashed, decoded under limits, observed, posed. No device."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dipfast.errors import ItemError
from dipfast.image import Image, check_output, read
from dipfast.plan import Job
from dipfast.restoration.line import Observation, observe, pose
from dipfast.samples import locate
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
        digest = hash_of(job.reference, job.settings["input"]["max_bytes"])
    observation = observe(job.settings, image, mask, reference)
    for output in job.outputs:
        check_output(observation.source, output, bit_depth=job.settings["output"]["bit_depth"])
    loaded = time.perf_counter()
    problem = pose(job.settings, observation)
    seconds = {"load": loaded - start, "pose": time.perf_counter() - loaded}
    return Loaded(job, image, observation, problem, seconds, start, digest)


def _check_hash(job: Job, path: str, expected: str | None) -> None:
    """Raises ItemError for a file that is another than the one that the id of ``job`` was made of."""
    if hash_of(path, job.settings["input"]["max_bytes"]) != expected:
        raise ItemError(CHANGED, f"{path}: the file changed after the run had started; the next run takes it as it is")


def _read(job: Job, path: str) -> Image:
    return read(path, limits_of(job.settings))
