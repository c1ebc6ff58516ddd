"""How many threads a process has for its computations, and how they wait for each other.

Both are to be said before torch is loaded.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

SETTINGS = {
    "OMP_WAIT_POLICY": "ACTIVE",  # without it libgomp hardly looks where a process has more threads than cores
    "GOMP_SPINCOUNT": "10000",  # turns of libgomp's loop, some microseconds
    "KMP_BLOCKTIME": "0",  # Intel's and LLVM's OpenMP, that count in milliseconds: sleep at once
}
ASKED = "OMP_NUM_THREADS"
MOST = 1024  # threads of one process
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def wait_briefly() -> None:
    """Have threads that wait look for a few microseconds, and then sleep, unless the environment says otherwise.

    Spinning on as libgomp does by itself makes a step up to 30 times as slow on a busy machine; sleeping at once makes
    two threads slower than one up to 256×256, for each of a step's hundreds of operations then waits to be woken
    (LOG.md).
    """
    if not SETTINGS.keys() & os.environ.keys():
        os.environ.update(SETTINGS)


def cores() -> int:
    """CPU cores that this process may use: those that it may run on, and no more than its control group's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([count, *(int(quota) for quota in cpu_quotas(PROC, CGROUPS))]))


def asked_threads() -> int | None:
    """What OMP_NUM_THREADS asks for: its first number, where it is a list. None where it is no number from 1 on.

    OpenMP, too, passes over such a value.
    """
    first = os.environ.get(ASKED, "").partition(",")[0].strip()
    count = int(first) if re.fullmatch(r"\+?[0-9]{1,9}", first) else 0
    return min(count, MOST) or None


def use_threads(count: int) -> None:
    """Have every library that this process loads from now on compute with so many threads."""
    os.environ[ASKED] = str(count)


def cpu_quotas(proc: Path, cgroups: Path) -> Iterator[float]:
    """Processors' worth of time that this process's control group, and those around it, may use."""
    with suppress(OSError, ValueError):
        for line in (proc / "self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers in ("", "cpu") or "cpu" in controllers.split(","):
                for mount in (cgroups, cgroups / "unified", cgroups / "cpu", cgroups / controllers):
                    for folder in (path, *map(str, PurePosixPath(path).parents)):
                        yield from _quota(mount / folder.lstrip("/"))


def _quota(group: Path) -> Iterator[float]:
    """That of one group, in the files of either version; a quota of -1 and "max" are none."""
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (group / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = ((group / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        if int(quota) > 0:
            yield int(quota) / int(period)
