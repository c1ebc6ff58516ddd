"""A few sets of weights along a fit, so that how smooth the picture is can be chosen afterwards.

They are the weights averaged up to a look of the host, about evenly spread in the logarithm of the step up to wherever
the fit ends, which nobody knows before. A copy of the weights at a look is all that it costs.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from dipfast.fit.optimizer import FlatParameters
from dipfast.generators import twin


class Trail:
    """At most ``keep`` pairs of a step and its weights [P]; the newest is always one of them."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.found: list[tuple[int, Tensor]] = []

    def add(self, step: int, values: Tensor) -> None:
        """Take a copy of ``values``, and drop what lies behind ``step``: a rollback has come back to here."""
        if not self.keep:
            return
        self.found = [(s, v) for s, v in self.found if s < step] + [(step, values.clone())]
        if len(self.found) > self.keep:
            del self.found[self._most_crowded()]

    def _most_crowded(self) -> int:
        """The one, neither first nor last, whose neighbours are nearest to each other; of two, the older."""
        steps = [step for step, _ in self.found]
        inner = range(1, len(steps) - 1)
        return min(inner, key=lambda i: math.log(steps[i + 1] / steps[i - 1]), default=0)

    def generators(self, generator: nn.Module, parameters: FlatParameters) -> tuple[tuple[int, nn.Module], ...]:
        """Steps, and copies of ``generator``, whose weights ``parameters`` holds, with the weights of then."""
        now = parameters.values.clone()
        copies = []
        for step, values in self.found:
            parameters.values.copy_(values)
            copies.append((step, twin(generator)))
        parameters.values.copy_(now)
        return tuple(copies)

    def tensors(self) -> dict[str, Tensor]:
        """For a saved fit: each under the name of its step."""
        return {f"trail.{step}": values for step, values in self.found}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what `tensors` gave, on whatever device."""
        steps = sorted(int(name.removeprefix("trail.")) for name in tensors)
        self.found = [(step, tensors[f"trail.{step}"]) for step in steps]
