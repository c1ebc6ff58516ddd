"""The real Ray: a cluster of two nodes on this machine, of which one is killed; dead actors; signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MANIFEST, run
from safetensors.torch import load_file

from dipfast.batch.run import RunResult
from dipfast.errors import MachineError, UsageError
from dipfast.manifest import parse
from dipfast.plan import Place
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of
from dipfast.workers import local
from dipfast.workers import ray as ray_executor
from dipfast.workers.ray import Actor, places_for

pytestmark = pytest.mark.timeout(900)
STORE = 80 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one core each; `ray.init` finds them by RAY_ADDRESS."""
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        nodes = Cluster(initialize_head=True, head_node_args=head)
        patch.setenv("RAY_ADDRESS", nodes.address)
        nodes.add_node(num_cpus=1, object_store_memory=STORE)
        try:
            yield nodes
        finally:
            ray.shutdown()
            nodes.shutdown()


def go(inputs: Path, steps: int, hear: Callable[[Any], None], executor: Any = "ray", into: str = "run") -> RunResult:
    manifest = parse(MANIFEST.format(steps=steps), "m.yaml", str(inputs))
    return run(manifest, RunFolder(inputs.parent / into), workers=2, on_event=hear, executor=executor)


def bits(result: RunResult) -> dict[str, Any]:
    """Every picture, and every weight of every generator."""
    assert ([(row.status, row.reason) for row in result.rows], result.signal) == ([("done", None)] * 3, None)
    weights = {path.name: load_file(path) for path in result.folder.generators.iterdir()}
    flat = {(name, key): value.numpy().tobytes() for name, found in weights.items() for key, value in found.items()}
    return flat | {path.name: path.read_bytes() for path in result.folder.images.iterdir()}


def actors() -> list[int]:
    """The pids of actors of this machine, by the name that Ray gives their processes."""
    found = Path("/proc").glob("[0-9]*/cmdline")
    return [int(path.parent.name) for path in found if path.read_bytes().startswith(b"ray::Actor")]


def test_a_killed_actor_is_replaced_and_an_item_that_kills_its_actors_is_quarantined_alone(
    cluster: Any, inputs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "ATTEMPTS", 2)
    lost: list[Any] = []

    def hear(event: Any) -> None:
        if event["event"] == "progress" and event["path"].endswith("a.png"):
            for pid in actors():
                os.kill(pid, signal.SIGKILL)
        elif event["event"] == "lost":
            lost.append(event)

    manifest = parse(MANIFEST.format(steps=30), "m.yaml", str(inputs))
    result = run(manifest, RunFolder(inputs.parent / "run"), workers=1, on_event=hear, executor="ray")
    assert [row.status for row in result.rows] == ["failed", "done", "done"]
    reason = "its worker died (The actor is dead because its worker process has died), attempt {} of 2"
    assert [event["reason"] for event in lost] == [reason.format(1)]
    assert (result.rows[0].kind, result.rows[0].reason) == ("worker-died", reason.format(2))
    assert not list(result.folder.root.glob(".shared*"))
    assert capfd.readouterr().out == ""


