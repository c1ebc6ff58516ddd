"""``-o FILE.png``, the file of one restored picture, and ``--open``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from dipfast.errors import MachineError, UsageError

if TYPE_CHECKING:
    from dipfast.batch.run import RunResult
    from dipfast.manifest import Manifest


def file_of(output: str | None) -> Path | None:
    """Return the file that ``output`` names by a picture's ending; None where it names a folder or an address.

    Raises UsageError for a format that is not written.
    """
    from dipfast.remote import is_remote
    from dipfast.settings.files import SUFFIXES, UNREAD, WRITTEN

    if not output or is_remote(output) or output.endswith(("/", os.sep)) or Path(output).is_dir():
        return None
    ending = Path(output).suffix.lower()
    if ending not in SUFFIXES and ending not in UNREAD:
        return None
    if ending not in WRITTEN:
        raise UsageError(
            f"-o {output}: {ending} is not written: end it in .png, .jpg, .tif, .webp or .avif, or in / for a folder"
        )
    return Path(output)


def check_file(file: Path, manifest: Manifest) -> None:
    """Raise UsageError where ``file`` is not the place of one picture, or one that would be lost by writing it."""
    if len(manifest.items) != 1:
        raise UsageError(f"-o {file}: is the file of one picture, and there are {len(manifest.items)}: name a folder")
    item = manifest.items[0]
    for role, path in (("picture itself", item.path), ("picture's mask", item.mask), ("reference", item.reference)):
        if path is not None and file.exists() and Path(path).exists() and file.samefile(path):
            raise UsageError(f"-o {file}: is the {role}, which is never written over: name another file")
    folder = next(folder for folder in file.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"-o {file}: {folder} is no folder that can be written into")


def write_file(file: Path, result: RunResult) -> bool:
    """Write the one picture of ``result`` to ``file``, where it is done, and return whether it is.

    Raises MachineError where ``file`` cannot be written.
    """
    from dipfast.files import write_atomic

    [row] = result.rows
    if row.status != "done":
        return False
    try:
        write_atomic(file, result.folder.read(f"images/{row.output}"))
    except OSError as error:
        there = result.folder.images / row.output
        raise MachineError(f"-o {file}: cannot be written ({error.strerror}); the picture is {there}") from None
    return True


def open_result(result: RunResult, file: Path | None) -> None:
    """Open the picture of a run of one, or the report, in the program that the system has for it."""
    done = [row for row in result.rows if row.status == "done"]
    report = result.folder.root / "report.html"
    if len(result.rows) == 1 and done:
        shown = file or result.folder.images / done[0].output
    else:
        shown = report if report.is_file() else result.folder.images
    if typer.launch(str(shown.absolute())):
        print(f"--open: this system has no program that opens {shown}", file=sys.stderr)
