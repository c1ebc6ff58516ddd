"""How the threads of one process wait for each other. To be said before torch is loaded."""

from __future__ import annotations

import os

SETTINGS = {
    "OMP_WAIT_POLICY": "ACTIVE",  # without it libgomp hardly looks where a process has more threads than cores
    "GOMP_SPINCOUNT": "10000",  # turns of libgomp's loop, some microseconds
    "KMP_BLOCKTIME": "0",  # Intel's and LLVM's OpenMP, that count in milliseconds: sleep at once
}


def wait_briefly() -> None:
    """Have threads that wait look for a few microseconds, and then sleep, unless the environment says otherwise.

    Spinning on as libgomp does by itself makes a step up to 30 times as slow on a busy machine; sleeping at once makes
    two threads slower than one up to 256×256, for each of a step's hundreds of operations then waits to be woken
    (LOG.md).
    """
    if not SETTINGS.keys() & os.environ.keys():
        os.environ.update(SETTINGS)
