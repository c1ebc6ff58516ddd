"""One run, from the items of a manifest to committed records: identify, resume, execute."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

from dipfast.batch.prepare import Prepared, distrusted, prepare
from dipfast.batch.remeasure import measure_again, needs_measuring
from dipfast.batch.snapshot import done_before, keep
from dipfast.environment import changed_software, environment, places_for
from dipfast.errors import MachineError, NothingMatchedError
from dipfast.files import write_atomic
from dipfast.fit import choose_machine
from dipfast.manifest import Manifest
from dipfast.manifest.yaml import collector_paused
from dipfast.plan import Job, Place
from dipfast.plan import shard as part
from dipfast.record import now
from dipfast.remote import is_remote, protocol
from dipfast.samples import PREFIX as SAMPLE
from dipfast.samples import locate
from dipfast.store.folder import RunFolder, Shard, dumps, suffix
from dipfast.store.index import Index
from dipfast.store.lock import claimed, writing
from dipfast.store.mirror import Mirror, mirrored
from dipfast.store.rows import (
    EARLIER,
    Row,
    by_path,
    done_rows,
    rows_of,
    write_earlier,
    write_entries,
)
from dipfast.store.sources import check_free, in_words, kept_of, note_source, read_before, source_of
from dipfast.text import count
from dipfast.workers.items import CHANGED
from dipfast.workers.local import Event, Outcome, execute
from dipfast.workers.options import Resume, RunOptions

DEFAULT = RunOptions()
PICTURES = ("images", "damaged", "uncertainty")  # folders that hold the outputs' names


@dataclass(frozen=True)
class RunResult:
    """What `run` did: the folder, rows of its items, how many were done before, wall seconds, and the signal if any.

    ``idle``: it found all its items done; ``summary``: what the folder's `summary.json` says, where that was asked for.
    ``alone``: whether the folder holds nothing of other sources.
    """

    folder: RunFolder
    rows: list[Row]
    already_done: int
    seconds: float
    signal: int | None
    gave_up: str | None
    idle: bool = False
    alone: bool = True
    summary: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """0 all done, 3 some failed, 128 + signal for an interrupted run."""
        if self.signal is not None:
            return 128 + self.signal
        return 3 if self.gave_up or any(row.status != "done" for row in self.rows) else 0


def run(
    manifest: Manifest,
    folder: RunFolder,
    options: RunOptions = DEFAULT,
    on_event: Callable[[Event], None] = lambda event: None,
) -> RunResult:
    """Restore every item of ``manifest``, or of the shard in ``options``, that ``folder`` does not hold yet.

    Raises UsageError for a wrong argument, where another run has the folder, and where results of another source that
    it holds would be written over; NothingMatchedError for an empty shard, MachineError for devices that there are not
    and where the folder cannot be written; what is done then stays done.
    """
    start = time.perf_counter()
    options.check()
    shard, resume = options.shard, options.resume
    mine = shard_of(manifest, shard)
    places = ready(mine, options)
    with claimed(folder, shard), writing(folder), mirrored(folder) as mirror:
        index, driver = Index(folder, owner=options.named("run")), options.named("driver")
        changes = _changed_software(folder)
        with collector_paused():  # once for all: what is found grows to millions of objects, and none is garbage
            _check_folders([], folder)
            known = None if resume == "never" or mirror.address else done_before(folder, mine.items, shard)
            if known is None:
                prepared = _prepared(manifest, mine, folder, shard, index, on_event)
                for event in prepared.failed:
                    folder.log(driver, **event)
                    on_event(event)
                todo, done = _looked_at(prepared.jobs, folder, index, resume, mirror)
                for id in _measured_again(prepared.jobs, {job.id for job in todo}, folder, index, on_event):
                    mirror.done(id)
            else:
                _write_head(manifest, folder, shard)
                note_source(folder, source_of(manifest, folder))
                prepared, todo, done = Prepared(), [], len(known)
        if changes and done:
            on_event({"event": "warning", "reason": f"{changes}; what is done stays (--resume never does it again)"})
        on_event({"event": "started", "jobs": len(todo), "done": done, "time": now()})

        def hear(event: Event) -> None:
            if event["event"] == "done":
                index.held(event["id"])  # read back what was written
                mirror.done(event["id"])
            on_event(event)

        outcome = Outcome()
        left = _with_failures(options, len(prepared.failed))
        if left.max_failures is not None and left.max_failures < 0:
            outcome.gave_up = "more items failed than allowed"
        elif todo and options.executor == "ray":
            from dipfast.workers import ray

            outcome = ray.execute(todo, len(mine.items), folder, hear, left)
        elif todo:
            named = [replace(place, name=options.named(place.name), cohort=options.cohort) for place in places]
            outcome = execute(todo, named[: len(todo)], folder, hear, left)
        changed = {event["id"] for event in outcome.failed if event.get("kind") == CHANGED}
        if changed:
            write_entries(folder, distrusted(prepared.entries, changed), shard)
        idle = not (todo or prepared.failed)
        if known is not None or idle:
            ids = known or [entry["id"] for entry in prepared.entries]
            rows = done_rows(((item.path, item.output, id) for item, id in zip(mine.items, ids, strict=True)), index)
        else:
            rows = rows_of(folder, prepared.entries, index)
        if known is None and not mirror.address and all(row.status == "done" for row in rows):
            keep(folder, mine.items, prepared.entries, index, shard)
    if outcome.broken is not None:
        raise MachineError(f"{folder.root}: {outcome.broken}")
    seconds = time.perf_counter() - start
    alone = not (folder.root / EARLIER).exists()
    return RunResult(folder, rows, done, seconds, outcome.signal, outcome.gave_up, idle, alone)


def _with_failures(options: RunOptions, failed: int) -> RunOptions:
    """Return the options of what is left to do, when ``failed`` items have failed already."""
    most = options.max_failures
    return options if most is None else replace(options, max_failures=most - failed)


def shard_of(manifest: Manifest, shard: Shard | None) -> Manifest:
    """Return the manifest with the items of one shard. Raises NothingMatchedError where there are none."""
    if shard is None:
        return manifest
    items = tuple(part(manifest.items, *shard))
    if not items:
        raise NothingMatchedError(f"{manifest.source}: no item is left by --shard {shard[0]}/{shard[1]}")
    return replace(manifest, items=items)


def _changed_software(folder: RunFolder) -> str | None:
    """Return what software is another than when the folder's last run was made; None where none is."""
    try:
        return changed_software(json.loads((folder.root / "environment.json").read_bytes()))
    except (OSError, ValueError):
        return None


