"""Fixtures of all tests: one thread, tiny generators, plans with every field given."""

from __future__ import annotations

import multiprocessing
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports Triton, whose own functions are made for it then

TINY = {"channels": (8, 8), "skip_channels": 4, "input": {"type": "noise", "depth": 8}}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _a_worker_is_a_thread() -> Iterator[None]:
    """Have the worker of a run be a thread of this process: one that is a process imports torch for seconds.

    Where there are several, they are processes: threads would share torch's random numbers.
    """
    import dipfast.batch.run
    from dipfast.workers.local import execute
    from dipfast.workers.process import InProcess, Process

    def execute_here(jobs: Any, places: Any, *rest: Any) -> Any:
        return execute(jobs, places, *rest, worker=InProcess if len(places) == 1 else Process)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dipfast.batch.run, "execute", execute_here)
        yield


@contextmanager
def worker_processes() -> Iterator[None]:
    """Have the workers of runs be processes of their own, as outside of tests. Also decorates a test.

    They are forked from a process that has loaded torch, where those of a user load it themselves, for seconds.
    """
    import dipfast.batch.run
    from dipfast.workers.local import execute

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["dipfast.workers.worker"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dipfast.batch.run, "execute", execute)
        patch.setattr("dipfast.workers.process.mp", SimpleNamespace(get_context=lambda method: context))
        yield


@pytest.fixture
def picture() -> np.ndarray:
    """A smooth coloured picture with an edge, [3, 32, 32] float32 in [0, 1]."""
    y, x = np.mgrid[0:32, 0:32] / 31
    disc = (x - 0.5) ** 2 + (y - 0.4) ** 2 < 0.08
    return np.stack((0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.2 + 0.6 * disc)).astype(np.float32)


MANIFEST = """\
version: 1
defaults:
  task: {{type: denoise, noise: {{type: gaussian, sigma: 25}}}}
  fit: {{steps: {steps}, seeds: 2, precision: fp32, optimizer: {{type: adam, lr: 0.01}}}}
  generator: {{type: skip, channels: [8, 8], skip_channels: 4, input: {{type: noise, depth: 8}}}}
items: ["*.png"]
"""


@pytest.fixture
def inputs(tmp_path: Path, picture: np.ndarray) -> Path:
    """A folder of three noisy pictures of two sizes."""
    from dipfast.image import Source, write

    rng = np.random.default_rng(0)
    for name, height in (("a", 32), ("b", 20), ("c", 32)):
        noisy = (picture[:, :height] + rng.normal(scale=0.1, size=picture[:, :height].shape)).clip(0, 1)
        write(tmp_path / "in" / f"{name}.png", noisy.astype(np.float32), Source("png", "rgb", 8))
    return tmp_path / "in"


def run(manifest: Any, folder: Any, *, on_event: Any = lambda event: None, **options: Any) -> Any:
    """Run a manifest into a folder, with the options of a run by name."""
    from dipfast.batch.run import run
    from dipfast.workers.options import RunOptions

    return run(manifest, folder, RunOptions(**options), on_event)


def generator_config(**changes: Any) -> Any:
    """The manifest's `generator` section, tiny unless ``changes`` say otherwise."""
    from dipfast.settings.generator import SkipGenerator

    return SkipGenerator.model_validate(TINY | changes)


def fit_plan(**changes: Any) -> Any:
    """The manifest's `fit` section of a short fit in float32 on the CPU; ``changes`` are its keys."""
    from dipfast.settings.fit import Fit

    return Fit.model_validate({"steps": 30, "precision": "fp32", "device": "cpu", "average": 0.9} | changes)


def settings_of(tree: Any) -> Any:
    """The settings of which ``tree`` gives some, with every default filled in."""
    from dipfast.settings.document import Settings

    return Settings.model_validate(tree)


def task_of(tree: Any) -> Any:
    """The manifest's `task` section."""
    return settings_of({"task": tree}).task


def damage_of(tree: Any) -> Any:
    """The manifest's `degrade` section."""
    return settings_of({"degrade": tree}).degrade


def latent_of(tree: Any) -> Any:
    """The manifest's `generator.input` section."""
    return generator_config(input=tree).input


def stop_of(tree: Any) -> Any:
    """The manifest's `fit.stop` section."""
    return fit_plan(stop=tree).stop


class Memory:
    """A fit's checkpoint that keeps what was saved last."""

    def __init__(self) -> None:
        self.saved: dict[str, Any] | None = None

    def load(self) -> dict[str, Any] | None:
        return None if self.saved is None else dict(self.saved)

    def save(self, tensors: dict[str, Any]) -> None:
        self.saved = tensors
