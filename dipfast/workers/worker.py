"""One worker's process: its threads of computation, its end of the pipe, its heartbeat, and the pipeline of its items.

The record is written last, so a worker that dies leaves an item undone and nothing half-done under a final name.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch

from dipfast.fit import keep_freed_memory
from dipfast.plan import Place
from dipfast.restoration.failure import reason_of
from dipfast.store.folder import RunFolder
from dipfast.workers.messages import Leave, Message
from dipfast.workers.pipeline import Pipeline

HEARTBEAT_SECONDS = 1.0
DEAD = 70  # exit code of a process whose device died


class Connection(Protocol):
    """A worker's end of a pipe, or what does the same. Raises EOFError or OSError where nobody is at the other end."""

    def send(self, message: dict[str, Any], /) -> None: ...

    def recv(self) -> Message: ...


def work(connection: Connection, root: str, place: Place) -> None:
    """The life of one worker process. Messages in: jobs and orders. Messages out: event dicts.

    The driver's end of the pipe closing is an order to leave at once. Where its device dies, the process ends with the
    reason: another one finds it alive again, or says why not.
    """
    torch.set_num_threads(place.threads)
    keep_freed_memory()
    line, memory = Line(connection), free_memory(place.device)
    pipeline = Pipeline(RunFolder(Path(root)), place, memory, line.send)
    line.send({"event": "ready", "worker": place.name, "memory": memory})
    threading.Thread(target=line.beat, daemon=True).start()
    threading.Thread(target=line.listen, args=(pipeline.inbox.put,), daemon=True).start()
    try:
        pipeline.run()
    except RuntimeError as error:
        line.send({"event": "dying", "reason": reason_of(error)["reason"]})
        os._exit(DEAD)  # what the process would do at its end with a dead device may take for ever


def free_memory(device: str) -> int | None:
    """Bytes that a GPU has free; None for a CPU, whose memory other workers share, and for what is not there."""
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return torch.cuda.mem_get_info(device)[0]


class Line:
    """A worker's end of the pipe, for its threads."""

    def __init__(self, connection: Connection) -> None:
        self.connection, self.lock = connection, threading.Lock()

    def send(self, event: dict[str, Any]) -> bool:
        """False where nobody listens any more, which `listen` hears too: it cancels the fits, and fails no item."""
        try:
            with self.lock:
                self.connection.send(event)
        except OSError:
            return False
        return True

    def listen(self, take: Callable[[Message], object]) -> None:
        """Hand every message to ``take``, and an order to leave behind the last."""
        try:
            while True:
                take(self.connection.recv())
        except (EOFError, OSError):
            take(Leave())

    def beat(self) -> None:
        """Say that the process is alive, until nobody listens."""
        while self.send({"event": "heartbeat"}):
            time.sleep(HEARTBEAT_SECONDS)
