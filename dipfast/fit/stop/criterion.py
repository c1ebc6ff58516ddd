"""What a stop criterion is, and those that look at the outputs alone: all steps, and variances that have a valley.

The state of a criterion is on the device, and it holds its best picture, not only a number. `update` runs inside the
step and reads nothing back; the host looks at `done` now and then. A criterion that was never fulfilled returns what
it holds at the last step. Windows and patience are shares of the steps taken so far, not numbers of steps, because a
fit with Muon is over before one with Adam has begun.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipfast.fit.statistics import MEMORY, Buffers, newest_weight
from dipfast.settings.stop import EmaVarianceStop, ValleyStop, WindowedVarianceStop

WATCHED_PIXELS = 4096  # values in the subsample that a windowed variance is taken over
LONGEST_WINDOW = 1024  # outputs
SHORTEST_WINDOW = 2
BLIND_MEMORY = 0.3  # share of the outputs with blind spots, and as much again over the channels (LOG.md, 2026-11-24)
SEEN_COARSE = 8  # outputs that the picture of a fit at half of the size counts as


class Criterion(Buffers):
    """Decides when a fit is done, and holds the picture to return. The tensors among its attributes are its buffers."""

    def __init__(self, picture: Tensor) -> None:
        self.done = torch.zeros((), dtype=torch.bool, device=picture.device)
        self.best_step = torch.zeros((), dtype=torch.int64, device=picture.device)
        self.best = torch.zeros_like(picture)
        self.value = torch.zeros((), device=picture.device)  # what the criterion looks at, for the curve

    def update(
        self,
        step: Tensor,  # 0-D int64, from 0
        output: Tensor,  # [1, C, H, W], of this step
        picture: Tensor,  # [1, C, H, W], the average of the outputs where there is one
        loss: Tensor,  # 0-D
    ) -> None:
        """Take a step into account, on the device."""
        raise NotImplementedError

    def why(self) -> str:
        """Return, for the record, why a fit has ended."""
        raise NotImplementedError

    def go_on(self, picture: Tensor) -> None:
        """Begin with weights that have fitted ``picture``, the image at half of its size, enlarged to the whole."""

    def state_dict(self) -> dict[str, Tensor]:
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def _keep(self, better: Tensor, step: Tensor, picture: Tensor) -> None:
        """Hold ``picture`` and ``step`` where ``better`` (0-D bool)."""
        torch.where(better, picture, self.best, out=self.best)
        torch.where(better, step, self.best_step, out=self.best_step)

    def _keep_until_done(self, step: Tensor, picture: Tensor, value: Tensor) -> None:
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.value, value, out=self.value)


class Fixed(Criterion):
    """Takes all the steps, and returns the last picture."""

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        self._keep(torch.ones_like(self.done), step, picture)

    def why(self) -> str:
        return "all steps taken"


class Valley(Criterion):
    """Holds the picture at the lowest value so far; done when that is long ago, as a share of the steps up to it.

    In a slow fit the values first rise from zero, so a minimum counts only below the share `begun` of the highest
    value. A fit that has jumped gets time: it is not done while the value is below the share `falling` of the highest
    value since the minimum.
    """

    what = "the value"
    begun, falling = 0.5, 0.0

    def __init__(self, picture: Tensor, config: ValleyStop) -> None:
        super().__init__(picture)
        self.patience, self.min_steps = config.patience, config.min_steps
        self.lowest = torch.full_like(self.value, torch.inf)
        self.highest = torch.zeros_like(self.value)
        self.risen = torch.zeros_like(self.value)  # the highest value since the minimum

    def _descend(self, step: Tensor, picture: Tensor, early: Tensor | None = None) -> None:
        """Look at `value`. ``early`` (0-D bool) says whether it is too early for a minimum to count."""
        torch.maximum(self.highest, self.value, out=self.highest)
        if early is None:
            early = torch.minimum(self.value, self.lowest) > self.begun * self.highest
        early = early | (step < self.min_steps)
        better = (self.value < self.lowest) & ~early & ~self.done
        self._keep(better | early, step, picture)
        torch.where(better, self.value, self.lowest, out=self.lowest)
        torch.where(better | early, self.value, torch.maximum(self.risen, self.value), out=self.risen)
        long_ago = step - self.best_step > self.min_steps + self.patience * self.best_step
        self.done |= long_ago & (self.value >= self.falling * self.risen)

    def reset(self, seed: int) -> None:
        super().reset(seed)
        self.lowest.fill_(torch.inf)

    def why(self) -> str:
        if not bool(torch.isfinite(self.lowest)):
            return f"all steps taken; {self.what} had no minimum yet"
        lowest = f"{self.what} was lowest, {float(self.lowest):.3g}"
        return lowest if bool(self.done) else f"all steps taken; {lowest}"


class EmaVariance(Valley):
    """ES-EMV of Wang et al. (TMLR 2023): m and v are the moving mean and variance of the outputs, and v has a valley.

    m <- m + alpha (x - m), v <- (1 - alpha) (v + alpha |x - m|^2 / n). Unless ``alpha`` is a number, the memory grows
    with the fit. A network with blind spots gains and takes up noise more slowly. There the memory is longer than that
    of the average, so that what the outputs still gain counts in v beside their swing, and the valley comes where the
    average is best. It is longer still for one channel, where outputs swing more. The first steps are a false minimum,
    hence `min_steps`.
    """

    what = "the outputs' moving variance"
    falling = 0.9  # LOG.md, 2026-11-28

    def __init__(self, picture: Tensor, config: EmaVarianceStop, blind: float | None = None) -> None:
        super().__init__(picture, config)
        self.kind = "auto" if config.alpha == "auto" else 1 - config.alpha
        self.memory = MEMORY if blind is None else BLIND_MEMORY * (1 + 1 / picture.shape[1])
        self.mean = torch.zeros_like(picture)
        self.seen = torch.zeros_like(self.best_step)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        alpha = newest_weight(self.kind, self.seen, self.memory)
        change = (output - self.mean).square().mean()
        self.mean.lerp_(output, alpha)
        self.value.copy_((1 - alpha) * (self.value + alpha * change))
        self.seen.add_(1)
        self._descend(step, picture)

    def go_on(self, picture: Tensor) -> None:
        """Count any minimum: the variance falls at once, from what the details make of it that are new."""
        self.mean.copy_(picture)
        self.seen.fill_(SEEN_COARSE)
        self.highest.fill_(torch.inf)


class WindowedVariance(Valley):
    """ES-WMV of Wang et al. (TMLR 2023): the variance of the last outputs, mean_k |x_k - mean|^2 / n, has a valley.

    It is taken over a subsample of the pixels, by running sums: each step adds the newest output to them, and takes
    the oldest out unless the window has grown.
    """

    what = "the outputs' variance over a window"

    def __init__(self, picture: Tensor, config: WindowedVarianceStop, steps: int) -> None:
        super().__init__(picture, config)
        self.share = config.share
        self.longest = max(SHORTEST_WINDOW, min(LONGEST_WINDOW, math.ceil(self.share * steps)))
        self.stride = max(1, picture.numel() // WATCHED_PIXELS)
        watched = len(range(0, picture.numel(), self.stride))
        self.ring = torch.zeros(self.longest + 1, watched, device=picture.device, dtype=torch.float64)
        self.sums = torch.zeros(2, watched, device=picture.device, dtype=torch.float64)  # of x and of x^2
        self.seen = torch.zeros_like(self.best_step)
        self.length = torch.zeros_like(self.best_step)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        newest = output.permute(0, 2, 3, 1).reshape(-1)[:: self.stride].double()
        self.ring.index_copy_(0, (self.seen % len(self.ring)).view(1), newest[None])
        self.seen.add_(1)
        window = (self.share * self.seen).long().clamp(SHORTEST_WINDOW, self.longest)
        full = self.length >= window  # the window has not grown: its oldest output is taken out
        oldest = self.ring.index_select(0, ((self.seen - 1 - self.length) % len(self.ring)).view(1))[0]
        self.sums.add_(torch.stack((newest, newest.square())))
        self.sums.sub_(torch.stack((oldest, oldest.square())) * full)
        self.length.add_(torch.where(full, 0, 1))
        mean, squares = self.sums / self.length
        self.value.copy_((squares - mean.square()).mean())
        self._descend(step, picture)