def ready(manifest: Manifest, options: RunOptions) -> list[Place]:
    """Return the workers of a run, where nothing forbids it: no device, engine, precision or sample that is not here.

    On Ray they are known when the cluster is; what its devices cannot do is said by them, item by item.

    Raises UsageError or MachineError otherwise, before anything is read or written.
    """
    on_ray = options.executor == "ray"
    if on_ray and find_spec("ray") is None:
        raise MachineError("--executor ray: Ray is not installed; pip install 'dipfast[ray]'")
    count, workers, threads = len(manifest.items), options.workers, options.threads
    places = [] if on_ray else places_for(options.devices, count, workers, threads)
    for item in manifest.items:
        if item.path.startswith(SAMPLE):
            locate(item.path)
    for name in {n for item in manifest.items for n in (item.path, item.mask, item.reference) if n and is_remote(n)}:
        protocol(name.partition("://")[0])
    for settings in {id(item.shared.fit): item.shared for item in manifest.items}.values():
        for device in {place.device for place in places}:
            choose_machine(settings.fit, device)
    return places


def _write_head(manifest: Manifest, folder: RunFolder, shard: Shard | None) -> None:
    """Write what a run is, before it begins. The manifest is the whole one, for every shard."""
    write_atomic(folder.root / "manifest.resolved.yaml", manifest.resolved().encode("utf-8", "surrogateescape"))
    here = dumps(environment())
    for name in sorted({"environment.json", f"environment{suffix(shard)}.json"}):
        write_atomic(folder.root / name, here)


