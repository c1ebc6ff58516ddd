"""One device's life: take a job, load, fit, save, commit, report. Runs in a process of its own.

The record is written last, so a worker that dies leaves an item undone and nothing half-done under a final name.
"""

from __future__ import annotations

import errno
import hashlib
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dipfast.batch.ledger import Record, RunFolder, damaged_of, uncertainty_of
from dipfast.batch.plan import Job
from dipfast.batch.prepare import hash_of
from dipfast.batch.restore import Observation, Restored, describe, observe, restore
from dipfast.errors import DipfastError, ItemError
from dipfast.fit import Cancelled, Workbench, keep_freed_memory
from dipfast.image import Image, Limits, Source, check_output, encode, format_of, read
from dipfast.samples import locate

DISK_IS_OUT = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no later item fares better
CPU_ALLOCATOR = "DefaultCPUAllocator: "  # how torch says that the machine's memory is used up
HEARTBEAT_SECONDS = 1.0
PROGRESS_SECONDS = 0.5  # between two progress events of one fit
Send = Callable[[dict[str, Any]], object]


class Connection(Protocol):
    """A worker's end of a pipe, or what does the same. Raises EOFError or OSError where nobody is at the other end."""

    def send(self, message: dict[str, Any], /) -> None: ...

    def recv(self) -> Job | None: ...

    def poll(self) -> bool: ...


def work(connection: Connection, root: str, name: str, device: str, threads: int) -> None:
    """The life of one worker process. Messages in: a Job, or None to leave. Messages out: event dicts.

    Any message, or the driver's end of the pipe closing, cancels the fit in flight.
    """
    torch.set_num_threads(threads)
    keep_freed_memory()
    folder, workbench, line = RunFolder(Path(root)), Workbench(), Line(connection)
    line.send({"event": "ready", "worker": name})
    threading.Thread(target=line.beat, daemon=True).start()
    while (job := _next(connection)) is not None:
        start = time.perf_counter()
        outcome = _outcome(job, folder, name, device, line, workbench)
        line.send(outcome | {"worker": name, "wall": time.perf_counter() - start})
        if outcome["event"] == "cancelled":
            return


class Line:
    """A worker's end of the pipe, for its two threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()
        self.poll = connection.poll

    def send(self, event: dict[str, Any]) -> bool:
        """False where nobody listens any more, which `poll` shows too: it cancels the fit, and fails no item."""
        try:
            with self.lock:
                self.connection.send(event)
        except OSError:
            return False
        return True

    def beat(self) -> None:
        """Say that the process is alive, until nobody listens."""
        while self.send({"event": "heartbeat"}):
            time.sleep(HEARTBEAT_SECONDS)


def _next(connection: Connection) -> Job | None:
    try:
        return connection.recv()
    except (EOFError, OSError):
        return None


def _outcome(job: Job, folder: RunFolder, name: str, device: str, line: Line, workbench: Workbench) -> dict[str, Any]:
    """Process ``job``, say how it ended, and write that into the ledger. No exception of an item gets past here."""
    about = {"id": job.id, "path": job.path}
    try:
        folder.log(name, "claimed", **about)
        record = process(job, folder, device, line.send, line.poll, workbench)
        folder.log(name, "done", **about)
        return {"event": "done", **about, "record": record}
    except Cancelled:
        outcome = {"event": "cancelled", **about}
    except Exception as error:
        outcome = {"event": "failed", **about, **_reason(error)}
    with suppress(OSError):  # the driver hears of it all the same
        folder.log(name, **outcome)
    return outcome


def _reason(error: Exception) -> dict[str, str]:
    """Kind and reason of a failure; where the run cannot go on for any item, also what broke."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    match error:
        case ItemError():
            return {"kind": error.kind, "reason": str(error)}
        case DipfastError():
            return {"kind": "machine", "reason": str(error)}
        case torch.OutOfMemoryError() | MemoryError():
            return {"kind": "out-of-memory", "reason": f"not enough memory: {text}"}
        case RuntimeError() if CPU_ALLOCATOR in text:
            return {"kind": "out-of-memory", "reason": f"not enough memory: {text.partition(CPU_ALLOCATOR)[2]}"}
        case OSError():
            broken = f"cannot be written ({error.strerror}); what is done stays done"
            about = {"broken": broken} if error.errno in DISK_IS_OUT else {}
            return {"kind": "unwritable", "reason": str(error), **about}
    trace = "".join(traceback.format_exception(error))
    return {"kind": "internal", "reason": f"{type(error).__name__}: {text}", "traceback": trace}


