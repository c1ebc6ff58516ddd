"""What a driver tells its workers beside jobs, and the stages of an item that they tell it of. Plain data."""

from __future__ import annotations

from dataclasses import dataclass

from dipfast.plan import Job

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