def _prepared(
    manifest: Manifest,
    mine: Manifest,
    folder: RunFolder,
    shard: Shard | None,
    index: Index,
    on_event: Callable[[Event], None],
) -> Prepared:
    """Return the jobs of a run, and write its list of items and that of what other sources have done in its folder.

    Raises UsageError, before anything is written, where their results are in the way.
    """
    source = source_of(manifest, folder)
    before = read_before(folder, source)
    prepared = prepare(mine.items, by_path(before.seen))
    check_free(before.foreign, prepared.entries, index)
    kept, dropped = kept_of(before.foreign, manifest.items, prepared.entries, folder)
    _write_head(manifest, folder, shard)
    write_earlier(folder, kept)
    write_entries(folder, prepared.entries, shard, before.last)
    note_source(folder, source)
    if (text := in_words(kept, dropped, folder)) is not None:
        on_event({"event": "note", "reason": text})
    return prepared


def _looked_at(
    jobs: Sequence[Job], folder: RunFolder, index: Index, resume: Resume, mirror: Mirror
) -> tuple[list[Job], int]:
    """Return the jobs to fit, and how many are done, here or where the results go."""
    _check_folders(jobs, folder)
    there = mirror.held()
    if resume != "never":
        mirror.take_back([job.id for job in jobs], there)
    todo, done = _split(jobs, folder, index, resume)
    for id in {job.id for job in jobs} - {job.id for job in todo} - there:
        mirror.done(id)
    return todo, done


def _measured_again(
    jobs: Sequence[Job], todo: Collection[str], folder: RunFolder, index: Index, on_event: Callable[[Event], None]
) -> list[str]:
    """Measure what is done against references that its records do not know, and return the ids."""
    ids = []
    for job in jobs:
        if job.reference_sha256 is None or job.id in todo:
            continue
        known = index.record(job.id)
        if known is None or not needs_measuring(job, known) or (record := folder.record(job.id)) is None:
            continue
        reason = measure_again(job, folder, record)
        index.held(job.id)  # read back what was written
        ids.append(job.id)
        if reason is not None:
            on_event({"event": "warning", "reason": f"{job.path}: has no metrics: {reason}"})
    if ids:
        text = f"{count(len(ids), 'picture')} measured again: references were given or changed since"
        on_event({"event": "warning", "reason": text})
    return ids


def _check_folders(jobs: Sequence[Job], folder: RunFolder) -> None:
    """Raise OSError where a file of the run would be reached through a link: said before an hour is spent."""
    pictures = {output.rpartition("/")[0] for job in jobs for output in job.outputs}
    folders = {f"{kind}/{below}".rstrip("/") for kind in PICTURES for below in pictures}
    for path in sorted(folders | {"records", "generators", "checkpoints", "ledger", ".index"}):
        folder.at(f"{path}/x")


def _split(jobs: Sequence[Job], folder: RunFolder, index: Index, resume: Resume) -> tuple[list[Job], int]:
    """Return the jobs to fit, whose records are taken back, for what failed has none, and how many are done."""
    undone = [job for job in jobs if resume == "never" or not _is_done(job, folder, index)]
    for job in undone:
        folder.forget(job.id)
        if resume == "never":
            folder.checkpoint(job.id).unlink(missing_ok=True)
    return undone, len(jobs) - len(undone)


def _is_done(job: Job, folder: RunFolder, index: Index) -> bool:
    """Return whether all pictures of ``job`` are there; one that another item of the same id has is copied."""
    intact = index.pictures(job.id, job.outputs)
    missing = set(job.outputs) - intact
    if missing and intact:
        data = folder.read(f"images/{min(intact)}")
        for output in missing:
            folder.put(f"images/{output}", data)
        _rename(job, folder, sorted(intact))
    return bool(intact)


def _rename(job: Job, folder: RunFolder, intact: Sequence[str]) -> None:
    """Have the record name the pictures of ``job``, and those that other items have of it."""
    record = folder.record(job.id)
    assert record is not None
    paths = [*job.outputs, *(path for path in intact if path not in job.outputs)]
    folder.commit(replace(record, output=record.output | {"paths": paths}))