DRIVER = """
import sys
from pathlib import Path
from dipfast.workers import ray
from dipfast.store.folder import RunFolder
from dipfast.batch.run import run
from dipfast.manifest import parse
from dipfast.workers.options import RunOptions
if __name__ == "__main__":
    ray.cores = lambda: 1
    text, base, folder = sys.argv[1:]
    def show(event):
        print(event["event"], flush=True)
    manifest, into = parse(text, "m.yaml", base), RunFolder(Path(folder))
    sys.exit(run(manifest, into, RunOptions(executor="ray"), show).exit_code)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_processes_of_a_local_cluster_ends_the_run_with_its_code(
    inputs: Path, number: Any, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    script, folder = inputs.parent / "driver.py", str(inputs.parent / "run")
    script.write_text(DRIVER)
    arguments = [sys.executable, str(script), MANIFEST.format(steps=1_000_000), str(inputs), folder]
    pipe = subprocess.PIPE
    with subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert any(line.startswith("progress") for line in process.stdout)
            os.killpg(process.pid, number)
            assert process.wait(60) == code
            assert process.stderr.read() == ""
        finally:
            process.kill()
    assert [row.status for row in rows_of(RunFolder(inputs.parent / "run"))] == ["pending"] * 3


def test_an_actor_that_does_not_see_the_folder_says_so_and_leaves(tmp_path: Path) -> None:
    actor = Actor(str(tmp_path), ".shared.0", str(tmp_path), Place("ray-0", "cpu", 1))
    events: list[Any] = []
    while len(events) < 2:
        events += actor.say()
    assert [event["event"] for event in events] == ["blind", "left"]


def test_a_folder_that_is_not_shared_ends_the_run(cluster: Any, inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_executor, "write_atomic", lambda path, data: None)
    with pytest.raises(MachineError, match="all nodes of the cluster must share it"):
        go(inputs, 2, lambda event: None)


def test_a_killed_node_costs_one_attempt_and_the_other_node_does_the_rest(cluster: Any, inputs: Path) -> None:
    events: list[Any] = []
    moving: set[str] = set()

    def hear(event: Any) -> None:
        events.append(event)
        if event["event"] == "progress":
            moving.add(event["path"])
        elif event["event"] == "done":
            moving.discard(event["path"])
        if len(moving) == 2 and len(cluster.worker_nodes) == 1:
            cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    result = go(inputs, 300, hear)
    assert [row.status for row in result.rows] == ["done"] * 3
    assert not cluster.worker_nodes
    lost = [event["reason"] for event in events if event["event"] == "lost"]
    assert len(lost) == 1 and lost[0].endswith("attempt 1 of 3")
    assert bits(result) == bits(go(inputs, 300, lambda event: None, "local", "local"))


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


@pytest.mark.parametrize(
    ("nodes", "items", "workers", "expected"),
    [
        ([node(CPU=8, GPU=2), node(CPU=4, GPU=2), node(CPU=64)], 9, None, ("cuda:0", 2, 4)),
        ([node(CPU=3), node(CPU=3)], 100, None, ("cpu", 1, 6)),
        ([node(CPU=3), node(CPU=3)], 3, None, ("cpu", 1, 3)),  # two threads each would leave the third no node
        ([node(CPU=3), node(CPU=3)], 100, 2, ("cpu", 3, 2)),
        ([node(CPU=3), {"Alive": False, "Resources": {}}], 100, 9, ("cpu", 1, 3)),
    ],
)
def test_every_gpu_has_a_worker_or_the_cpus_are_shared_out(
    nodes: list[Any], items: int, workers: int | None, expected: tuple[str, int, int]
) -> None:
    places = places_for(nodes, "auto", items, workers)
    assert (places[0].device, places[0].threads, len({place.name for place in places})) == expected


def test_threads_that_are_asked_for_are_cores_of_one_node() -> None:
    places = places_for([node(CPU=5), node(CPU=2)], "auto", 9, None, 2)
    assert [place.threads for place in places] == [2, 2, 2]
    with pytest.raises(MachineError, match="no node with 6 CPUs for --threads 6"):
        places_for([node(CPU=5), node(CPU=2)], "auto", 9, None, 6)


@pytest.mark.parametrize(("workers", "expected"), [(1, 1), (2, 2), (3, 2), (6, 4), (None, 4)])
def test_workers_of_one_node_divide_its_memory(workers: int | None, expected: int) -> None:
    places = places_for([node(CPU=4), node(CPU=2)], "auto", 6, workers)
    assert {place.neighbours for place in places} == {expected}


def test_a_device_of_this_machine_cannot_be_asked_of_a_cluster() -> None:
    with pytest.raises(UsageError, match="should be auto or cpu with --executor ray"):
        places_for([node(CPU=1)], "cuda:0", 1, None)


def test_a_cluster_without_a_core_is_refused() -> None:
    with pytest.raises(MachineError, match="no CPU to give"):
        places_for([node()], "auto", 1, None)


@pytest.mark.parametrize(("address", "why"), [("nowhere", ""), ("127.0.0.1:1", ".*Connection refused")])
def test_a_cluster_that_is_not_there_is_refused(address: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(MachineError, match=f"--executor ray: RAY_ADDRESS={address}: {why}"):
        ray_executor._connect()


def test_without_ray_it_says_what_to_install(inputs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MachineError, match=r"Ray is not installed; pip install 'dipfast\[ray\]'"):
        go(inputs, 2, lambda event: None)
    assert not (inputs.parent / "run").exists()
