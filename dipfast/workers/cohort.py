"""How many items of one bucket a worker fits side by side, and how many it holds. Pure arithmetic.

A CPU fits one at a time: side by side they take as long (LOG.md). On a GPU a small picture does not fill the device,
and the host's launches take longer than the step; how many it takes to fill one has not been measured yet.
"""

from __future__ import annotations

from dipfast.plan import Job, predicted_bytes

FILLING_PIXELS = 512 * 512  # together in one step that should keep a GPU busy; estimated
MOST = 16
MEMORY_SHARE = 0.8  # of a device's free memory, for the predicted bytes of all: the libraries' workspaces take the rest


def cohort_size(job: Job, device: str, memory: int | None, asked: int | None = None) -> int:
    """Items of the bucket of ``job`` to fit side by side by a worker on ``device`` with ``memory`` free bytes.

    ``asked`` is taken at its word. At least one: whether that one fits is not decided here.
    """
    if asked is not None:
        return asked
    fit = job.settings["fit"]
    if memory is None or "cpu" in (device, fit["device"]):
        return 1
    _, height, width = job.padded
    by_size = FILLING_PIXELS // max(1, height * width * fit["seeds"])
    by_memory = int(MEMORY_SHARE * memory) // max(1, predicted_bytes(job))
    return max(1, min(MOST, by_size, by_memory))


def held_at_most(cohort: int) -> int:
    """Items that a worker has at a time: as many being loaded, and as many being saved, as are being fitted."""
    return 3 * cohort
