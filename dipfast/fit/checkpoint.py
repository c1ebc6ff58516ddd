"""A fit in the middle, as tensors: enough to go on from there with the bits of a fit that was never interrupted."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from dipfast.fit.statistics import SNAPSHOT_KEY
from dipfast.fit.step import FitState
from dipfast.fit.watch import Watch

EVERY_SECONDS = 60.0
LEAST_SECONDS = 5.0  # a fit that is cancelled sooner begins anew


class Checkpoint(Protocol):
    """Keeps the state of a fit between processes: the fit itself knows no file."""

    def load(self) -> dict[str, Tensor] | None:
        """Return what was saved last, or None."""

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors`` in place of what was saved before."""


def state_dict(state: FitState, watch: Watch, seconds: float) -> dict[str, Tensor]:
    """Return copies on the CPU of all that the next step depends on. ``seconds`` is what the fit has taken so far."""
    steps = int(state.step)
    found = _in_place(state, watch) | _randoms(state) | watch.snapshots.state_dict()
    found |= {"losses": state.losses[:steps], "stop_values": state.stop_values[:steps]}
    numbers = (seconds, watch.good_residual, watch.rollbacks, watch.non_finite)
    found["numbers"] = torch.tensor(numbers, dtype=torch.float64)
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def load_state_dict(state: FitState, watch: Watch, saved: dict[str, Tensor]) -> float:
    """Set ``state`` and ``watch`` to what `state_dict` saved, and return the seconds that the fit had taken.

    If ``saved`` is of another fit, nothing is changed, and the result is 0.
    """
    in_place = _in_place(state, watch)
    wanted = {name: value.shape for name, value in (in_place | _randoms(state)).items()}
    loose = {name: saved.pop(name, torch.empty(0)) for name in ("losses", "stop_values", "numbers")}
    snapshots = {name: saved.pop(name) for name in list(saved) if name.startswith(SNAPSHOT_KEY)}
    if {name: value.shape for name, value in saved.items()} != wanted or len(loose["numbers"]) != 4:
        return 0.0
    for name, value in in_place.items():
        value.copy_(saved[name])
    for member in state.members:
        member.random.set_state(saved[f"random.{member.number}"])
    for curve, kept in ((state.losses, loose["losses"]), (state.stop_values, loose["stop_values"])):
        curve[: len(kept)].copy_(kept)
    watch.snapshots.load_state_dict({name: value.to(state.step.device) for name, value in snapshots.items()})
    seconds, watch.good_residual, rollbacks, non_finite = loose["numbers"].tolist()
    watch.rollbacks, watch.non_finite = int(rollbacks), int(non_finite)
    return seconds


def _in_place(state: FitState, watch: Watch) -> dict[str, Tensor]:
    """Return the tensors that are restored in place, by name."""
    found = {f"state.{name}": value for name, value in state.state_dict().items()}
    found |= {f"good.{name}": value for name, value in watch.good.items()}
    found |= {"step": state.step, "output": state.output, "residual": state.residual}
    found |= {"averaged": watch.averaged, "looks": watch.looks}
    if state.posterior is not None:
        found["samples"] = state.posterior.weights
    return found


def _randoms(state: FitState) -> dict[str, Tensor]:
    return {f"random.{member.number}": member.random.get_state() for member in state.members}
