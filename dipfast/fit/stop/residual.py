"""Stop criteria that look at the observed picture: pixels held out, the noise's level, a risk, and a codec's blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.fit.statistics import newest_weight
from dipfast.fit.stop.criterion import Criterion, Valley
from dipfast.settings.stop import BlocksStop, DiscrepancyStop, HeldOutStop
from dipfast.tasks import Problem
from dipfast.tasks.coding import LINES_AROUND, border_strength, first_border
from dipfast.tasks.problem import ClippedGaussian, PoissonVariance, WeightedSquare

TAKEN_UP = 0.075  # of the noise's energy, by the best average of one channel (LOG.md, 2026-11-24)
CODED_FACTOR = 0.72  # of what rounding leaves, by the best averages of pictures that were JPEGs (LOG.md, 2026-11-24)
BLIND_FACTOR, BLIND_NOISE = 0.92, 1.03  # the same of a network with blind spots (LOG.md, 2026-11-24)
FEWEST_RISKS = 4  # steps before an averaged risk counts


class HeldOut(Valley):
    """A share of the observed pixels is kept from the fit; the error of the averaged picture there has a valley.

    This is self-validation without a second network. If the noise of a pixel does not depend on its neighbours', the
    expected error is the true one plus a constant. If the task knows its noise, a minimum counts only once the
    residual of the picture is down to it: until then the fit has structure to learn, however its error may swing.
    """

    what = "the error at the pixels held out"
    begun = 0.9  # most of it may be noise

    def __init__(self, picture: Tensor, config: HeldOutStop, problem: Problem) -> None:
        super().__init__(picture, config)
        if problem.block is not None:
            raise UsageError("fit.stop is held-out, which task jpeg cannot have: its errors hang together over a block")
        self.share, self.problem = config.share, problem
        self.held = torch.zeros_like(problem.target[:, :1], dtype=torch.bool)  # [1, 1, h, w]

    def predict(self, output: Tensor) -> Tensor:  # [1, C, H, W] -> [1, C, h, w]
        """Return A x for the loss, with the observed values where pixels are held out, so that they have no part."""
        return torch.where(self.held, self.problem.target, self.problem.operator(output))

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        prediction, expected = self.problem.operator(picture), self.problem.expected_residual
        errors = (prediction - self.problem.target).square()
        self.value.copy_((errors * self.held).sum() / (self.held.sum() * errors.shape[1]).clamp_min(1))
        reached = None if expected is None else torch.isfinite(self.lowest) | (errors.mean() <= expected(picture))
        self._descend(step, picture, None if reached is None else ~reached)

    def reset(self, seed: int) -> None:
        """Draw the pixels anew."""
        super().reset(seed)
        drawn = torch.rand(self.held.shape, generator=torch.Generator().manual_seed(seed)) < self.share
        self.held.copy_(drawn)


class Discrepancy(Criterion):
    """Morozov's principle for the picture to return: done when its residual is down to what the noise leaves.

    An average of outputs takes up the noise later than the outputs do, so its own residual is compared with the noise,
    whose clipping to [0, 1] is taken into account. At its best a fit has taken up some of the noise. The channels share
    the network's freedom, so that each of three takes up a third of what one alone does: hence `factor` auto,
    1 - `TAKEN_UP` / C. The residual never comes down to a noise level that is given too low. For a JPEG the noise is
    the rounding of its coefficients, and auto is `CODED_FACTOR`.

    A network that is blind to a share of the values takes up little noise, and its residual tells less. `fit.stop:
    auto` chooses another criterion there. If this one is asked for, factor auto is `BLIND_FACTOR`, and the fit is also
    done when the mean square of single outputs where they were blind, over the steps of an average, is down to
    `BLIND_NOISE` of the noise: structure that is left to learn shows there in full.
    """

    def __init__(self, picture: Tensor, config: DiscrepancyStop, problem: Problem, blind: float | None = None) -> None:
        super().__init__(picture)
        if not problem.noise_known:
            key = "task.noise.sigma" if problem.block is None else "task.quality"
            raise UsageError(f"fit.stop is discrepancy, but the task knows no noise level: give {key}")
        self.problem = problem
        automatic = 1 - TAKEN_UP / problem.target.shape[1] if blind is None else BLIND_FACTOR
        if problem.coding is not None:
            automatic = CODED_FACTOR
        self.factor = automatic if config.factor == "auto" else config.factor
        asked = config.factor != "auto" or not isinstance(problem.data_term, WeightedSquare)
        self.blind = None if asked else blind
        self.heard, self.seen = torch.zeros_like(self.value), torch.zeros_like(self.best_step)  # the blind mean square

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        ratio = self.problem.remaining(picture)
        self._keep_until_done(step, picture, ratio)
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


class Sure(Criterion):
    """Stein's unbiased risk estimate as the loss (Jo et al., ICCV 2021); done when it falls below zero.

    For Gaussian noise it is, with z = y, mean (f - y)^2 + 2 sigma^2 div f - sigma^2, where the divergence is estimated
    by one random probe and a finite difference. For Poisson noise it is PURE (Le Montagner et al., 2014), with y / peak
    in place of sigma^2. Each step takes a second forward pass.
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
        """Return the variance of the noise, [1, C, 1, 1] or [1, C, H, W]."""
        if isinstance(self.noise, ClippedGaussian):
            return self.noise.std.square()
        return self.noise.deviation(self.problem.target).square()

    def penalty(self, output: Tensor, shifted: Tensor) -> Tensor:
        """Return what the risk has beyond the mean square, 0-D, given f(z) and f(z + probe_step * probe)."""
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


class Blocks(Criterion):
    """Done when the picture jumps more at the borders of a codec's blocks than beside them, by the factor `ratio`.

    A scene does not depend on the grid: along its lines, the mean |difference of neighbours| at a border is on the
    median what it is beside it. A fit is smooth at first, and takes up the jumps last. The median is used because an
    edge of the scene may be on a border. No noise level is needed. Where the grid begins is found once, in the target,
    because a picture may have been cut after it was coded.
    """

    def __init__(self, picture: Tensor, config: BlocksStop, problem: Problem) -> None:
        super().__init__(picture)
        if problem.block is None:
            raise UsageError("fit.stop is blocks, which needs task jpeg")
        self.limit, self.block, self.problem = config.ratio, problem.block, problem
        height, width = picture.shape[2:]
        counts = [(side - 1 - 2 * LINES_AROUND) // self.block for side in (height, width)]
        if min(counts) < 1:
            raise UsageError(f"fit.stop is blocks, which needs a picture of two blocks a side, has {width}×{height}")
        self.rows, self.columns = (torch.zeros(k, dtype=torch.int64, device=picture.device) for k in counts)

    def update(self, step: Tensor, output: Tensor, picture: Tensor, loss: Tensor) -> None:
        found = [border_strength(picture, axis).index_select(0, at) for axis, at in ((2, self.rows), (3, self.columns))]
        ordered = torch.cat(found).sort().values
        ratio = ordered[len(ordered) // 2]
        self._keep_until_done(step, picture, ratio)
        self.done |= ratio >= self.limit

    def reset(self, seed: int) -> None:
        """Find the grid anew."""
        super().reset(seed)
        for axis, at in ((2, self.rows), (3, self.columns)):
            first = first_border(border_strength(self.problem.target, axis), self.block)
            at.copy_(first + self.block * torch.arange(len(at)))

    def why(self) -> str:
        shown = f"jumps at the borders of blocks are {float(self.value):.2f} of those beside them"
        return shown if bool(self.done) else f"all steps taken; {shown}, below {self.limit:g}"
