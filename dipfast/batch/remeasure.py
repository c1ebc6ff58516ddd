"""Metrics of an item that is done, against a reference that was given or replaced since: nothing is fitted for that.

They are those of the picture as it was written, at its bit depth; the fit's last output, which is not kept, has none.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from dipfast.errors import DipfastError
from dipfast.image import cut, read
from dipfast.plan import Job
from dipfast.record import Record
from dipfast.restoration.describe import quality
from dipfast.store.folder import RunFolder
from dipfast.workers.items import load


def needs_measuring(job: Job, record: Record) -> bool:
    """Return whether the metrics in ``record`` are not those against the reference of ``job``."""
    known = record.input.get("reference") if isinstance(record.input, dict) else None
    known = known.get("sha256") if isinstance(known, dict) else None
    return job.reference_sha256 is not None and job.shared.degrade is None and known != job.reference_sha256


def measure_again(job: Job, folder: RunFolder, record: Record) -> str | None:
    """Write the metrics against the reference of ``job`` into its whole ``record``.

    Where they cannot be had, such as for a reference of another size, the record has none, and the reason is returned.
    Raises OSError.
    """
    reference: dict[str, Any] | None = {"path": job.reference, "sha256": job.reference_sha256}
    reason = None
    try:
        metrics = _metrics(job, record, folder)
    except DipfastError as error:
        metrics, reference, reason = {}, None, str(error)
    folder.commit(replace(record, metrics=metrics, input={**record.input, "reference": reference}))
    return reason


def _metrics(job: Job, record: Record, folder: RunFolder) -> dict[str, float | None]:
    loaded = load(job)
    clean = loaded.observation.clean
    assert clean is not None
    before = cut(loaded.problem.guide[0].numpy(), *clean.shape[1:])
    pixels = read(folder.at(f"images/{job.outputs[0]}")).pixels
    if len(clean) == 1 and len(pixels) == 3:  # WebP has no gray
        pixels = pixels.mean(0, keepdims=True)
    uncertainty = record.output.get("uncertainty")
    deviation = None if uncertainty is None else read(folder.at(uncertainty["path"])).pixels
    return quality(clean, before, pixels, deviation)
