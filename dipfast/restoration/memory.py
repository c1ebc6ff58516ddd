"""The memory policy: what a fit takes of its device's memory, and what is done where that is too little.

Before a fit its memory is predicted and compared with what is free. The first tier that fits is taken: as asked; with
activations recomputed in the backward (the same bits, a third more operations); in bf16, where `fit.memory` allows it.
A fit that runs out of memory all the same goes one tier down. The tier is remembered for the bucket and stands in the
record; after the last one the item fails, with the numbers. Fewer fits side by side come first: `batch.cohort`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dipfast.errors import ItemError
from dipfast.fit import Machine
from dipfast.plan import fit_bytes, program
from dipfast.settings.document import Settings

SHARE = 0.9  # of what is free, for the predicted bytes: the libraries' workspaces take the rest
GIB = 1 << 30
Shape = tuple[int, int, int]  # channels, height, width
Key = tuple[str, Shape]


@dataclass(frozen=True)
class TierChoice:
    """The tier that a fit runs on, and why."""

    machine: Machine  # as asked, or with less need of memory
    predicted: int  # bytes
    free: int | None  # bytes before the fit; None where that is not known
    above: int  # tiers that were passed over

    def record(self) -> dict[str, Any]:
        """Return what the record of a fit says of its memory."""
        tier = {"recompute": self.machine.recompute, "precision": self.machine.precision}
        return tier | {"predicted": self.predicted, "free": self.free, "rungs_above": self.above}


class MemoryPolicy:
    """Chooses tiers and remembers them by bucket. A worker has one; ``free`` gives a device's free bytes."""

    def __init__(self, free: Callable[[torch.device], int | None] | None = None) -> None:
        self.free = free or Free()
        self.lowest: dict[Key, int] = {}  # the first tier that is still to be tried, where it is not the top one

    def choose(self, settings: Settings, shape: Shape, machine: Machine) -> TierChoice:
        """Return the first tier that fits, from ``machine``, the one that was asked for, downwards.

        Raises ItemError `out-of-memory` where none fits.
        """
        limit, key = settings.fit.memory.limit, (program(settings), shape)
        tiers, free = tiers_of(settings, machine), self._free(limit, machine)
        needs = [fit_bytes(settings, shape, tier.precision, tier.recompute) for tier in tiers]
        for number in range(self.lowest.get(key, 0), len(tiers)):
            if free is None or needs[number] <= SHARE * free:
                self.lowest[key] = number
                return TierChoice(tiers[number], needs[number], free, number)
        limited = free is not None and free == limit
        raise ItemError("out-of-memory", _refusal(shape, tiers, needs, machine, free, limited))

    def descend(self, settings: Settings, shape: Shape, machine: Machine) -> bool:
        """Note that a fit ran out of memory; return whether there is a tier below the one that it was on."""
        key = (program(settings), shape)
        self.lowest[key] = self.lowest.get(key, 0) + 1
        return self.lowest[key] < len(tiers_of(settings, machine))

    def _free(self, limit: int | None, machine: Machine) -> int | None:
        free = self.free(machine.device)
        known = [value for value in (limit, free) if value is not None]
        return min(known, default=None)


def tiers_of(settings: Settings, machine: Machine) -> list[Machine]:
    """Return the tiers that may be tried, from the top. The compiler decides itself what it recomputes."""
    asked, tiers = settings.fit.memory, [machine]
    if asked.recompute == "auto" and machine.engine != "compile":
        tiers.append(replace(machine, recompute=True))
    if asked.lower_precision and machine.dtype == torch.float32:
        tiers.append(replace(tiers[-1], precision="bf16"))
    return tiers


def _refusal(
    shape: Shape, tiers: list[Machine], needs: list[int], machine: Machine, free: int | None, limited: bool
) -> str:
    channels, height, width = shape
    size = f"a fit at {width}×{height}×{channels} in {tiers[0].precision}"
    if free is None or needs[-1] <= SHARE * free:  # it fits by the numbers, and did not
        return f"{size} ran out of the memory of {machine.device}, predicted at {_size(needs[-1])}"
    ways = {True: "with activations recomputed", False: "as it is"}
    tried = ", ".join(
        f"{_size(need)} {ways[tier.recompute]}{' in bf16' * (tier.precision != tiers[0].precision)}"
        for tier, need in zip(tiers, needs, strict=True)
    )
    there = f"fit.memory.limit is {_size(free)}" if limited else f"{machine.device} has {_size(free)} free"
    return f"{size} needs about {tried}; {there}"


def _size(number: int) -> str:
    for unit, bytes_ in (("GiB", GIB), ("MiB", 1 << 20)):
        if number >= bytes_:
            return f"{number / bytes_:.{1 if number < 10 * bytes_ else 0}f} {unit}"
    return f"{number} bytes"


class Free:
    """Gives the free bytes of a device, with what this process has taken since it began and would use again.

    ``neighbours``: workers that share a CPU's memory. Each has an equal part of what is free and what all have taken,
    as far as that is free now: the others may be about to take theirs.
    """

    def __init__(self, neighbours: int = 1) -> None:
        self.neighbours, self.start = neighbours, resident_bytes() or 0

    def __call__(self, device: torch.device) -> int | None:
        if device.type == "cuda":
            return int(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device))
        free = available_bytes()
        if free is None:
            return None
        own = self._taken(resident_bytes())
        if self.neighbours == 1:
            return free + own
        pool = free + own + sum(self._taken(resident_bytes(pid)) for pid in siblings())
        return min(free + own, pool // self.neighbours)

    def _taken(self, resident: int | None) -> int:
        return max(0, (resident or 0) - self.start)


def available_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return the bytes that a process on this machine can still take, by the kernel and its control group's limit.

    None where neither can be read.
    """
    found = [_field(proc / "meminfo", "MemAvailable:", 1024)]
    for limit, used, reclaimable in (
        ("memory.max", "memory.current", "inactive_file"),  # version 2
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most, now = _number(cgroups / limit), _number(cgroups / used)
        if most is not None and now is not None:
            cache = _field((cgroups / limit).parent / "memory.stat", reclaimable, 1) or 0
            found.append(max(0, most - now + cache))
    return min((value for value in found if value is not None), default=None)


def resident_bytes(pid: int | str = "self") -> int | None:
    """Return the bytes of a process in memory, by default this one; None where /proc does not say."""
    return _field(Path(f"/proc/{pid}/status"), "VmRSS:", 1024)


def siblings() -> list[int]:
    """Return the other processes that this one's parent started; none where /proc does not say."""
    parent = os.getppid()
    try:
        found = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    except OSError:
        return []
    return [int(pid) for pid in found if int(pid) != os.getpid()]


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None


def _field(path: Path, name: str, unit: int) -> int | None:
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * unit for line in lines if line.split()[:1] == [name]), None)
