"""`dipfast merge`: the runs of shards become one run, in a folder that any verb takes.

Every picture and generator is hashed as it is copied. Nothing is written before it is known that no two runs disagree
and that nothing would be overwritten. Of two results of one id, such as two machines give, the first run's is taken.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from dipfast.errors import UsageError
from dipfast.files import sha256_of, write_atomic
from dipfast.manifest import Item, Manifest, content_id, load
from dipfast.record import Record, damaged_of
from dipfast.store.folder import RunFolder
from dipfast.store.index import Index
from dipfast.store.lock import claimed, writing
from dipfast.store.rows import Entry, read_entries, write_earlier, write_entries
from dipfast.store.sources import forget_source


@dataclass(frozen=True)
class Taken:
    """The result of one id: from which run, and under which names it goes on."""

    run: RunFolder
    record: Record  # short, with the pictures that are intact
    outputs: list[str]


def merge(runs: Sequence[RunFolder], out: RunFolder) -> RunFolder:
    """Copy ``runs`` into ``out``, which is new or holds a run already, that is then merged too.

    Raises UsageError where a folder holds no run, two runs disagree on an output's input or settings, or a file is in
    the way; MachineError where ``out`` cannot be written.
    """
    sources = [*_already(out), *(run for run in runs if run.root.resolve() != out.root.resolve())]
    entries = _entries(sources)
    manifest = _manifest(sources)
    taken = _taken(sources, entries)
    beside = _beside(sources)
    _check_free(out, taken, beside)
    with claimed(out), writing(out):
        for result in taken:
            _copy(result, out)
        for file, target in beside.items():
            out.put(target, file.read_bytes())
        _merge_ledgers(sources, out)
        write_atomic(out.root / "manifest.resolved.yaml", manifest)
        write_entries(out, entries)
        write_earlier(out, [])  # they are in the one list now
        forget_source(out)
        index = Index(out, owner="merge")
        for result in taken:
            index.held(result.record.id)
    return out


def _already(out: RunFolder) -> list[RunFolder]:
    return [out] if any(out.root.glob("items*.jsonl")) else []


def _entries(sources: Sequence[RunFolder]) -> list[Entry]:
    """Return all items, one for each output. An input that could not be read in one run may have been in another."""
    found: dict[str, Entry] = {}
    where: dict[str, RunFolder] = {}
    for run in sources:
        for entry in read_entries(run):
            output = entry["output"]
            other = found.get(output)
            if other is None or other["id"] is None:
                found[output], where[output] = entry, run
            elif entry["id"] not in (None, other["id"]):
                raise UsageError(
                    f"{where[output].root} and {run.root}: {output!r} has another input or other settings in each; "
                    "nothing was merged"
                )
    return list(found.values())


def _manifest(sources: Sequence[RunFolder]) -> bytes:
    """Return one resolved manifest. The shards of one manifest have it in common."""
    files = [run.root / "manifest.resolved.yaml" for run in sources]
    for file in files:
        if not file.is_file():
            raise UsageError(f"{file.parent}: holds no run (it has no manifest.resolved.yaml)")
    texts = list(dict.fromkeys(file.read_bytes() for file in files))
    if len(texts) == 1:
        return texts[0]
    manifests = [load(str(file)) for file in files]
    items: dict[str, tuple[Item, Manifest]] = {}
    for manifest in manifests:
        for item in manifest.items:
            other, first = items.setdefault(item.output, (item, manifest))
            if _fingerprint(other) != _fingerprint(item):
                raise UsageError(
                    f"{first.source} and {manifest.source}: {item.output!r} has other settings in each; "
                    "nothing was merged"
                )
    union = tuple(replace(item, index=i) for i, (item, _) in enumerate(items.values()))
    return replace(manifests[0], items=union).resolved().encode("utf-8", "surrogateescape")


def _fingerprint(item: Item) -> str:
    return content_id("", item.settings, output=item.output)


def _taken(sources: Sequence[RunFolder], entries: Sequence[Entry]) -> list[Taken]:
    """Return the first intact result of every id, under the names that items have for it."""
    wanted: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        if entry["id"] is not None:
            wanted[entry["id"]].add(entry["output"])
    indexes = [(run, Index(run)) for run in sources]
    held = {id: _first(id, indexes) for id in wanted}
    return [Taken(*first, sorted(wanted[id])) for id, first in held.items() if first is not None]


def _first(id: str, indexes: Sequence[tuple[RunFolder, Index]]) -> tuple[RunFolder, Record] | None:
    for run, index in indexes:
        held = index.held(id)
        if held is not None and held[1]:
            return run, replace(held[0], output=held[0].output | {"paths": sorted(held[1])})
    return None


def _beside(sources: Sequence[RunFolder]) -> dict[Path, str]:
    """Return exports and environments: each file and where it goes, relative to the merged run's folder."""
    found: dict[Path, str] = {}
    for run in sources:
        for file in _own(run.root.glob("environment*.json")):
            known = {target for other, target in found.items() if other.read_bytes() != file.read_bytes()}
            digest = sha256(file.read_bytes()).hexdigest()[:8]
            found[file] = file.name if file.name not in known else f"environment.{digest}.json"
        for file in _own(run.at("export/x").parent.rglob("*")):
            found[file] = file.relative_to(run.root).as_posix()
    return found


