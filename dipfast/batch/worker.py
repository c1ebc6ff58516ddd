"""One device's life: take a job, load, fit, save, commit, report. Runs in a process of its own.

The record is written last, so a worker that dies leaves an item undone and nothing half-done under a final name.
"""

from __future__ import annotations

import hashlib
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from dipfast.batch.ledger import Record, RunFolder
from dipfast.batch.plan import Job
from dipfast.batch.restore import Observation, Restored, describe, observe, restore
from dipfast.errors import DipfastError, ItemError
from dipfast.files import sha256_of, write_atomic
from dipfast.fit import Cancelled, Workbench, keep_freed_memory
from dipfast.image import Image, Limits, check_output, encode, format_of, read
from dipfast.samples import locate

PROGRESS_SECONDS = 0.5  # between two progress events of one fit
Send = Callable[[dict[str, Any]], None]


def work(connection: Connection, root: str, name: str, device: str, threads: int) -> None:
    """The life of one worker process. Messages in: a Job, or None to leave. Messages out: event dicts.

    Any message, or the driver's end of the pipe closing, cancels the fit in flight.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver decides what Ctrl-C means
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder, workbench = RunFolder(Path(root)), Workbench()
    connection.send({"event": "ready", "worker": name})
    while (job := _next(connection)) is not None:
        start = time.perf_counter()
        folder.log(name, "claimed", id=job.id, path=job.path)
        outcome = _outcome(job, folder, device, connection, workbench)
        folder.log(name, **{key: value for key, value in outcome.items() if key != "record"})
        connection.send(outcome | {"worker": name, "wall": time.perf_counter() - start})
        if outcome["event"] == "cancelled":
            return


def _next(connection: Connection) -> Job | None:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _outcome(job: Job, folder: RunFolder, device: str, connection: Connection, workbench: Workbench) -> dict[str, Any]:
    """Process ``job`` and say how it ended. No exception of an item gets past here."""
    about = {"id": job.id, "path": job.path}
    try:
        record = process(job, folder, device, connection.send, connection.poll, workbench)
    except Cancelled:
        return {"event": "cancelled", **about}
    except (ItemError, DipfastError) as error:
        kind = error.kind if isinstance(error, ItemError) else "machine"
        return {"event": "failed", **about, "kind": kind, "reason": str(error)}
    except torch.OutOfMemoryError as error:
        return {"event": "failed", **about, "kind": "out-of-memory", "reason": str(error).splitlines()[0]}
    except MemoryError:
        return {"event": "failed", **about, "kind": "out-of-memory", "reason": "not enough memory for this item"}
    except OSError as error:
        return {"event": "failed", **about, "kind": "unwritable", "reason": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        trace = traceback.format_exc()
        return {"event": "failed", **about, "kind": "internal", "reason": reason, "traceback": trace}
    return {"event": "done", **about, "record": record}


def process(
    job: Job, folder: RunFolder, device: str, send: Send, cancelled: Callable[[], bool], workbench: Workbench
) -> Record:
    """Restore one image, write its files, and commit its record, which is returned.

    Raises ItemError and DipfastError for what is wrong with the item, OSError where the run's folder cannot be
    written, Cancelled.
    """
    clock = time.perf_counter()
    path = str(locate(job.path))
    image = _read(job, path)
    if sha256_of(path) != job.input_sha256:
        raise ItemError("changed", f"{path}: the file changed after the run had started")
    mask = None if job.mask is None else _read(job, job.mask)
    reference = None if job.reference is None else _read(job, job.reference)
    observation = observe(job.settings, image, mask, reference)
    for output in job.outputs:
        check_output(observation.source, output, bit_depth=job.settings["output"]["bit_depth"])
    loaded = time.perf_counter()
    restored = restore(job.settings, observation, device, job.id, _reporter(job, send), cancelled, workbench)
    fitted = time.perf_counter()
    files = _save(job, folder, observation, restored)
    seconds = {
        "load": loaded - clock,
        **restored.fit.seconds,
        "save": time.perf_counter() - fitted,
        "total": time.perf_counter() - clock,
    }
    record = describe(job.id, job.settings, image, observation, restored, seconds) | files
    record["input"] = {"path": job.path, "sha256": job.input_sha256} | record["input"]
    folder.commit(record)
    return record


def _read(job: Job, path: str) -> Image:
    limits = job.settings["input"]
    return read(path, Limits(**(limits | {"formats": tuple(limits["formats"])})))


def _reporter(job: Job, send: Send) -> Callable[[int, float], None]:
    """Progress of one fit to the driver, not more often than every half second."""
    last = 0.0

    def report(steps: int, loss: float) -> None:
        nonlocal last
        if time.monotonic() - last >= PROGRESS_SECONDS:
            last = time.monotonic()
            total = job.settings["fit"]["steps"]
    record["input"]["mask"] = job.mask
            send({"event": "progress", "id": job.id, "path": job.path, "step": steps, "steps": total, "loss": loss})

    return report


def _save(job: Job, folder: RunFolder, observation: Observation, restored: Restored) -> dict[str, Any]:
    """Write the pictures and the generator. Returns their paths and hashes, for the record."""
    depth = job.settings["output"]["bit_depth"]
    data = encode(restored.pixels, restored.source, format_of(job.outputs[0]), bit_depth=depth)
    for output in job.outputs:
        write_atomic(folder.images / output, data)
        if observation.damaged:
            damaged = encode(observation.observed, restored.source, "png", bit_depth=depth)
            write_atomic((folder.damaged / output).with_suffix(".png"), damaged)
    path = f"generators/{job.id}.safetensors"
    write_atomic(folder.root / path, restored.generator)
    return {
        "output": {"sha256": hashlib.sha256(data).hexdigest(), "paths": list(job.outputs)},
        "generator": {"path": path, "sha256": hashlib.sha256(restored.generator).hexdigest()},
    }