def process(
    job: Job, folder: RunFolder, device: str, send: Send, cancelled: Callable[[], bool], workbench: Workbench
) -> Record:
    """Restore one image, write its files, and commit its record, which is returned.

    Raises ItemError and DipfastError for what is wrong with the item, OSError where the run's folder cannot be
    written, Cancelled.
    """
    clock = time.perf_counter()
    path = locate(job.path)
    image = _read(job, path)
    if hash_of(path, job.settings["input"]["max_bytes"]) != job.input_sha256:
        raise ItemError("changed", f"{path}: the file changed after the run had started")
    mask = None if job.mask is None else _read(job, job.mask)
    reference = None if job.reference is None else _read(job, job.reference)
    observation = observe(job.settings, image, mask, reference)
    for output in job.outputs:
        check_output(observation.source, output, bit_depth=job.settings["output"]["bit_depth"])
    loaded = time.perf_counter()
    restored = restore(
        job.settings, observation, device, job.id, _reporter(job, send), cancelled, workbench, Shelf(folder, job.id)
    )
    fitted = time.perf_counter()
    files = _save(job, folder, observation, restored)
    seconds = {
        "load": loaded - clock,
        **restored.fit.seconds,
        "save": time.perf_counter() - fitted,
        "total": time.perf_counter() - clock + restored.fit.earlier,
    }
    record = describe(job.id, job.settings, image, observation, restored, seconds)
    record |= files | {"generator": record["generator"] | files["generator"]}
    record["input"] = {"path": job.path, "sha256": job.input_sha256} | record["input"]
    record["input"]["mask"] = job.mask
    folder.commit(record)
    folder.checkpoint(job.id).unlink(missing_ok=True)
    return record


class Shelf:
    """The checkpoint of one item's fit, as a file of the run."""

    def __init__(self, folder: RunFolder, id: str) -> None:
        self.folder, self.path = folder, f"checkpoints/{id}.safetensors"

    def load(self) -> dict[str, Tensor] | None:
        """What another process saved; None where that was nothing that can be read."""
        try:
            return safetensors.torch.load(self.folder.read(self.path))
        except (OSError, safetensors.SafetensorError):
            return None

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Write the file whole or not at all. A disk that cannot take it costs no fit."""
        with suppress(OSError):
            self.folder.put(self.path, safetensors.torch.save(tensors))


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
            send({"event": "progress", "id": job.id, "path": job.path, "step": steps, "steps": total, "loss": loss})

    return report


def _outputs_elsewhere(job: Job, folder: RunFolder) -> list[str]:
    """Pictures of the same id that the run of another shard has written since this one began."""
    record = folder.record(job.id)
    return [] if record is None else [path for path in record["output"]["paths"] if path not in job.outputs]


def _save(job: Job, folder: RunFolder, observation: Observation, restored: Restored) -> dict[str, Any]:
    """Write the pictures and the generator. Returns their paths and hashes, for the record."""
    depth = job.settings["output"]["bit_depth"]
    data = encode(restored.pixels, restored.source, format_of(job.outputs[0]), bit_depth=depth)
    outputs = [*job.outputs, *_outputs_elsewhere(job, folder)]
    for output in outputs:
        folder.put(f"images/{output}", data)
        if observation.damaged:
            damaged = encode(observation.observed, restored.source, "png", bit_depth=depth)
            folder.put(damaged_of(output), damaged)
    path = f"generators/{job.id}.safetensors"
    folder.put(path, restored.generator)
    files: dict[str, Any] = {
        "output": {"sha256": hashlib.sha256(data).hexdigest(), "paths": outputs},
        "generator": {"path": path, "sha256": hashlib.sha256(restored.generator).hexdigest()},
    }
    if restored.deviation is not None:
        mode = "gray" if len(restored.deviation) == 1 else "rgb"
        deviation = encode(restored.deviation, Source("png", mode, 16), "png", bit_depth=16)
        files["output"]["uncertainty"] = _written(folder, uncertainty_of(job.outputs[0]), deviation)
    if restored.kept:
        names = [f"generators/{job.id}.sample-{k + 1}.safetensors" for k in range(len(restored.kept))]
        samples = zip(names, restored.kept, strict=True)
        files["generator"]["samples"] = [_written(folder, name, sample) for name, sample in samples]
    return files


def _written(folder: RunFolder, path: str, data: bytes) -> dict[str, str]:
    folder.put(path, data)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest()}
