"""What a path given to `export`, `render` or `variants` stands for: generators, with their records where there are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dipfast.errors import NothingMatchedError, UsageError
from dipfast.store.folder import Record, RunFolder

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Target:
    """One generator's file, and the run and record that it comes from."""

    generator: Path
    run: RunFolder | None = None
    record: Record | None = None

    @property
    def folder(self) -> Path:
        """The folder for what is made of it, unless something else is said: `RUN/export`, or beside it."""
        return self.generator.parent if self.run is None else inside(self.run, "export/x").parent


def targets(path: Path) -> list[Target]:
    """Return the generators that ``path`` stands for: a run's folder, a folder of generators, or one generator.

    Raises UsageError for what is none of them, NothingMatchedError for a run in which nothing is done.
    """
    if path.is_file():
        return [_one(path)]
    if not path.is_dir():
        raise UsageError(f"{path}: should be a run's folder or a generator, is not there")
    run = RunFolder(path)
    if run.records.is_dir() or run.generators.is_dir():
        found = [Target(inside(run, record["generator"]["path"]), run, record) for record in run.all_records()]
        return _some(found, f"{path}: no image of this run is done")
    files = sorted(path.glob(f"*{SUFFIX}"))
    return _some([_one(file) for file in files], f"{path}: holds neither a run nor generators (*{SUFFIX})")


def inside(run: RunFolder, path: str) -> Path:
    """Return a file of the run's folder. Raises UsageError where a linked folder would lead out of it."""
    try:
        return run.at(path)
    except OSError as error:
        raise UsageError(f"{run.root}: {error.strerror}") from None


def _one(path: Path) -> Target:
    run = RunFolder(path.resolve().parent.parent)
    record = run.record(path.stem) if path.resolve().parent == run.generators else None
    return Target(path) if record is None else Target(path, run, record)


def _some(found: list[Target], otherwise: str) -> list[Target]:
    if not found:
        raise NothingMatchedError(otherwise)
    return found
