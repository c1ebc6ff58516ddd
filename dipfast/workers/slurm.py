"""A run as a SLURM job array: one task for each device, each a shard of the run, submitted through submitit.

Nothing stays on this machine: the tasks are plain `dipfast run --shard I/N` into the one folder, which all
nodes must share, and `dipfast status` tells how they stand. SLURM is asked for a GPU for each task, or for none;
partition, account, time and memory are what sbatch takes from its own variables (SBATCH_PARTITION,
SBATCH_ACCOUNT, SBATCH_TIMELIMIT …). What the time did not suffice for, the same command does the next time.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from dipfast.errors import MachineError, UsageError
from dipfast.files import write_atomic
from dipfast.manifest import Manifest
from dipfast.store.folder import RunFolder
from dipfast.store.lock import claimed, writing
from dipfast.store.sources import note_source, source_of
from dipfast.workers.options import RunOptions

END = "TERM@90"  # seconds before its time is over, a task is told to finish what is nearly done and to save the rest
SUBMITTING = ("sbatch", "srun")


def submit(manifest: Manifest, folder: RunFolder, options: RunOptions, more: Sequence[str] = ()) -> str:
    """Submit ``manifest`` as shards, one for each worker, with ``more`` options of `dipfast run`. Return the job's id.

    Raises UsageError for a wrong request and where a run writes into the folder; MachineError where submitit or SLURM
    is not here, or refuses.
    """
    devices, tasks = options.devices, options.workers
    if devices not in ("auto", "cpu"):
        raise UsageError(
            f"--devices {devices}: should be auto or cpu with --executor slurm, which asks for a GPU a task"
        )
    if tasks is None:
        raise UsageError("--executor slurm: --workers should say how many array tasks, one for each device")
    if find_spec("submitit") is None:
        raise MachineError("--executor slurm: submitit is not installed; pip install 'dipfast[slurm]'")
    if missing := [name for name in SUBMITTING if shutil.which(name) is None]:
        raise MachineError(f"--executor slurm: no {missing[0]} on the PATH; run it where SLURM jobs are submitted")
    resolved = folder.root.absolute() / "manifest.resolved.yaml"
    with claimed(folder), writing(folder):
        source = source_of(manifest, folder)
        write_atomic(resolved, manifest.resolved().encode("utf-8", "surrogateescape"))
        note_source(folder, source, listed=False)
    count = min(tasks, len(manifest.items))
    run = [sys.executable, "-m", "dipfast.cli", "run", str(resolved), "-o", str(resolved.parent)]
    one = ["--devices", devices, "--workers", "1", "--progress", "plain", "--resume", options.resume, *more]
    for name in ("cohort", "threads"):
        if (number := getattr(options, name)) is not None:
            one += [f"--{name}", str(number)]
    return _submit([[*run, *one, "--shard", f"{i + 1}/{count}"] for i in range(count)], resolved.parent, devices)


def _submit(commands: list[list[str]], root: Path, devices: str) -> str:
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    executor = submitit.SlurmExecutor(root / "slurm")
    executor.update_parameters(
        job_name=f"dipfast-{root.name}",
        time=None,  # sbatch's own, and not submitit's five minutes
        array_parallelism=len(commands),
        additional_parameters={"signal": END},
        **({} if devices == "cpu" else {"gpus_per_node": 1}),
    )
    shards = [submitit.helpers.CommandFunction(command, cwd=Path.cwd()) for command in commands]
    try:
        with executor.batch():
            jobs = [executor.submit(shard) for shard in shards]
    except (FailedJobError, FailedSubmissionError) as error:
        raise MachineError(f"--executor slurm: sbatch: {str(error).strip().splitlines()[-1]}") from None
    return str(jobs[0].job_id).partition("_")[0]
