"""A fit in the middle, as tensors: enough to go on from there with the bits of a fit that was never interrupted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from dipfast.fit.step import FitState

if TYPE_CHECKING:
    from dipfast.fit.loop import Watch

EVERY_SECONDS = 60.0
LEAST_SECONDS = 5.0  # a fit that is cancelled sooner begins anew


class Checkpoint(Protocol):
    """Where a fit's state is kept between processes: the fit itself knows no file."""

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, or None."""

    def save(self, tensors: dict[str, Tensor]) -> None:
        """Keep ``tensors``, in place of what was saved before."""


def freeze(state: FitState, watch: Watch, seconds: float) -> dict[str, Tensor]:
    """Everything that the next step depends on, copied to the CPU; ``seconds`` is what the fit has taken so far."""
    steps = int(state.step)
    found = _live(state, watch)
    found |= {"losses": state.losses[:steps], "stop_values": state.stop_values[:steps]}
    found |= {f"random.{member.number}": member.random.get_state() for member in state.members}
    found |= {f"good.{name}": value for name, value in watch.good.items()} | watch.trail.tensors()
    numbers = (seconds, watch.good_residual, watch.rollbacks, watch.non_finite)
    found["numbers"] = torch.tensor(numbers, dtype=torch.float64)
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def thaw(state: FitState, watch: Watch, saved: dict[str, Tensor]) -> float:
    """Put ``state`` and ``watch`` to where `freeze` found them, and return the seconds taken until then.

    0, and nothing is changed, where ``saved`` is of another fit.
    """
    live, good = _live(state, watch), {f"good.{name}": value for name, value in watch.good.items()}
    randoms = {f"random.{member.number}": member.random.get_state() for member in state.members}
    wanted = {name: value.shape for name, value in (live | good | randoms).items()}
    loose = {name: saved.pop(name, torch.empty(0)) for name in ("losses", "stop_values", "numbers")}
    trail = {name: saved.pop(name) for name in list(saved) if name.startswith("trail.")}
    if {name: value.shape for name, value in saved.items()} != wanted or len(loose["numbers"]) != 4:
        return 0.0
    for name, value in (live | good).items():
        value.copy_(saved[name])
    for member in state.members:
        member.random.set_state(saved[f"random.{member.number}"])
    for curve, kept in ((state.losses, loose["losses"]), (state.stop_values, loose["stop_values"])):
        curve[: len(kept)].copy_(kept)
    watch.trail.load({name: value.to(state.step.device) for name, value in trail.items()})
    seconds, watch.good_residual, rollbacks, non_finite = loose["numbers"].tolist()
    watch.rollbacks, watch.non_finite = int(rollbacks), int(non_finite)
    return seconds


def _live(state: FitState, watch: Watch) -> dict[str, Tensor]:
    """The tensors, by name, that are restored in place."""
    found = {f"state.{name}": value for name, value in state.tensors().items()}
    found |= {"step": state.step, "output": state.output, "residual": state.residual}
    found |= {"averaged": watch.averaged, "looks": watch.looks}
    if state.posterior is not None:
        found["samples"] = state.posterior.weights
    return found
