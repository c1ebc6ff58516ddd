"""What is read of inputs: the same answer from one process and from several."""

from __future__ import annotations

from pathlib import Path

import pytest

from dipfast.errors import ItemError
from dipfast.image import Limits
from dipfast.store import inputs as module
from dipfast.store.inputs import look_at


def told(found: object) -> object:
    return (found.kind, str(found)) if isinstance(found, ItemError) else found


def test_processes_say_what_one_says_and_in_its_order(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (inputs / "bad.png").write_bytes(b"no picture")
    names = ["a.png", "gone.png", "b.png", "bad.png", "c.png"]
    requests = [(str(inputs / name), Limits()) for name in names]
    alone = [told(found) for found in look_at(requests, hashing=True)]
    monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(module, "CHUNK", 2)
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.setattr(module, "look", lambda *_: pytest.fail("read here"))
    assert [told(found) for found in look_at(requests, hashing=True)] == alone
    assert [isinstance(found, tuple) and found[0] for found in alone] == [
        False,
        "unreadable",
        False,
        "unreadable",
        False,
    ]


def test_what_a_killed_process_leaves_is_read_here(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [(str(inputs / name), Limits()) for name in ("a.png", "b.png")]

    def broken(*_: object) -> object:
        yield [module.look(requests[0], hashing=False)]
        raise module.BrokenProcessPool

    monkeypatch.setattr(module, "MANY", 1)
    monkeypatch.setattr(module, "cores", lambda: 4)
    monkeypatch.setattr(module, "_by_processes", broken)
    assert [found["shape"] for found in look_at(requests, hashing=False)] == [[3, 32, 32], [3, 20, 32]]  # type: ignore[index]
