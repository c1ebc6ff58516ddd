"""The settings of a fit: the manifest's `fit` section as a frozen value, and the seeds derived from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class FitPlan:
    """The manifest's `fit` section, every default filled in: `FitPlan(**section)`."""

    steps: int
    optimizer: Mapping[str, Any]  # adam, muon or sgld by its `type`, and its settings
    reg_noise_std: float  # of the jitter added to the latent at each step
    average: float | str | None  # constant of the EMA of the outputs, or auto
    stop: Mapping[str, Any]  # a criterion by its `type`, and its settings; or auto
    rollback_db: float | None
    seed: int
    seeds: int  # members fitted side by side, whose mean is the answer
    engine: str
    precision: str
    device: str
    kernels: str = "auto"  # Triton's, or plain PyTorch
    coarse: int | str = 0  # steps at each smaller size that the picture is fitted at first, or auto
    uncertainty: bool | None = None  # a deviation from the members' spread; None: where there are several
    posterior: Mapping[str, Any] | None = None  # burn_in, every, uncertainty, keep; with sgld
    shapes: str = "exact"  # what pictures are padded to, before a fit sees them
    memory: Mapping[str, Any] | None = None  # limit, recompute, lower_precision: what `batch.memory` may do
    recompute: bool = False  # activations in the backward, instead of keeping them
    checkpoints: int | None = None  # sets of weights kept along the fit
    keep_seeds: bool | None = None  # the generators of all seeds, not of the first alone
    store: str = "all"  # the seeds that the stored generator is made of: all, or one


def derive_seed(seed: int, name: str) -> int:
    """Derive a seed for one use (`weights`, `latent`, `jitter`) from an item's seed, so that no two share numbers."""
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
