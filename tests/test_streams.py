"""Standard streams: whatever their encoding, reader and disk are, no command fails of what it prints."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from dipfast.cli.app import main
from dipfast.streams import Enduring, enduring


def printing_into(
    monkeypatch: pytest.MonkeyPatch, descriptor: int, encoding: str = "utf-8", name: str = "stdout"
) -> None:
    """Have standard output, or standard error, lead there."""
    file = io.FileIO(descriptor, "w", closefd=False)
    monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BufferedWriter(file), encoding))


@pytest.mark.parametrize(
    ("encoding", "written"),
    [
        ("utf-8", "é 雪 20 → 28×".encode() + b" caf\xe9"),
        ("cp1252", b"\xe9 \\u96ea 20 -> 28\xd7 caf\xe9"),
        ("latin-1", b"\xe9 \\u96ea 20 -> 28\xd7 caf\xe9"),
        ("ascii", b"\\xe9 \\u96ea 20 -> 28x caf\xe9"),
        ("utf-16-le", "é 雪 20 → 28×".encode("utf-16-le")),
    ],
)
def test_what_an_encoding_lacks_is_written_with_what_it_has(
    monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes
) -> None:
    out, into = os.pipe()
    printing_into(monkeypatch, into, encoding)
    with enduring():
        sys.stdout.write("é 雪 20 → 28×" + (" caf\udce9" if encoding != "utf-16-le" else ""))
    assert os.read(out, 99) == written


@pytest.mark.parametrize("verb", ["schema", "--help"])
def test_a_reader_that_has_seen_enough_is_no_error(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    os.close(out)
    printing_into(monkeypatch, into)
    assert main([verb]) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("verb", ["schema", "--help", "doctor"])
def test_a_full_disk_behind_standard_output_is_one_line(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        printing_into(monkeypatch, full.fileno())
        assert main([verb]) == 5
    assert capsys.readouterr().err == "dipfast: error: standard output: No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_full_disk_behind_standard_error_changes_no_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        printing_into(monkeypatch, full.fileno(), name="stderr")
        assert main(["run", "nowhere"]) == 2


def test_the_first_error_is_kept_and_later_writes_are_passed_over() -> None:
    out, into = os.pipe()
    os.close(out)
    with Enduring(into, "w") as file:
        assert [file.write(b"abc"), file.write(memoryview(b"abcd"))] == [3, 4]
        assert isinstance(file.error, BrokenPipeError) and file.error.errno == errno.EPIPE


def test_a_pipe_that_does_not_block_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    out, into = os.pipe()
    os.set_blocking(into, False)
    printing_into(monkeypatch, into)
    taken: list[int] = []

    def take() -> None:
        while data := os.read(out, 1 << 16):
            taken.append(len(data))

    reader = threading.Thread(target=take)
    reader.start()
    with enduring():
        sys.stdout.write("x" * (1 << 20))
    os.close(into)
    reader.join()
    assert sum(taken) == 1 << 20


def test_streams_that_are_no_files_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with enduring() as error:
        print("→")
        assert error() is None
    assert sys.stdout.getvalue() == "→\n"


def test_closed_streams_lead_nowhere_and_no_file_takes_their_place() -> None:
    code = (
        "import os, sys, tempfile\n"
        "from dipfast.streams import enduring\n"
        "with enduring() as error, tempfile.TemporaryFile() as file:\n"
        "    print('out'); print('err', file=sys.stderr)\n"
        "    os._exit(0 if error() is None and file.fileno() > 2 else 3)\n"
    )
    shell = ["sh", "-c", 'exec "$0" -c "$1" <&- >&- 2>&-', sys.executable, code]
    assert subprocess.run(shell, check=False).returncode == 0
