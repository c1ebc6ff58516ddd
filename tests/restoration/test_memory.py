"""A fit too large for its device: predicted, brought down one tier at a time, or failed with the numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY, fit_plan, generator_config, task_of

from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.fit import ProgramCache, choose_machine
from dipfast.image import Image, Source
from dipfast.manifest import settings_from
from dipfast.plan import fit_bytes
from dipfast.restoration.line import Restored, observe, restore
from dipfast.restoration.memory import GIB, SHARE, Free, MemoryPolicy, available_bytes, tiers_of
from dipfast.settings.document import Settings

GAUSSIAN = {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}}
SHAPE = (3, 32, 32)


def settings(**memory: Any) -> Settings:
    fit = {"steps": 4, "precision": "fp32", "device": "cpu", "memory": memory, "stop": {"type": "fixed"}}
    overrides = {"fit": fit, "generator": TINY}
    return settings_from("denoise", "paper", overrides)


def chosen(policy: MemoryPolicy, given: Settings) -> tuple[bool, str]:
    machine = policy.choose(given, SHAPE, choose_machine(given.fit)).machine
    return machine.recompute, machine.precision


def room_for(given: Settings, precision: str, recompute: bool) -> int:
    return int(fit_bytes(given, SHAPE, precision, recompute) / SHARE) + 1


@pytest.fixture
def problem(picture: np.ndarray) -> tasks.Problem:
    return tasks.pose(task_of(GAUSSIAN), picture)


@pytest.mark.parametrize("upsample", ["nearest", "bilinear"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recomputed_activations_give_the_same_bits_in_less_memory(
    problem: tasks.Problem, upsample: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dipfast.ops.SMALL_PRODUCTS", 0)
    config, found, kept = generator_config(upsample=upsample), [], []
    for recompute in (False, True):
        plan = fit_plan(steps=5, precision=precision, optimizer={"type": "muon", "lr": 0.01})
        machine = replace(choose_machine(plan), recompute=recompute)
        state, step = ProgramCache().prepare(problem, config, plan, machine)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.nbytes)
            return tensor

        for _ in range(4):
            step()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            state.first.forward(state.first.latent, choose_machine(plan).dtype)
        kept.append(sum(sizes))
        found.append((state.first.parameters.grads.clone(), state.first.output.clone()))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))
    assert kept[1] < kept[0] / 2


def test_the_first_tier_that_fits_is_taken_and_remembered_for_its_bucket() -> None:
    given = settings()
    roomy = MemoryPolicy(lambda device: room_for(given, "fp32", False))
    assert chosen(roomy, given) == (False, "fp32")
    tight = MemoryPolicy(lambda device: room_for(given, "fp32", True))
    assert chosen(tight, given) == (True, "fp32")
    tight.free = lambda device: 80 * GIB
    assert chosen(tight, given) == (True, "fp32")
    assert chosen(tight, settings(limit=80 * GIB)) == (False, "fp32")  # another bucket


def test_what_fits_no_tier_is_refused_with_the_numbers() -> None:
    given, shape = settings(), (3, 512, 512)
    reason = (
        r"512×512×3 in fp32 needs about \d{3} MiB as it is, \d{3} MiB with activations recomputed; cpu has 64 MiB free"
    )
    with pytest.raises(ItemError, match=reason) as error:
        MemoryPolicy(lambda device: 64 << 20).choose(given, shape, choose_machine(given.fit))
    assert error.value.kind == "out-of-memory"


def test_precision_goes_down_only_where_that_is_allowed() -> None:
    forbidden, allowed = settings(), settings(lower_precision=True)
    policy = MemoryPolicy(lambda device: room_for(allowed, "bf16", True))
    with pytest.raises(ItemError, match="recomputed"):
        chosen(policy, forbidden)
    assert chosen(policy, allowed) == (True, "bf16")


def test_a_limit_counts_where_it_is_less_than_what_is_free() -> None:
    given = settings(limit=room_for(settings(), "fp32", True))
    assert chosen(MemoryPolicy(lambda device: 80 * GIB), given) == (True, "fp32")
    assert chosen(MemoryPolicy(lambda device: None), given) == (True, "fp32")


@pytest.mark.parametrize(
    ("changes", "tiers"),
    [
        ({"memory": {"recompute": "never"}}, [False]),
        ({"memory": {"recompute": "always"}}, [True]),
        ({"engine": "compile"}, [False]),
        ({"memory": {"lower_precision": True}, "precision": "bf16"}, [False, True]),
        ({"memory": {"lower_precision": True}}, [False, True, True]),
    ],
)
def test_tiers_are_what_the_settings_allow(changes: dict[str, Any], tiers: list[bool]) -> None:
    plan = fit_plan(**changes)
    assert [tier.recompute for tier in tiers_of(Settings(fit=plan), choose_machine(plan))] == tiers


def restored(given: Settings, picture: np.ndarray, policy: MemoryPolicy) -> Restored:
    image = Image(picture, Source("png", "rgb", 8))
    return restore(given, observe(given, image, None, None), "cpu", policy=policy)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "python"],
)
def test_a_fit_that_runs_out_of_memory_goes_one_tier_down_to_the_same_bits(
    picture: np.ndarray, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dipfast.restoration import line as module

    fitting, calls = module.fitting, []

    def short(problem: Any, config: Any, fit: Any, machine: Any, *more: Any) -> Iterator[None]:
        calls.append(machine.recompute)
        if not machine.recompute:
            raise error
        return (yield from fitting(problem, config, fit, machine, *more))

    whole = restored(settings(), picture, MemoryPolicy(lambda device: 80 * GIB))
    monkeypatch.setattr(module, "fitting", short)
    policy = MemoryPolicy(lambda device: 80 * GIB)
    low = restored(settings(), picture, policy)
    assert calls == [False, True]
    assert np.array_equal(low.pixels, whole.pixels)
    assert (low.memory["recompute"], low.memory["rungs_above"]) == (True, 1)
    assert (whole.memory["recompute"], whole.memory["rungs_above"]) == (False, 0)
    restored(settings(), picture, policy)
    assert calls == [False, True, True]


def test_an_error_on_the_last_tier_is_the_items(picture: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(*inputs: Any) -> Iterator[None]:
        raise MemoryError
        yield

    monkeypatch.setattr("dipfast.restoration.line.fitting", short)
    with pytest.raises(MemoryError):
        restored(settings(), picture, MemoryPolicy(lambda device: 80 * GIB))


def test_free_memory_is_the_least_of_the_machines_and_the_control_groups(tmp_path: Path) -> None:
    proc, group = tmp_path / "proc", tmp_path / "cgroup"
    assert available_bytes(proc, group) is None
    proc.mkdir()
    (proc / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  5000 kB\n")
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000000\n")
    assert available_bytes(proc, group) == 5000 * 1024
    (group / "memory.max").write_text("4000000\n")
    (group / "memory.stat").write_text("anon 500\ninactive_file 300000\n")
    assert available_bytes(proc, group) == 3_300_000


def test_what_this_process_took_since_is_free_for_its_next_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = iter((200, 900, 100))
    monkeypatch.setattr("dipfast.restoration.memory.resident_bytes", lambda: next(resident))
    monkeypatch.setattr("dipfast.restoration.memory.available_bytes", lambda: 5000)
    free, cpu = Free(), torch.device("cpu")
    assert [free(cpu), free(cpu)] == [5700, 5000]


def test_workers_of_one_machine_divide_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {"self": 100, 7: 100, 8: 100}
    monkeypatch.setattr("dipfast.restoration.memory.resident_bytes", lambda pid="self": taken[pid])
    monkeypatch.setattr("dipfast.restoration.memory.siblings", lambda: [7, 8])
    monkeypatch.setattr("dipfast.restoration.memory.available_bytes", lambda: 6000 - sum(taken.values()))
    free, cpu = Free(neighbours=3), torch.device("cpu")
    assert free(cpu) == (6000 - 300) // 3
    taken[7] = 1900  # its part of what all may have, and no more
    assert free(cpu) == (6000 - 300) // 3
    taken[7] = 4900  # more than its part, so that less is there
    assert free(cpu) == 6000 - 5100


def test_siblings_are_the_other_children_of_ones_parent() -> None:
    script = "import os, sys; from dipfast.restoration.memory import siblings; print(siblings()); sys.stdin.read()"
    command = [sys.executable, "-c", script]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as one:
        found = json.loads(subprocess.run(command, input="", capture_output=True, text=True, check=True).stdout)
        one.communicate(b"\n")
    assert one.pid in found


def test_the_prediction_knows_precision_and_recomputing() -> None:
    given, large = settings(), (3, 512, 512)
    kept, again, low = (fit_bytes(given, large, *way) for way in (("fp32", False), ("fp32", True), ("bf16", False)))
    assert 0.5 < again / kept < 0.85
    assert 0.5 < low / kept < 0.75


def test_a_run_fails_what_is_too_large_and_does_the_rest(tmp_path: Path, inputs: Path) -> None:
    from dipfast import run

    text = """\
version: 1
defaults:
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}
  fit: {steps: 2, precision: fp32, stop: {type: fixed}}
  generator: {channels: [8, 8], skip_channels: 4, input: {type: noise, depth: 8}}
items:
  - a.png
  - {path: b.png, fit: {memory: {limit: 1k}}}
"""
    (inputs / "m.yaml").write_text(text)
    result = run(inputs / "m.yaml", tmp_path / "run", devices="cpu")
    states = {Path(row.path).name: (row.status, row.kind) for row in result.rows}
    assert states == {"a.png": ("done", None), "b.png": ("failed", "out-of-memory")}
    record = next(row.record for row in result.rows if row.record)
    assert record["ran"]["memory"]["recompute"] is False
    assert record["ran"]["memory"]["predicted"] > 0
