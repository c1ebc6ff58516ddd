"""When to stop: criteria whose state lives on the device, each keeping its best picture, not just its number.

`update` runs inside the step and reads nothing back; the loop looks at `done` now and then. A criterion that never
fired returns what it holds best at the last step. Windows and patience are shares of the steps taken so far, not
numbers of steps: a fit with Muon is over before one with Adam has begun.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.average import MEMORY, newest_weight
from dipfast.tasks import Problem
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance, WeightedSquare

WATCHED_PIXELS = 4096  # values of the subsample that a windowed variance is taken over
LONGEST_WINDOW = 1024  # outputs
SHORTEST_WINDOW = 2
BLIND_MEMORY = 0.3  # of the outputs so far, and as much again shared by the channels, with blind spots (LOG.md)
SEEN_COARSE = 8  # outputs that the picture of a fit at half of the size stands for
TAKEN_UP = 0.075  # of the noise's energy, by the best average of one channel (LOG.md)
CODED_FACTOR = 0.72  # of what rounding leaves, by the best averages of pictures that were JPEGs (LOG.md)
BLIND_FACTOR, BLIND_NOISE = 0.92, 1.03  # likewise, of a network with blind spots
FEWEST_RISKS = 4  # steps before an averaged risk is believed


class Fixed:
    """All the steps; the last picture."""

    def __init__(self, picture: Tensor) -> None:
        self.done = torch.zeros((), dtype=torch.bool, device=picture.device)
        self.best_step = torch.zeros((), dtype=torch.int64, device=picture.device)
        self.best = torch.zeros_like(picture)
        self.value = torch.zeros((), device=picture.device)  # what the criterion looks at, for the curve

    def fitted(self, prediction: Tensor, target: Tensor) -> Tensor:
        """``prediction`` as the data term shall see it."""
        return prediction

    def update(
        self,
        step: Tensor,  # 0-D int64, from 0
        output: Tensor,  # [1, C, H, W], of this step
        picture: Tensor,  # [1, C, H, W], the average where there is one
        loss: Tensor,  # 0-D
    ) -> None:
        self._keep(torch.ones_like(self.done), step, picture)

    def _keep(self, better: Tensor, step: Tensor, picture: Tensor) -> None:
        """Where ``better`` (0-D bool), hold ``picture`` and ``step``."""
        torch.where(better, picture, self.best, out=self.best)
        torch.where(better, step, self.best_step, out=self.best_step)

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a snapshot must keep, by name."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}

    def reset(self, seed: int) -> None:
        """Forget everything, in place. ``seed`` is for the criteria that draw."""
        for tensor in self.tensors().values():
            tensor.zero_()

    def go_on(self, picture: Tensor) -> None:
        """The fit begins with weights that have fitted ``picture``, the image at half of its size, doubled again."""

    def why(self) -> str:
        """For the record, once the fit has ended."""
        return "all steps taken"


class Valley(Fixed):
    """Holds the picture at the lowest value so far; done when that is long ago, as a share of the steps up to it.

    A slow fit begins with values that rise from nothing, so a minimum counts only below the share `begun`
    of the highest value. A fit that jumped is waited for: while the value is below the share `falling` of its highest
    since the minimum, nothing is done.
    """

    what = "the value"
    begun, falling = 0.5, 0.0

    def __init__(self, picture: Tensor, config: Mapping[str, Any]) -> None:
        super().__init__(picture)
        self.patience, self.min_steps = config["patience"], config["min_steps"]
        self.lowest = torch.full_like(self.value, torch.inf)
        self.highest = torch.zeros_like(self.value)
        self.risen = torch.zeros_like(self.value)  # the highest value since the minimum

    def _descend(self, step: Tensor, picture: Tensor, early: Tensor | None = None) -> None:
        """Look at ``value``; ``early`` (0-D bool): whether a minimum would not count yet."""
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
    """ES-EMV of Wang et al. (TMLR 2023): m and v are the moving mean and variance of the outputs, v has a valley.

    m <- m + alpha (x - m), v <- (1 - alpha) (v + alpha |x - m|^2 / n), here with a memory that grows with the fit
    unless ``alpha`` is a number. A network with blind spots gains and takes up noise more slowly: there it is longer
    than the average's, so that what the outputs still gain counts in v beside their swing, and puts the valley off to
    where the average is best; longer still for one channel, where they swing more. Known false minimum: the first
    steps, hence `min_steps`.
    """

    what = "the outputs' moving variance"
    falling = 0.9  # LOG.md

    def __init__(self, picture: Tensor, config: Mapping[str, Any], blind: float | None = None) -> None:
        super().__init__(picture, config)
        self.kind = "auto" if config["alpha"] == "auto" else 1 - config["alpha"]
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
        """The variance falls at once, from what the details that are new make of it: any minimum counts."""
        self.mean.copy_(picture)
        self.seen.fill_(SEEN_COARSE)
        self.highest.fill_(torch.inf)


class WindowedVariance(Valley):
    """ES-WMV of Wang et al. (TMLR 2023): the variance of the last outputs, mean_k |x_k - mean|^2 / n, has a valley.

    Over a subsample of pixels, by running sums: each step adds the newest output to them and takes the oldest out
    where the window did not grow.
    """

    what = "the outputs' variance over a window"

    def __init__(self, picture: Tensor, config: Mapping[str, Any], steps: int) -> None:
        super().__init__(picture, config)
        self.share = config["share"]
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
        full = self.length >= window  # the window did not grow: its oldest goes
        oldest = self.ring.index_select(0, ((self.seen - 1 - self.length) % len(self.ring)).view(1))[0]
        self.sums.add_(torch.stack((newest, newest.square())))
        self.sums.sub_(torch.stack((oldest, oldest.square())) * full)
        self.length.add_(torch.where(full, 0, 1))
        mean, squares = self.sums / self.length
        self.value.copy_((squares - mean.square()).mean())
        self._descend(step, picture)


class HeldOut(Valley):
    """A share of the observed pixels is kept from the fit; the error of the averaged picture there has a valley.

    Self-validation without a second network. Where the noise of a pixel says nothing of its neighbours', the error is
    the true one plus a constant, in expectation. Where the task knows its noise, a minimum counts only once the
    picture's residual is down to it: until then the fit has structure to learn, however its error may wave.
    """

    what = "the error at the pixels held out"
    begun = 0.9  # most of it may be noise

    def __init__(self, picture: Tensor, config: Mapping[str, Any], problem: Problem) -> None:
        super().__init__(picture, config)
        if problem.block is not None:
            raise UsageError("fit.stop is held-out, which task jpeg cannot have: its errors hang together over a block")
        self.share, self.problem = config["share"], problem
        self.held = torch.zeros_like(problem.target[:, :1], dtype=torch.bool)  # [1, 1, h, w]

    def fitted(self, prediction: Tensor, target: Tensor) -> Tensor:
        return torch.where(self.held, target, prediction)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        prediction, expected = self.problem.operator(picture), self.problem.expected_residual
        errors = (prediction - self.problem.target).square()
        self.value.copy_((errors * self.held).sum() / (self.held.sum() * errors.shape[1]).clamp_min(1))
        reached = None if expected is None else torch.isfinite(self.lowest) | (errors.mean() <= expected(picture))
        self._descend(step, picture, None if reached is None else ~reached)

    def reset(self, seed: int) -> None:
        super().reset(seed)
        drawn = torch.rand(self.held.shape, generator=torch.Generator().manual_seed(seed)) < self.share
        self.held.copy_(drawn)


class Discrepancy(Fixed):
    """Morozov's principle, asked of the picture that would be returned: its residual is down to what the noise leaves.

    An average of outputs takes up the noise later than each output does, so it is its own residual that is held
    against the noise, with the noise's clipping to [0, 1] counted in. At its best a fit has taken up some of the noise;
    the channels share the net's freedom, so of three each takes up a third of what one alone does: hence `factor`
    auto, 1 - `TAKEN_UP` / C. A noise level given too low is never reached. For a JPEG the noise is the rounding of its
    coefficients, and auto is `CODED_FACTOR`.

    A network that is blind to a share of the values takes up little noise, and its residual says less: `fit.stop: auto`
    takes another criterion there, and this one only where it is named. Its factor auto is then
    `BLIND_FACTOR`, or a mean square of single outputs where they were blind, over the steps of an average, down to
    `BLIND_NOISE` of the noise: structure that is left to learn shows there in full.
    """

    def __init__(
        self, picture: Tensor, config: Mapping[str, Any], problem: Problem, blind: float | None = None
    ) -> None:
        super().__init__(picture)
        if not problem.noise_known:
            key = "task.noise.sigma" if problem.block is None else "task.quality"
            raise UsageError(f"fit.stop is discrepancy, but the task knows no noise level: give {key}")
        self.problem = problem
        automatic = 1 - TAKEN_UP / problem.target.shape[1] if blind is None else BLIND_FACTOR
        if problem.coding is not None:
            automatic = CODED_FACTOR
        self.factor = automatic if config["factor"] == "auto" else config["factor"]
        asked = config["factor"] != "auto" or not isinstance(problem.data_term, WeightedSquare)
        self.blind = None if asked else blind
        self.heard, self.seen = torch.zeros_like(self.value), torch.zeros_like(self.best_step)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        ratio = self.problem.remaining(picture)
        self._keep(~self.done, step, picture)
        torch.where(self.done, self.value, ratio, out=self.value)
        reached = ratio <= self.factor
        if self.blind is not None:
            self.heard.lerp_(loss / self.blind, newest_weight("auto", self.seen))
            self.seen.add_(1)
            reached = reached | (self.heard <= BLIND_NOISE * self._noise(picture))
        self.done |= reached

    def _noise(self, picture: Tensor) -> Tensor:
        assert self.problem.expected_residual is not None  # where there is a blind spot
        return self.problem.expected_residual(picture)

    def why(self) -> str:
        noise = "noise" if self.problem.coding is None else "rounding"
        reached = f"mean (A x - y)^2 is {float(self.value):.3f} of what the {noise} leaves"
        if self.blind is not None:
            reached += f", {float(self.heard / self._noise(self.best)):.3f} where the network was blind"
        return reached if bool(self.done) else f"all steps taken; {reached}, above {self.factor:.3g}"


class Sure(Fixed):
    """Stein's unbiased risk estimate as the loss (Jo et al., ICCV 2021); done when it falls below zero.

    Gaussian noise, with z = y: mean (f - y)^2 + 2 sigma^2 div f - sigma^2, the divergence by one random probe and a
    finite difference. Poisson noise: PURE (Le Montagner et al., 2014), y / peak in place of sigma^2. Each step takes
    a second forward pass.
    """

    probe_step = 0.01  # of the finite difference, in units of full range

    def __init__(self, picture: Tensor, problem: Problem, latent: str) -> None:
        super().__init__(picture)
        noise = problem.expected_residual
        if not isinstance(noise, ClippedGaussian | PoissonVariance) or problem.block is not None:
            raise UsageError("fit.stop is sure, which needs a denoise task with gaussian or poisson noise")
        if latent != "image":
            raise UsageError(f"fit.stop is sure, which needs generator.input.type image, is {latent}")
        self.noise, self.problem = noise, problem
        self.probe = torch.zeros_like(picture)
        self.seen = torch.zeros_like(self.best_step)

    def _variance(self) -> Tensor:
        """Of the noise, [1, C, 1, 1] or [1, C, H, W]."""
        if isinstance(self.noise, ClippedGaussian):
            return self.noise.std.square()
        return self.noise.deviation(self.problem.target).square()

    def penalty(self, output: Tensor, shifted: Tensor) -> Tensor:
        """What the risk has beyond the mean square, given f(z) and f(z + probe_step * probe)."""
        variance = self._variance()
        moved = self.problem.operator(shifted) - self.problem.operator(output)
        divergence = (self.probe * moved * variance).mean() / self.probe_step
        return 2 * divergence - variance.mean()

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        self._keep(~self.done, step, picture)
        self.value.lerp_(loss, newest_weight("auto", self.seen))
        self.seen.add_(1)
        self.done |= (self.value < 0) & (self.seen >= FEWEST_RISKS)

    def why(self) -> str:
        reached = f"the estimated risk is {float(self.value):.2e}"
        return f"{reached}, below zero" if bool(self.done) else f"all steps taken; {reached}"
