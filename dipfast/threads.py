"""How the threads of one process wait for each other. To be said before torch is loaded."""

from __future__ import annotations

import os

SPINS = 10_000  # turns of libgomp's loop, some microseconds


def wait_briefly() -> None:
    """Have threads that wait look for a few microseconds, and then sleep, unless the environment says otherwise.

    Spinning on as libgomp does by itself makes a step up to 30 times as slow on a busy machine; sleeping at once makes
    two threads slower than one at 128×128, for each of a step's hundreds of operations then waits to be woken (LOG.md).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # for other OpenMP libraries
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
