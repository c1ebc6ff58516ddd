"""What a driver and its workers agree on: messages beside jobs, the stages of an item, and how many items a worker has.

A CPU fits one item at a time: side by side they take as long (LOG.md, 2026-11-24). On a GPU a small picture does not
fill the device, and the host's launches take longer than the step; how many fill one has not been measured yet.
"""

from __future__ import annotations

from dataclasses import dataclass

from dipfast.plan import Job, predicted_bytes

FILLING_PIXELS = 512 * 512  # together in one step that should keep a GPU busy; estimated
MOST = 16
MEMORY_SHARE = 0.8  # of a device's free memory, for the predicted bytes of all: the libraries' workspaces take the rest

# An item is given, loading, loaded, fitting, fitted, saving; then done, failed, cancelled or returned. At each but the
# first its worker sends an event of that name. While it is being worked on, it may be what its worker dies of.
GIVEN = "given"
AT_WORK = ("loading", "fitting", "saving")
STAGES = (GIVEN, "loading", "loaded", "fitting", "fitted", "saving")
NOT_BEGUN = (GIVEN, "loading", "loaded")  # no step of its fit is lost if another worker takes it


@dataclass(frozen=True)
class Leave:
    """End: take nothing more, give back what is not begun, cancel the fits of all items but ``finish``."""

    finish: frozenset[str] = frozenset()


@dataclass(frozen=True)
class GiveBack:
    """Give the item ``id`` back, unless its fit has begun: another worker has nothing to do."""

    id: str


Message = Job | Leave | GiveBack


def cohort_size(job: Job, device: str, memory: int | None, asked: int | None = None) -> int:
    """Return how many items of the bucket of ``job`` a worker on ``device`` with ``memory`` free bytes fits at a time.

    ``asked`` is taken at its word. At least one: whether that one fits is not decided here.
    """
    if asked is not None:
        return asked
    fit = job.shared.fit
    if memory is None or "cpu" in (device, fit.device):
        return 1
    _, height, width = job.padded
    by_size = FILLING_PIXELS // max(1, height * width * fit.seeds)
    by_memory = int(MEMORY_SHARE * memory) // max(1, predicted_bytes(job))
    return max(1, min(MOST, by_size, by_memory))


def held_at_most(cohort: int) -> int:
    """Return how many items a worker has: as many being loaded, and as many being saved, as are being fitted."""
    return 3 * cohort
