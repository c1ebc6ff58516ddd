"""One run, from the items of a manifest to committed records: identify, resume, execute.

`items.jsonl` in the run's folder maps every item to its content id, so that `status`, `report` and `retry` need
neither the inputs nor the manifest's own file.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from dipfast.batch.ledger import Record, RunFolder, dumps, failures, now
from dipfast.batch.local import Event, Outcome, Place, execute
from dipfast.batch.plan import Job, ordered, spread
from dipfast.batch.restore import fit_plan
from dipfast.errors import DipfastError, ItemError, MachineError, UsageError
from dipfast.files import sha256_of, write_atomic
from dipfast.fit import choose_machine
from dipfast.image import Limits, probe
from dipfast.manifest import Item, Manifest, content_id
from dipfast.samples import locate

Resume = Literal["auto", "never", "failed"]


@dataclass(frozen=True)
class Row:
    """One item of a run as it stands: done (with its record), failed (with a reason), or pending."""

    path: str
    output: str
    id: str | None
    status: Literal["done", "failed", "pending"]
    record: Record | None = None
    kind: str | None = None
    reason: str | None = None


@dataclass
class Prepared:
    """The jobs that a manifest comes to, and what failed before it could become one."""

    jobs: list[Job] = field(default_factory=list)
    failed: list[Event] = field(default_factory=list)
    entries: list[dict[str, Any]] = field(default_factory=list)  # for items.jsonl


@dataclass(frozen=True)
class RunResult:
    """What `run` did: the folder, rows of all items, how many were done before, wall seconds, and the signal if any."""

    folder: RunFolder
    rows: list[Row]
    already_done: int
    seconds: float
    signal: int | None
    gave_up: str | None

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some failed, 128 + signal for an interrupted run."""
        if self.signal is not None:
            return 128 + self.signal
        return 3 if self.gave_up or any(row.status != "done" for row in self.rows) else 0


def prepare(items: Sequence[Item]) -> Prepared:
    """Read every input's bytes and header. What cannot be read fails alone."""
    prepared = Prepared()
    by_id: dict[str, Job] = {}
    for item in items:
        entry = {"path": item.path, "output": item.output, "id": None}
        try:
            job = _identify(item)
            twin = by_id.get(job.id)
            if twin is not None and None not in (twin.reference, job.reference) and twin.reference != job.reference:
                job = _identify(item, apart=True)
                twin = by_id.get(job.id)
        except ItemError as error:
            about = {"id": None, "path": item.path, "kind": error.kind, "reason": str(error)}
            prepared.failed.append({"event": "failed", **about})
        else:
            by_id[job.id] = job if twin is None else _merged(twin, job)
            entry["id"] = job.id
        prepared.entries.append(entry)
    prepared.jobs = list(by_id.values())
    return prepared


def _merged(twin: Job, job: Job) -> Job:
    return replace(twin, outputs=twin.outputs + job.outputs, reference=twin.reference or job.reference)


def _identify(item: Item, apart: bool = False) -> Job:
    """The job of one item. ``apart``: from a twin's that is measured against another reference."""
    settings = item.settings.model_dump(mode="json")
    path = str(locate(item.path))
    limits = settings["input"]
    header = probe(path, Limits(**(limits | {"formats": tuple(limits["formats"])})))
    digest = _hash(path)
    extra = {} if item.mask is None else {"mask": _hash(item.mask)}
    if apart and item.reference is not None:
        extra["reference"] = _hash(item.reference)
    return Job(
        id=content_id(digest, item.settings, extra, item.output),
        path=item.path,
        input_sha256=digest,
        outputs=(item.output,),
        settings=settings,
        mask=item.mask,
        reference=item.reference,
        shape=(header.channels, header.height, header.width),
    )


def _hash(path: str) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise ItemError("unreadable", f"{path}: {error.strerror or error}") from None


