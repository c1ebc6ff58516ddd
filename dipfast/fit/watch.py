"""The watch over a fit from the host: whether it has diverged and must be rolled back, or has stopped; its curves.

The ground truth is not here and cannot be: this room may not import `dipfast.metrics`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipfast.errors import ItemError
from dipfast.fit.statistics import WeightSnapshots, newest_weight
from dipfast.fit.step import FitState
from dipfast.settings.fit import Fit

LOOK_EVERY = 10  # steps between two looks of the host at the device
MAX_NON_FINITE = 3  # rollbacks from a non-finite loss before the item is given up
CURVE_POINTS = 200

Curve = list[tuple[int, float]]  # step, from 1, and value


class Watch:
    """Keeps the last good state of a fit, rolls back a divergence, and sees that the fit has stopped.

    A divergence is a loss that is not finite, or a drop of the fit's own PSNR, -10 log10 mean (A x - y)^2, by
    `rollback_db` since the last look: the rule that the code of Ulyanov et al. (CVPR 2018) meant. At each look the
    averages of the weights are updated, too.
    """

    def __init__(self, settings: Fit, state: FitState) -> None:
        self.rollback_db, self.state = settings.rollback_db, state
        self.rollbacks = self.non_finite = 0
        self.good, self.good_residual = state.snapshot(), float("inf")
        self.stopped = False
        all_kept = (settings.keep_seeds or settings.store == "all") and not state.is_coarse
        self.kept = state.members if all_kept else [state.first]  # whose weights are averaged
        self.averaged, self.looks = self._weights(), torch.zeros_like(state.step)
        self.snapshots = WeightSnapshots(0 if state.is_coarse else settings.checkpoints or 0)

    def look(self) -> None:
        """Wait for the steps enqueued so far, and roll the fit back or go on. Raises ItemError `non-finite`."""
        residual = float(self.state.residual)
        finite = residual < float("inf") and self.state.finite
        if not finite:
            self._give_up_after_too_many()
        if not finite or self._dropped(residual):
            self.state.load_state_dict(self.good)
            self.rollbacks += 1
            return
        self.good, self.good_residual = self.state.snapshot(), residual
        self.stopped = bool(self.state.stop.done)
        self.averaged.lerp_(self._weights(), self._newest_weight())
        self.looks.add_(1)
        self.snapshots.add(int(self.state.step), self.averaged[0])

    def why(self) -> str:
        """Return why the fit ended, and how often it was rolled back."""
        state = self.state
        if not int(state.step):
            return "no steps asked for"
        times = f"; rolled back {self.rollbacks} times" if self.rollbacks else ""
        samples = "" if state.posterior is None else f"; mean of {int(state.posterior.count)} samples"
        chosen = "" if state.choice.because is None else f"{state.choice.stop.type}, for {state.choice.because}; "
        return chosen + state.stop.why() + samples + times

    def _give_up_after_too_many(self) -> None:
        self.non_finite += 1
        if self.non_finite > MAX_NON_FINITE:
            step = int(self.state.step)
            raise ItemError("non-finite", f"the fit gave non-finite values at step {step} and after rollbacks")

    def _dropped(self, residual: float) -> bool:
        if self.rollback_db is None:
            return False
        return residual > self.good_residual * 10 ** (self.rollback_db / 10)

    def _weights(self) -> Tensor:  # [K, P]
        """Return the weights of the members that are kept, as they are now."""
        return torch.stack([member.parameters.values for member in self.kept])

    def _newest_weight(self) -> Tensor:  # 0-D
        """Return the weight of this look in the averaged weights, which are as long as the average of the outputs."""
        average = self.state.averaging
        constant = average if isinstance(average, str) else (average or 0.0) ** LOOK_EVERY
        return newest_weight(constant, self.looks)


def thinned(curve: Tensor) -> Curve:  # [steps]
    """Return about `CURVE_POINTS` of the values along a fit, and of those the ones that are finite."""
    stride = max(1, len(curve) // CURVE_POINTS)
    values = curve.tolist()
    return [(i + 1, values[i]) for i in range(stride - 1, len(values), stride) if math.isfinite(values[i])]
