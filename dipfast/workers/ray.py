"""The workers of `local` on Ray actors: one for each GPU of a cluster, or on its CPUs where it has none.

A local cluster, or the one that RAY_ADDRESS names. Ray places the actors and says when one has died; queue, attempts,
deadlines and signals are the driver's, as on one machine. The run's folder and its
inputs must be on a file system that all nodes share. The driver ends with the cluster's head node, as Ray has it; the
same command then goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import secrets
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError

from dipfast.errors import MachineError, UsageError
from dipfast.files import write_atomic
from dipfast.plan import Job, Place
from dipfast.store.folder import RunFolder
from dipfast.threads import cores, use_threads, wait_briefly
from dipfast.workers.local import Driver, Event, Outcome
from dipfast.workers.messages import Message
from dipfast.workers.options import RunOptions
from dipfast.workers.process import Worker

STORE_BYTES = 80 << 20  # of a local cluster: only messages go through it
KNOCK_SECONDS = 10.0
GREETING = ".shared."  # a file of this name in the run's folder proves to an actor that it sees the same folder


class Actor:
    """A worker's life in a thread of an actor's process. To `work` it is the pipe, whose other end are remote calls."""

    def __init__(self, root: str, greeting: str, here: str, place: Place) -> None:
        self.inbox: SimpleQueue[Message] = SimpleQueue()
        self.outbox: SimpleQueue[Event] = SimpleQueue()
        self.send, self.recv = self.outbox.put, self.inbox.get
        threading.Thread(target=self._live, args=(root, greeting, here, place), daemon=True).start()

    def _live(self, root: str, greeting: str, here: str, place: Place) -> None:
        how = "left"
        try:
            with contextlib.suppress(OSError):
                os.chdir(here)  # relative paths start there
            if not Path(root, greeting).exists():
                self.send({"event": "blind", "host": socket.gethostname()})
                return
            wait_briefly()
            use_threads(place.threads)
            from dipfast.workers.worker import work

            work(self, root, place)
        except BaseException as error:
            how = f"{type(error).__name__}: {error}"
        finally:
            self.send({"event": "left", "how": how})

    def hear(self, message: Message) -> None:
        """Take a message from the driver."""
        self.inbox.put(message)

    def say(self) -> list[Event]:
        """Return every event since the last call; waits for the first."""
        events = [self.outbox.get()]
        while not self.outbox.empty():
            events.append(self.outbox.get())
        return events


class Remote(Worker):
    """The driver's side of one actor, which may still wait for its place in the cluster."""

    def __init__(self, place: Place, root: str, greeting: str) -> None:
        super().__init__(place)
        self.root, self.how = root, "no place in the cluster"
        gpus = place.device != "cpu"
        remote: Any = ray.remote(Actor).options(
            num_cpus=0 if gpus else place.threads, num_gpus=int(gpus), max_restarts=0, max_concurrency=2
        )
        self.actor: Any = remote.remote(root, greeting, str(Path.cwd()), place)
        self.said: deque[Event] = deque()
        self.saying = self.actor.say.remote()

    def send(self, message: Message) -> None:
        self.actor.hear.remote(message)

    def receive(self) -> Event | None:
        if not self.said and ray.wait([self.saying], timeout=0)[0]:
            try:
                self.said.extend(ray.get(self.saying))
            except RayError as error:
                self.how = _first_cause(error)
                raise EOFError from None
            self.saying = self.actor.say.remote()
        event = self.said.popleft() if self.said else None
        if event is not None and event["event"] == "left":
            self.how = event["how"]
            raise EOFError
        if event is not None and event["event"] == "blind":
            raise MachineError(f"{self.root}: is not seen by {event['host']}; all nodes of the cluster must share it")
        return event

    def dismiss(self, finish: frozenset[str] = frozenset()) -> None:
        """Ask it to leave; one that is not there yet has nothing to end."""
        if self.ready:
            super().dismiss(finish)
        else:
            self.kill()

    def end(self, patience: float) -> str:
        self.kill()
        return self.how

    def kill(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self.actor)


def listen(workers: Sequence[Remote], seconds: float) -> list[Remote]:
    """Return those that say something or end, as soon as there are any."""
    by_call = {worker.saying: worker for worker in workers}
    ray.wait(list(by_call), timeout=seconds)
    ready, _ = ray.wait(list(by_call), num_returns=len(by_call), timeout=0)
    return [by_call[call] for call in ready]


