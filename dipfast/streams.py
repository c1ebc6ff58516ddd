"""Standard output and standard error that never end a command: a result that cannot be shown is still a result.

Characters that the terminal's encoding lacks are written with those that it has. A write that fails, into a pipe whose
reader has left or onto a full disk, is kept in mind for the exit code, and nothing more is written to that stream.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

ASCII = {"→": "->", "–": "-", "—": "-", "−": "-", "×": "x", "…": "...", "∞": "inf"}
INSTEAD = "dipfast.instead"  # the name of `_instead` for codecs
BYTES = range(0xDC80, 0xDD00)  # how Python spells bytes of a file's name that are no text


def _instead(error: UnicodeError) -> tuple[str | bytes, int]:
    """What stands for a character that an encoding lacks: the nearest ASCII, or an escape. An odd byte stays itself."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character, after = error.object[error.start], error.start + 1
    if ord(character) in BYTES:
        return bytes([ord(character) - 0xDC00]), after
    return ASCII.get(character) or character.encode("ascii", "backslashreplace").decode(), after


codecs.register_error(INSTEAD, _instead)


class Enduring(io.FileIO):
    """A file whose writes do not fail. ``error``: why one could not be done, from which on all are passed over."""

    error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        while self.error is None:
            try:
                written: int | None = super().write(data)
            except OSError as error:
                self.error = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # it does not block, and has no room now
        return memoryview(data).nbytes


@contextmanager
def enduring() -> Iterator[Callable[[], OSError | None]]:
    """Have standard output and standard error write through `Enduring` files. Gives what asks for the output's error.

    Where a stream is no file, as in a test or in a notebook, it stays as it is. One that is closed leads nowhere.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = streams = [_through(stream) for stream in before]

    def error() -> OSError | None:
        streams[0].flush()
        file = getattr(getattr(streams[0], "buffer", None), "raw", None)
        return file.error if isinstance(file, Enduring) else None

    try:
        yield error
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Have closed standard streams lead nowhere; else the next file that is opened would take their number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def _through(stream: TextIO | None) -> TextIO:
    """A stream as ``stream`` that writes through an `Enduring` file, where ``stream`` writes into a file."""
    if stream is None:
        return _wrapped(os.open(os.devnull, os.O_WRONLY), "utf-8")
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stream, io.TextIOWrapper) or type(raw) is not io.FileIO:
        return stream
    stream.flush()
    return _wrapped(raw.fileno(), stream.encoding, stream.line_buffering, stream.write_through)


def _wrapped(number: int, encoding: str, line_buffering: bool = False, write_through: bool = False) -> TextIO:
    """A stream into the file of that descriptor, which stays open."""
    file = io.BufferedWriter(Enduring(number, "w", closefd=False))
    return io.TextIOWrapper(file, encoding, INSTEAD, line_buffering=line_buffering, write_through=write_through)
