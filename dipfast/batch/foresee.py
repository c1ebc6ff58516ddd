"""What will make an item fail, as far as headers and arithmetic tell: for `dipfast plan`, which decodes nothing.

The checks are those that a worker makes. Not seen are a file that is torn behind its header, and a mask of the right
size that is upside down or not black and white.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.fit import choose_machine
from dipfast.image import Source, check_output, probe
from dipfast.plan import Job, Place
from dipfast.restoration.line import check_reference
from dipfast.restoration.memory import MemoryPolicy, TierChoice, available_bytes
from dipfast.samples import locate
from dipfast.settings.task import ALPHA, Inpaint
from dipfast.store.inputs import limits_of

HOLDING_ALL = (".png", ".tif", ".tiff")  # endings of formats that hold every depth, and alpha


def check_files(job: Job, shape: Sequence[int]) -> None:
    """Raises ItemError for what the headers say of the files of ``job``, whose input has ``shape`` [C, H, W]."""
    damage = job.shared.degrade  # which makes mask and truth itself
    if job.mask is not None:
        mask = _shape(job, job.mask)
        if damage is None:
            tasks.check_mask_size(mask, shape)
    if job.reference is not None:
        reference = _shape(job, job.reference)
        if damage is None:
            check_reference(reference, shape, tasks.scale(job.shared.task))
    if damage is not None and damage.crop is not None:
        tasks.check_crop(damage.crop, *shape[1:])
    task = job.settings.task
    filling = isinstance(task, Inpaint) and damage is None and task.mask == ALPHA
    if filling and not probe(locate(job.path), limits_of(job.shared)).alpha:
        raise ItemError("mask", f"{job.path}: task.mask is alpha, and the picture has none")
    for output in job.outputs:
        if not output.lower().endswith(HOLDING_ALL):
            header = probe(locate(job.path), limits_of(job.shared))
            alpha = np.zeros((0, 0)) if header.alpha and damage is None and not filling else None
            source = Source(header.format, "rgb", header.bit_depth, alpha=alpha)
            check_output(source, output, bit_depth=job.shared.output.bit_depth)


def _shape(job: Job, path: str) -> tuple[int, int, int]:
    header = probe(path, limits_of(job.shared))
    return header.channels, header.height, header.width


def fitting_on(place: Place, places: int, memory: int | None) -> Callable[[Job], TierChoice]:
    """How a job will be fitted on ``place``, one of ``places`` workers, in the memory that is there now.

    ``memory``: all bytes of its GPU. What is returned raises ItemError for a job that there is no memory for.
    """
    available = available_bytes()
    on_cpu = None if available is None else available // places
    policy = MemoryPolicy(lambda device: memory if device.type == "cuda" else on_cpu)
    return lambda job: policy.choose(job.shared, job.padded, choose_machine(job.shared.fit, place.device))
