"""Who may write into a run's folder: one whole run, or one run of each shard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dipfast.errors import MachineError, UsageError
from dipfast.store.folder import RunFolder
from dipfast.store.lock import claimed, writing

WHOLE = None


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def elsewhere(folder: RunFolder, shard: Any, then: str = "print('mine')") -> subprocess.CompletedProcess[str]:
    """Claim ``folder`` in another process."""
    code = f"""
import os
from pathlib import Path
from dipfast.store.folder import RunFolder
from dipfast.store.lock import claimed
with claimed(RunFolder(Path({str(folder.root)!r})), {shard!r}):
    {then}
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("first", "second", "whose"),
    [
        (WHOLE, WHOLE, ""),
        (WHOLE, (1, 2), ""),
        ((1, 2), WHOLE, "shard 1/2, "),
        ((1, 2), (1, 2), "shard 1/2, "),
        ((1, 2), (1, 3), "shard 1/2, "),
    ],
)
def test_a_second_run_of_the_same_items_is_refused_with_the_pid_and_host_of_the_first(
    folder: RunFolder, first: Any, second: Any, whose: str
) -> None:
    with claimed(folder, first):
        done = elsewhere(folder, second)
    assert f"another run writes here ({whose}pid {os.getpid()} on {os.uname().nodename})" in done.stderr
    assert elsewhere(folder, second).stdout == "mine\n"


def test_two_shards_have_a_folder_together(folder: RunFolder) -> None:
    with claimed(folder, (1, 2)):
        assert elsewhere(folder, (2, 2)).stdout == "mine\n"


@pytest.mark.parametrize("shard", [WHOLE, (1, 2)])
def test_what_a_dead_process_held_is_free(folder: RunFolder, shard: Any) -> None:
    assert elsewhere(folder, shard, then="os._exit(9)").returncode == 9
    with claimed(folder, shard):
        pass


def test_a_folder_claimed_in_this_process_is_refused_too(folder: RunFolder) -> None:
    with claimed(folder), pytest.raises(UsageError, match="another run writes here"), claimed(folder):
        pass


def test_a_file_in_the_folders_place_is_one_line(folder: RunFolder) -> None:
    folder.root.write_text("")
    with pytest.raises(UsageError, match=r"run: cannot be written"), claimed(folder):
        pass


def test_a_disk_that_takes_no_more_is_one_line(folder: RunFolder) -> None:
    words = r"run: cannot be written \(No space left on device\); what is done stays done"
    with pytest.raises(MachineError, match=words), writing(folder):
        raise OSError(28, "No space left on device")