def _first_cause(error: RayError) -> str:
    """Return what an actor died of, in one sentence. Ray says a page."""
    if isinstance(error, ActorUnavailableError):
        return "it does not answer any more"
    return str(error).strip().splitlines()[-1].partition(". ")[0]


def places_for(
    nodes: Sequence[dict[str, Any]], devices: str, items: int, workers: int | None, threads: int | None = None
) -> list[Place]:
    """Return a worker for each GPU of ``nodes`` (as from `ray.nodes`), or ``workers`` of equally many cores.

    With ``threads`` each worker has so many cores, without it the cores are divided among all. One that takes several
    cores finds them on one node. Each takes an equal part of its node's memory, divided by as many as may be on the
    largest. Raises UsageError, MachineError.
    """
    if devices not in ("auto", "cpu"):
        raise UsageError(
            f"--devices {devices}: should be auto or cpu with --executor ray, which gives each worker a GPU"
        )
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    gpus = [(int(has["GPU"]), int(has.get("CPU", 1))) for has in resources if has.get("GPU", 0) >= 1]
    if gpus and devices == "auto":
        threads = threads or max(1, min(cpus // count for count, cpus in gpus))
        return [Place(f"ray-{i}", "cuda:0", threads) for i in range(sum(count for count, _ in gpus))]
    cpus = [int(has.get("CPU", 0)) for has in resources]
    count = min(workers or items, sum(free // (threads or 1) for free in cpus))
    if count == 0:
        which = "no CPU to give" if threads is None else f"no node with {threads} CPUs for --threads {threads}"
        raise MachineError(f"--executor ray: the cluster has {which}")
    threads = threads or max(n for n in range(1, max(cpus) + 1) if sum(free // n for free in cpus) >= count)
    together = min(count, max(cpus) // threads)  # which of a node's actors is where is known to Ray alone
    return [Place(f"ray-{i}", "cpu", threads, neighbours=together) for i in range(count)]


def _connect() -> None:
    address = os.environ.get("RAY_ADDRESS")
    own: dict[str, Any] = {"num_cpus": cores(), "object_store_memory": STORE_BYTES, "include_dashboard": False}
    try:
        if address and not address.startswith("ray://"):
            _knock(address)
        ray.init(
            address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **({} if address else own)
        )
    except (OSError, RayError, RuntimeError, ValueError) as error:
        where = f"RAY_ADDRESS={address}" if address else "a local cluster"
        raise MachineError(f"--executor ray: {where}: {str(error).splitlines()[0]}") from None


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at host:port. Ray itself would try for a quarter of an hour."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()


@contextlib.contextmanager
def _cluster() -> Iterator[None]:
    """Be connected to the cluster, or to a local one that ends with this.

    In a thread of its own: in the main one, Ray would take SIGTERM over; and what it starts ends with its thread.
    """
    if ray.is_initialized():
        yield
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with _quiet(), ThreadPoolExecutor(1) as thread:
        try:
            thread.submit(_connect).result()
            yield
        finally:
            thread.submit(ray.shutdown).result()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's own words about lost workers off standard output, for which it has no setting; the driver has its."""
    internals: Any = importlib.import_module("ray._private.worker")
    before = internals.print_to_stdstream
    internals.print_to_stdstream = lambda *message, **settings: None
    try:
        yield
    finally:
        internals.print_to_stdstream = before


@contextlib.contextmanager
def _greeting(folder: RunFolder) -> Iterator[str]:
    name = GREETING + secrets.token_hex(8)
    write_atomic(folder.root / name, b"")
    try:
        yield name
    finally:
        (folder.root / name).unlink(missing_ok=True)


def execute(
    jobs: Sequence[Job], items: int, folder: RunFolder, on_event: Callable[[Event], None], options: RunOptions
) -> Outcome:
    """Run ``jobs`` as `local.execute` does, on a cluster. ``items``: of the whole run.

    Raises UsageError and MachineError where there is no cluster, or nothing on it to work with.
    """
    root = str(folder.root.absolute())
    with _cluster(), _greeting(folder) as greeting:
        places = [
            replace(place, name=options.named(place.name), cohort=options.cohort)
            for place in places_for(ray.nodes(), options.devices, items, options.workers, options.threads)
        ]

        def hire(place: Place) -> Remote:
            return Remote(place, root, greeting)

        return Driver(jobs, places[: len(jobs)], folder, on_event, options, hire, listen).run()
