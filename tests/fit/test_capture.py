"""What a step may not do where it is captured into a graph: make a tensor of Python's numbers, or ask for a value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from conftest import fit_plan, generator_config, task_of
from torch.utils._python_dispatch import TorchDispatchMode

from dipfast import tasks
from dipfast.fit import ProgramCache
from dipfast.fit.engine import choose_machine

WAITS = ("aten._local_scalar_dense", "aten.nonzero")
BLIND = {"type": "image", "blind": 0.1}
BESIDE = {"type": "image", "noise": {"type": "noise", "depth": 4, "distribution": "uniform", "scale": 0.4}}
TASKS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gaussian": (
        {"type": "denoise", "noise": {"type": "gaussian", "sigma": 25.0}},
        BLIND | {"recorrupt": 0.7},
    ),
    "poisson": ({"type": "denoise", "noise": {"type": "poisson", "peak": 30.0}}, BLIND),
    "noise that neighbours share": (
        {"type": "denoise", "noise": {"type": "gaussian", "sigma": "auto"}},
        BLIND | {"reach": 1},
    ),
    "salt and pepper": ({"type": "denoise", "noise": {"type": "salt-pepper"}}, {"type": "noise"}),
    "jpeg": ({"type": "jpeg", "quality": 10}, {"type": "image", "recompress": True}),
    "inpaint": ({"type": "inpaint", "known": "white", "keep_known": True}, BESIDE),
    "superres": ({"type": "superres", "scale": 2, "kernel": "lanczos2"}, BESIDE),
}


class Refused(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(function)
        assert not name.startswith(WAITS), f"{name} waits for the device"
        assert not (name.startswith("aten.lift_fresh") and args[0].dim()), "a table is copied from the host"
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_step_neither_copies_from_the_host_nor_waits_for_the_device(name: str, channels: int) -> None:
    task, latent = TASKS[name]
    observed = np.random.default_rng(0).random((channels, 32, 32)).astype(np.float32)
    known = np.arange(32 * 32).reshape(1, 32, 32) % 2 == 0
    problem = tasks.pose(task_of(task), observed, known if name == "inpaint" else None)
    plan = fit_plan(steps=3, stop="auto", average="auto", optimizer={"type": "muon", "lr": 0.01}, seeds=2)
    _, step = ProgramCache().prepare(problem, generator_config(input=latent), plan, choose_machine(plan))
    step()
    with Refused():
        step()
