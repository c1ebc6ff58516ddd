"""How the command line ends: signals, and errors as one line and an exit code. Only a bug shows a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dipfast.errors import MachineError
from dipfast.files import DISK_IS_OUT
from dipfast.text import printable


def unwritten(error: OSError | None) -> int:
    """The exit code of a command that is done and could not print all of it: a reader that left has seen enough."""
    if error is None or isinstance(error, BrokenPipeError):
        return 0
    print(f"dipfast: error: standard output: {error.strerror}", file=sys.stderr)
    return MachineError.exit_code


class Terminated(BaseException):
    """A SIGTERM where no driver waits for one: before its workers start, and when they are gone."""


@contextmanager
def terminable() -> Iterator[None]:
    """Have a SIGTERM end the command as a Ctrl-C does: what is open is closed, and no temporary file stays."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def shown(error: Exception) -> str:
    """All its lines, with nothing in them that moves a cursor."""
    return "\n".join(map(printable, str(error).split("\n")))


def amiss(error: OSError) -> int:
    """A file that cannot be written or read, such as where -o leads: a user's to mend, where it has a name."""
    if error.filename is None and error.errno not in DISK_IS_OUT:
        return other(error)
    where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
    print(f"dipfast: error: {printable(f'{where}{error.strerror}')}", file=sys.stderr)
    return MachineError.exit_code


def _as_set(error: Exception) -> str:
    """Return what to say of an option of `run` and `plan` that is no option and is named as a manifest's key."""
    option, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    if option is None or context is None or context.info_name not in ("run", "plan"):
        return ""
    from dipfast.manifest import keys_of_option

    keys = keys_of_option(option, getattr(error, "possibilities", None) or ())
    sets = " or ".join(f"--set {key}=..." for key in keys[:3])
    return f"No such option: {option}; give {sets}" if keys else ""


def other(error: Exception) -> int:
    """A wrong option is typer's to word, on one line; anything else is a bug, and shows where."""
    worded: Callable[[], str] | None = getattr(error, "format_message", None)
    if worded is not None:
        context = getattr(error, "ctx", None)
        text = _as_set(error) or worded().replace("Value error, ", "")
        hint = "" if context is None or "\n" in text else f" ({context.command_path} --help)"
        print(text if "\n" in text else f"dipfast: error: {text}{hint}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    traceback.print_exc()
    print("dipfast: internal error; the lines above say where", file=sys.stderr)
    return 1