def _own(paths: Iterable[Path]) -> list[Path]:
    """Return the files among ``paths``, in order; what a link leads to is not the run's."""
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


def _check_free(out: RunFolder, taken: Sequence[Taken], beside: Mapping[Path, str]) -> None:
    """Raise UsageError where a file would be overwritten by another one."""
    planned: dict[str, str] = {}
    for target, digest in [*_pictures_and_generators(taken), *((to, sha256_of(file)) for file, to in beside.items())]:
        there = out.root / target
        if planned.setdefault(target, digest) != digest or (there.exists() and sha256_of(there) != digest):
            raise UsageError(f"{there}: two different files would have this name; nothing was merged")


def _pictures_and_generators(taken: Sequence[Taken]) -> Iterator[tuple[str, str]]:
    for result in taken:
        for output in result.outputs:
            yield f"images/{output}", result.record.output["sha256"]
        yield from result.record.files_beside_pictures.items()


def _copy(result: Taken, out: RunFolder) -> None:
    """Copy one result, its record last. Raises UsageError where a file changed since it was looked at, OSError."""
    run, short = result.run, result.record
    if run is out and set(result.outputs) <= set(short.pictures):
        return
    record = run.record(short.id)
    if record is None:
        raise UsageError(f"{run.root}: changed while it was merged; merge again")
    picture, *_ = short.pictures
    data = _read(run, f"images/{picture}", short.output["sha256"])
    damaged = run.at(damaged_of(picture)).is_file()
    for path, digest in short.files_beside_pictures.items():
        out.put(path, _read(run, path, digest))
    for output in result.outputs:
        out.put(f"images/{output}", data)
        if damaged:
            out.put(damaged_of(output), run.read(damaged_of(picture)))
    out.commit(replace(record, output=record.output | {"paths": result.outputs}))


def _read(run: RunFolder, path: str, digest: str) -> bytes:
    data = run.read(path)
    if sha256(data).hexdigest() != digest:
        raise UsageError(f"{run.root / path}: is not what its record says; run it again")
    return data


def _merge_ledgers(sources: Sequence[RunFolder], out: RunFolder) -> None:
    """Write the events of all runs, each once."""
    lines: dict[str, dict[bytes, None]] = defaultdict(dict)
    for run in sources:
        for file in sorted(run.ledger.glob("*.jsonl")):
            lines[file.name] |= dict.fromkeys(run.read(f"ledger/{file.name}").splitlines())
    for name, events in lines.items():
        out.put(f"ledger/{name}", b"".join(event + b"\n" for event in events))
