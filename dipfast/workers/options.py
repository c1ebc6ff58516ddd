"""What a run may be told beside its manifest: one value, from the command line and Python to the driver. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from dipfast.errors import UsageError
from dipfast.store.folder import Shard, suffix

Resume = Literal["auto", "never", "failed"]
Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out. None of it changes what comes out.

    ``devices``: auto, cpu, or cuda:0,1 …; ``workers``: processes on a CPU, by default one a core; ``threads``: of each
    worker, by default as OMP_NUM_THREADS says; ``cohort``: items of one bucket that a worker fits side by side, by
    default as many as `cohort_size` finds; ``resume``: auto and failed do what is not done, never does all again;
    ``max_failures``: failed items after which the run gives up, by default never; ``shard``: (I, N) for part I of N of
    the items, which may run into one folder with the other parts at the same time; ``executor``: local for processes
    of this machine, ray for actors of a cluster.
    """

    devices: str = "auto"
    workers: int | None = None
    threads: int | None = None
    cohort: int | None = None
    resume: Resume = "auto"
    max_failures: int | None = None
    shard: Shard | None = None
    executor: Executor = "local"

    def check(self) -> None:
        """Raise UsageError for what the types alone do not rule out."""
        for name in ("workers", "threads", "cohort"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"{name} should be at least 1, is {number}")
        for name, words in (("resume", get_args(Resume)), ("executor", get_args(Executor))):
            if (word := getattr(self, name)) not in words:
                raise UsageError(f"{name} should be {' or '.join(words)}, is {word!r}")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(f"shard should be (I, N) with I from 1 to N, is {self.shard}")

    def named(self, process: str) -> str:
        """Return the name of a process of this run in the ledger: shards on several machines write into one folder."""
        return f"{process}{suffix(self.shard)}"