def run(
    manifest: Manifest,
    folder: RunFolder,
    *,
    devices: str = "auto",
    workers: int | None = None,
    resume: Resume = "auto",
    max_failures: int | None = None,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RunResult:
    """Restore every item of ``manifest`` that ``folder`` does not hold yet.

    ``devices``: auto, cpu, or cuda:0,1 …; ``workers``: processes on a CPU, by default one a core. Raises UsageError
    where another run has the folder or it cannot be written, MachineError for devices that there are not.
    """
    start = time.perf_counter()
    places = ready(manifest, devices, workers)
    with Locked(folder):
        prepared = prepare(manifest.items)
        _write_head(manifest, folder, prepared)
        for event in prepared.failed:
            folder.log("driver", **event)
            on_event(event)
        todo, done = _split(prepared.jobs, folder, resume)
        on_event({"event": "started", "jobs": len(todo), "done": done, "time": now()})
        outcome = Outcome()
        allowed = None if max_failures is None else max_failures - len(prepared.failed)
        if allowed is not None and allowed < 0:
            outcome.gave_up = "more items failed than allowed"
        elif todo:
            outcome = execute(ordered(todo), places[: len(todo)], folder, on_event, allowed)
        rows = rows_of(folder)
    seconds = time.perf_counter() - start
    return RunResult(folder, rows, done, seconds, outcome.signal, outcome.gave_up)


def ready(manifest: Manifest, devices: str, workers: int | None = None) -> list[Place]:
    """The workers of a run, where nothing forbids it: no device, engine, precision or sample that is not here.

    Raises UsageError or MachineError otherwise, before anything is read or written.
    """
    places = places_for(devices, len(manifest.items), workers)
    for item in manifest.items:
        locate(item.path)
    for settings in {id(item.settings.fit): item.settings for item in manifest.items}.values():
        for device in {place.device for place in places}:
            choose_machine(fit_plan(settings.model_dump(mode="json"), device))
    return places


class Locked:
    """The folder's lock for the length of a `with`, and one line for a folder that cannot be written."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __enter__(self) -> None:
        try:
            self.lock = self.folder.lock()
        except OSError as error:
            raise UsageError(f"output {self.folder.root}: cannot be written ({error.strerror or error})") from None

    def __exit__(self, *_: object) -> None:
        self.lock.release()


def _write_head(manifest: Manifest, folder: RunFolder, prepared: Prepared) -> None:
    write_atomic(folder.root / "manifest.resolved.yaml", manifest.resolved().encode("utf-8", "surrogateescape"))
    write_atomic(folder.root / "environment.json", dumps(environment()))
    lines = (json.dumps(entry, ensure_ascii=False) + "\n" for entry in prepared.entries)
    write_atomic(folder.root / "items.jsonl", "".join(lines).encode("utf-8", "backslashreplace"))


def environment() -> dict[str, Any]:
    """Versions, machine and command line, for `environment.json`."""
    from importlib.metadata import version

    names = ("dipfast", "torch", "numpy", "pillow", "tifffile", "imagecodecs", "safetensors", "scikit-image")
    return {
        "time": now(),
        "command": sys.argv,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "host": platform.node(),
        "cores": cores(),
        "versions": {name: version(name) for name in names},
    }


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def places_for(devices: str, jobs: int, workers: int | None = None) -> list[Place]:
    """A worker for each device that ``devices`` names. Raises UsageError or MachineError with the reason."""
    if devices in ("auto", "cpu"):
        count = 0 if devices == "cpu" else _cuda_devices()
        if count == 0:
            number, threads = spread(cores(), jobs, workers)
            return [Place(f"cpu-{i}", "cpu", threads) for i in range(number)]
        indices = list(range(count))
    else:
        indices = _indices(devices)
        if max(indices) >= _cuda_devices():
            raise MachineError(f"--devices {devices}: this machine has {_cuda_devices()} CUDA devices")
    return [Place(f"cuda-{i}", f"cuda:{i}", max(1, cores() // len(indices))) for i in indices]


def _indices(devices: str) -> list[int]:
    kind, _, numbers = devices.partition(":")
    if kind != "cuda" or not all(number.isdecimal() and number.isascii() for number in numbers.split(",")):
        raise UsageError(f"--devices should be auto, cpu, or cuda:0,1 and so on, is {devices!r}")
    return sorted({int(number) for number in numbers.split(",")})


def _cuda_devices() -> int:
    import torch

    return torch.cuda.device_count()


def _split(jobs: Sequence[Job], folder: RunFolder, resume: Resume) -> tuple[list[Job], int]:
    """The jobs to fit, and how many are done. Those whose picture is there under another name count as done."""
    if resume == "never":
        return list(jobs), 0
    undone = [job for job in jobs if not _is_done(job, folder)]
    done = len(jobs) - len(undone)
    if resume == "failed":
        failed = failures(folder)
        undone = [job for job in undone if job.id in failed or job.path in failed]
    return undone, done


def _is_done(job: Job, folder: RunFolder) -> bool:
    record = folder.record(job.id)
    if record is None:
        return False
    paths = record["output"]["paths"]
    if set(job.outputs) <= set(paths):
        return folder.holds(record)
    return _copied(job, folder, record)


def _copied(job: Job, folder: RunFolder, record: Record) -> bool:
    """Give a moved or renamed input its picture from the record's. False where no intact one is left."""
    for path in record["output"]["paths"]:
        one = {**record, "output": {**record["output"], "paths": [path]}}
        if folder.holds(one):
            data = (folder.images / path).read_bytes()
            for output in job.outputs:
                write_atomic(folder.images / output, data)
            folder.commit({**record, "output": {**record["output"], "paths": list(job.outputs)}})
            return True
    return False


def rows_of(folder: RunFolder) -> list[Row]:
    """Every item of the folder's last run as it stands. Raises UsageError where the folder holds no run."""
    failed = failures(folder)
    return [_row(entry, folder, failed) for entry in _entries(folder)]


def _entries(folder: RunFolder) -> Iterator[dict[str, Any]]:
    try:
        lines = (folder.root / "items.jsonl").read_bytes().splitlines()
    except OSError:
        raise UsageError(f"{folder.root}: holds no run (it has no items.jsonl)") from None
    try:
        return iter([json.loads(line) for line in lines])
    except ValueError:
        raise DipfastError(f"{folder.root}/items.jsonl: is damaged; run the manifest again") from None


def _row(entry: dict[str, Any], folder: RunFolder, failed: dict[str, Record]) -> Row:
    record = folder.record(entry["id"]) if entry["id"] else None
    if record is not None and entry["output"] in record["output"]["paths"]:
        return Row(**entry, status="done", record=record)
    failure = failed.get(entry["id"] or entry["path"])
    if failure is not None:
        return Row(**entry, status="failed", kind=failure.get("kind"), reason=failure.get("reason"))
    return Row(**entry, status="pending")


def row_as_json(row: Row) -> dict[str, Any]:
    """A row without its record's bulk, for `status --json`."""
    return {key: value for key, value in asdict(row).items() if key != "record"}
