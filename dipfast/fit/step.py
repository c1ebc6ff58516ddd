"""The step: jitter, forward, loss, backward, update, observe. Nothing in it waits for the device.

What differs from fit to fit, the objective and the update, is chosen when the state is made. So the step is a plain
function without branches, which an engine may capture.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.errors import UsageError
from dipfast.fit.engine import WARM_UP, Machine, loss_scale
from dipfast.fit.objective import Objective, choose_objective
from dipfast.fit.optimizer import FlatParameters, OptimizerState, Update, choose_update
from dipfast.fit.statistics import Buffers, Posterior, Spread, newest_weight
from dipfast.fit.stop import Choice, make_stop
from dipfast.fit.stop.residual import Sure
from dipfast.generators import SkipNet, build, latent_channels, make_latent
from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.tasks import Problem
from dipfast.tasks.problem import NoiseModel, mean_square

SMOOTH = 5  # pixels a side of the mean that stands for the picture where the strength of noise depends on it


def derive_seed(seed: int, name: str, number: int = 0) -> int:
    """Derive a seed for one use (`weights`, `latent`, `jitter`) from an item's seed, so that no two share numbers.

    ``number`` is that of the member that uses it, from 0. The first member's seeds are those of a fit with one member.
    """
    digest = hashlib.sha256(f"{seed}/{name}/{number}".encode() if number else f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Member(Buffers):
    """One generator with its optimiser, latent and random numbers, all on one device.

    A fit has one, or several with other seeds side by side, which share the target and do not depend on each other.
    """

    def __init__(self, problem: Problem, config: SkipGenerator, device: torch.device, number: int) -> None:
        count, channels, height, width = problem.guide.shape
        self.problem, self.config, self.number = problem, config, number
        self.generator: SkipNet = build(config, channels, seed=0).to(device)
        self.parameters = FlatParameters(self.generator, device)
        self.forward: Callable[..., Tensor] = self.generator  # an engine may put a faster one here
        self.optimizer = OptimizerState.zeros_like(self.parameters.values)
        depth = latent_channels(config.input, channels)
        self.latent = _blank((count, depth, height, width), device)
        self.noise = torch.zeros(count, height, width, depth, device=device)  # a normal draw is slow in another layout
        self.random = torch.Generator(device)
        self.deviation = torch.zeros_like(problem.target)  # of the noise
        self.output, self.loss = _blank(problem.guide.shape, device), torch.zeros((), device=device)

    def reset(self, seed: int) -> None:
        height, width = self.latent.shape[2:]
        for tensor in (*vars(self.optimizer).values(), self.noise, self.output, self.loss):
            tensor.zero_()
        self.parameters.load(build(self.config, self.output.shape[1], derive_seed(seed, "weights", self.number)))
        shown, latent_seed = self.problem.shown, derive_seed(seed, "latent", self.number)
        self.latent.copy_(make_latent(self.config.input, height, width, latent_seed, shown))
        self.deviation.copy_(_deviation(self.problem))
        self.random.manual_seed(derive_seed(seed, "jitter", self.number))

    def state_dict(self) -> dict[str, Tensor]:
        return {"values": self.parameters.values, "output": self.output, **vars(self.optimizer)}


def _blank(shape: Sequence[int], device: torch.device) -> Tensor:
    count, channels, height, width = shape
    return torch.zeros(count, height, width, channels, device=device).permute(0, 3, 1, 2)


def _deviation(problem: Problem) -> Tensor:  # [B, C or 1, H or 1, W or 1]
    """Return the deviation of the noise, at a local mean of what was observed; 0 where it is not known."""
    if not isinstance(problem.expected_residual, NoiseModel):
        return problem.target.new_zeros(1, 1, 1, 1)
    smooth = F.avg_pool2d(problem.target, SMOOTH, 1, SMOOTH // 2, count_include_pad=False)
    return problem.expected_residual.deviation(smooth)


@final
@dataclass(frozen=True)
class MemberStep:
    """One step of a member, in place. Its `output` and `loss` are then those before the update."""

    objective: Objective
    update: Update
    jitter: float  # standard deviation of the noise added to the input of the network
    dtype: torch.dtype  # of convolutions
    scale: float  # of the loss in the backward pass

    def __call__(self, member: Member) -> None:
        shown, judge = self.objective(member)
        if self.jitter:
            member.noise.normal_(generator=member.random)
            shown = shown.add(member.noise.permute(0, 3, 1, 2), alpha=self.jitter)
        output = member.forward(shown, self.dtype)
        losses = judge(output, shown)
        member.parameters.grads.zero_()
        (losses.total * self.scale).backward()
        with torch.no_grad():
            if self.scale != 1:
                member.parameters.grads.div_(self.scale)
            self.update(member.parameters, member.optimizer, member.random)
            member.output.copy_(output)
            member.loss.copy_(losses.reported)


class FitState(Buffers):
    """The buffers of one fit, all on one device, and the rules by which `fit_step` changes them.

    ``choice`` is the stop criterion, whose reason may change from item to item. ``coarse``: the number of steps of a
    fit at a smaller size, of which only weights and the average are used. ``is_part``: whether the problem is that of
    windows of a picture. Raises UsageError for what the task cannot have.
    """

    def __init__(
        self,
        problem: Problem,
        config: SkipGenerator,
        settings: Fit,
        machine: Machine,
        choice: Choice,
        coarse: int | None = None,
        is_part: bool = False,
    ) -> None:
        device, latent = machine.device, config.input
        self.problem, self.choice, self.is_coarse, self.is_part = problem, choice, coarse is not None, is_part
        self.steps = settings.steps if coarse is None else coarse
        self.averaging = settings.average if coarse is None else "auto"
        self.members = [Member(problem, config, device, number) for number in range(settings.seeds)]
        for member in self.members:
            member.generator.recompute(machine.recompute)
            if machine.kernels == "triton":
                member.generator.fuse()
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.output = _blank(problem.guide.shape, device)  # the mean of the members'
        self.average = torch.zeros_like(self.output)
        self.averaged = torch.zeros_like(self.step)  # outputs in the average: after a rollback fewer than steps
        self.stop = make_stop(choice.stop, self.output, problem, self.steps, latent)
        if isinstance(self.stop, Sure) and settings.seeds > 1:
            raise UsageError(f"fit.stop is sure, which fits one seed, and fit.seeds is {settings.seeds}")
        several = settings.seeds > 1 and settings.uncertainty is not False and not self.is_coarse and not is_part
        self.spread = Spread(settings.seeds, self.output) if several else None
        self.posterior: Posterior | None = None
        if settings.posterior is not None:
            self.posterior = Posterior(settings.posterior, self.steps, self.output, self.first.parameters.values)
        length = max(self.steps, WARM_UP)  # a capture takes that many steps before the fit
        self.losses = torch.full((length,), torch.nan, device=device)
        self.stop_values = torch.full_like(self.losses, torch.nan)
        self.residual = torch.zeros((), device=device)
        self.member_step = MemberStep(
            choose_objective(problem, latent, self.stop, machine.dtype),
            choose_update(settings, problem, machine.dtype, fused=self.first.generator.fused),
            settings.reg_noise_std,
            machine.dtype,
            loss_scale(machine.dtype, problem.target.numel()),
        )
        self.reset(settings.seed)

    @property
    def first(self) -> Member:
        """The member whose generator is kept."""
        return self.members[0]

    @property
    def parts(self) -> dict[str, Buffers]:
        """What has buffers of its own, by name."""
        named: dict[str, Buffers | None] = {str(member.number): member for member in self.members}
        named |= {"posterior": self.posterior, "spread": self.spread, "stop": self.stop}
        return {name: part for name, part in named.items() if part is not None}

    def reset(self, seed: int) -> None:
        for tensor in (self.step, self.output, self.average, self.averaged, self.residual):
            tensor.zero_()
        for name, part in self.parts.items():
            part.reset(derive_seed(seed, "stop") if name == "stop" else seed)
        self.losses.fill_(torch.nan)
        self.stop_values.fill_(torch.nan)

    def state_dict(self) -> dict[str, Tensor]:
        """Return weights, moments, averages and the statistics of the criterion, by name."""
        found = {"average": self.average, "averaged": self.averaged}
        return found | {f"{name}.{k}": v for name, part in self.parts.items() for k, v in part.state_dict().items()}

    def go_on_from(self, coarse: FitState) -> None:
        """Take over weights and momentum from a fit at half of the size, and of the whole picture the last pictures."""
        _, height, width = self.problem.shape

        def doubled(picture: Tensor) -> Tensor:
            return F.interpolate(picture, scale_factor=2, mode="bilinear")[..., :height, :width]

        for mine, theirs in zip(self.members, coarse.members, strict=True):
            mine.parameters.values.copy_(theirs.parameters.values)
            for name, value in vars(mine.optimizer).items():
                value.copy_(getattr(theirs.optimizer, name))
        if self.is_part:
            return
        for mine, theirs in zip(self.members, coarse.members, strict=True):
            mine.output.copy_(doubled(theirs.output))
        self.average.copy_(doubled(coarse.average))  # until the output of the first step replaces it
        self.stop.go_on(self.average)

    @property
    def finite(self) -> bool:
        """Whether all weights are finite. This waits for the device."""
        return all(bool(torch.isfinite(member.parameters.values).all()) for member in self.members)


def fit_step(state: FitState) -> None:
    """Take one step of the fit, in place."""
    side_by_side(state.members, state.member_step)
    with torch.no_grad():
        _observe(state)


def side_by_side(members: Sequence[Member], step: Callable[[Member], None]) -> None:
    """Call ``step`` with every member; on a GPU each on its own stream, forked from the current one and joined."""
    if len(members) == 1 or members[0].latent.device.type != "cuda":
        for member in members:
            step(member)
        return
    main = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in members]
    for side, member in zip(streams, members, strict=True):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            step(member)
    for side in streams:
        main.wait_stream(side)


def _observe(state: FitState) -> None:
    """Update average, residual, samples, stop criterion, spread and curves by the members' outputs and losses."""
    output = sum((member.output for member in state.members[1:]), state.first.output) / len(state.members)
    loss = sum((member.loss for member in state.members[1:]), state.first.loss) / len(state.members)
    state.output.copy_(output)
    weight, picture = torch.ones_like(loss), state.output
    if state.averaging is not None:
        weight, picture = newest_weight(state.averaging, state.averaged), state.average
        state.average.lerp_(output, weight)
        state.averaged.add_(1)
    state.residual.copy_(mean_square(state.problem.operator(output), state.problem.target))
    if state.posterior is not None:
        state.posterior.update(state.step, output, state.first.parameters.values)
        picture = state.posterior.mean
    state.stop.update(state.step, output, picture, loss)
    if state.spread is not None:
        outputs = [member.output for member in state.members]
        state.spread.update(outputs, weight, state.stop.best_step == state.step)
    for curve, value in ((state.losses, loss), (state.stop_values, state.stop.value)):
        curve.index_copy_(0, state.step.view(1), value.view(1))
    state.step.add_(1)
