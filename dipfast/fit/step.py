"""The step: jitter, forward, loss, backward, update, average, stop statistics. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from dipfast.errors import UsageError
from dipfast.fit.auto import choose_stop
from dipfast.fit.average import newest_weight
from dipfast.fit.blind import Look, hide, spots_of
from dipfast.fit.criteria import make_stop
from dipfast.fit.engine import WARM_UP, Machine, loss_scale
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step, sgld_step
from dipfast.fit.plan import FitPlan, stream
from dipfast.fit.posterior import Posterior, likelihood_scale
from dipfast.fit.spread import Spread
from dipfast.fit.stop import Fixed, Sure
from dipfast.generators import SkipNet, build, latent_channels, make_latent
from dipfast.tasks import Problem
from dipfast.tasks.coding import CELL
from dipfast.tasks.problem import WHITE_NOISE, ClippedGaussian, mean_square


class Member:
    """One generator with its optimiser, latent and random numbers, all on one device.

    A fit has one, or several of other seeds side by side, which share the target and know nothing of each other.
    """

    def __init__(self, problem: Problem, config: dict[str, Any], device: torch.device, number: int) -> None:
        channels, height, width = problem.shape
        self.config, self.number = config, number
        self.generator: SkipNet = build(config, channels, seed=0).to(device)
        self.parameters = FlatParameters(self.generator, device)
        self.forward: Callable[..., Tensor] = self.generator  # an engine may put a faster one here
        self.optimizer = OptimizerState.zeros_like(self.parameters.values)
        self.spots = spots_of(config["input"], problem.noise_correlation)
        shared = config["input"].get("reach") == "auto" and problem.noise_correlation != WHITE_NOISE
        self.recorrupt: float | None = None if shared else config["input"].get("recorrupt")
        if self.recorrupt is not None and not isinstance(problem.expected_residual, ClippedGaussian):
            raise UsageError("generator.input.recorrupt needs a denoise task with gaussian noise")
        self.recompress = bool(config["input"].get("recompress"))
        if self.recompress and problem.coding is None:
            raise UsageError("generator.input.recompress needs task jpeg of some quality")
        depth = latent_channels(config["input"], channels)
        self.latent = _blank(depth, height, width, device)
        self.noise = torch.zeros(1, height, width, depth, device=device)  # a normal draw is slow in another layout
        self.random = torch.Generator(device)
        self.output, self.loss = _blank(channels, height, width, device), torch.zeros((), device=device)

    def seed(self, seed: int, name: str) -> int:
        """The seed of one use of the item's ``seed``. That of the first member is what a member alone has."""
        return stream(seed, f"{name}/{self.number}" if self.number else name)

    def reset(self, seed: int, shown: Tensor) -> None:
        """Put every buffer to where a fit with ``seed`` begins, in place."""
        height, width = self.latent.shape[2:]
        self.parameters.load(build(self.config, shown.shape[1], self.seed(seed, "weights")))
        self.latent.copy_(make_latent(self.config["input"], height, width, self.seed(seed, "latent"), shown))
        self.random.manual_seed(self.seed(seed, "jitter"))
        for tensor in (*vars(self.optimizer).values(), self.noise, self.output, self.loss):
            tensor.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """What a rollback must restore."""
        return {"values": self.parameters.values, "output": self.output, **vars(self.optimizer)}

    def move(self, problem: Problem, plan: FitPlan, stop: Fixed, dtype: torch.dtype) -> None:
        """Take one step, in place; `output` and `loss` (where it is blind, if it is) are those before the update."""
        target, look = problem.target, self._look(problem)
        latent = self.latent if look is None else look.latent
        if plan.reg_noise_std:
            self.noise.normal_(generator=self.random)
            latent = latent.add(self.noise.permute(0, 3, 1, 2), alpha=plan.reg_noise_std)
        output = self.forward(latent, dtype)
        fitted = stop.fitted(problem.operator(output), target)
        more = None
        if look is None:
            loss = problem.data_term(fitted, target)
        else:
            loss, more = look.losses(fitted, target, problem.data_term)
        if isinstance(stop, Sure):
            stop.probe.normal_(generator=self.random)
            shifted = self.forward(latent.add(stop.probe, alpha=stop.probe_step), dtype)
            loss = loss + stop.penalty(output, shifted)
        scale = loss_scale(dtype, problem.target.numel())
        self.parameters.grads.zero_()
        ((loss if more is None else loss + more) * scale).backward()
        with torch.no_grad():
            if scale != 1:
                self.parameters.grads.div_(scale)
            if plan.optimizer["type"] == "sgld":
                self._sample(problem, plan)
            else:
                fused = self.generator.fused
                optimizer_step(plan.optimizer, self.parameters, self.optimizer, dtype, fused=fused)
            self.output.copy_(output)
            self.loss.copy_(loss)

    def _look(self, problem: Problem) -> Look | None:
        """What the network is shown in this step, where that is not the latent as it is."""
        if self.recompress:
            assert problem.coding is not None
            corner = torch.randint(CELL, (2,), generator=self.random, device=self.latent.device)
            return Look(problem.coding.again(self.latent, corner))
        if self.spots is None:
            return None
        judged = self.spots.draw(self.noise.uniform_(generator=self.random).permute(0, 3, 1, 2))
        hidden = self.spots.cover(judged)
        look = Look(hide(self.latent, hidden, self.spots.reach), judged, hidden)
        if self.recorrupt is None:
            return look
        drawn = torch.empty_like(self.noise).normal_(generator=self.random).permute(0, 3, 1, 2)
        noise = problem.expected_residual
        assert isinstance(noise, ClippedGaussian)
        return look.recorrupted(drawn * noise.deviation(self.output), self.recorrupt)

    def _sample(self, problem: Problem, plan: FitPlan) -> None:
        """One step of the chain of weights whose outputs are the posterior's samples."""
        config = plan.optimizer
        scale = likelihood_scale(config, problem) if config["rule"] == "preconditioned" else None
        burn_in = plan.posterior["burn_in"] if plan.posterior is not None else plan.steps
        sgld_step(config, self.parameters, self.optimizer, self.random, scale, burn_in)


def _blank(channels: int, height: int, width: int, device: torch.device) -> Tensor:
    return torch.zeros(1, height, width, channels, device=device).permute(0, 3, 1, 2)


class FitState:
    """The buffers of one fit, all on one device. `fit_step` changes them in place."""

    def __init__(self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine) -> None:
        device = machine.device
        self.problem = problem
        self.members = [Member(problem, config, device, number) for number in range(plan.seeds)]
        for member in self.members:
            member.generator.recompute(plan.recompute)
            if machine.kernels == "triton":
                member.generator.fuse()
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.output = _blank(*problem.shape, device)  # the mean of the members'
        self.average = torch.zeros_like(self.output)
        self.averaged = torch.zeros_like(self.step)  # outputs in the average: fewer than steps behind a rollback
        latent = config["input"]
        self.choice = choose_stop(plan, problem, latent)
        self.stop = make_stop(self.choice.stop, self.output, problem, plan.steps, latent)
        if isinstance(self.stop, Sure) and plan.seeds > 1:
            raise UsageError(f"fit.stop is sure, which fits one seed, and fit.seeds is {plan.seeds}")
        several = plan.seeds > 1 and plan.uncertainty is not False
        self.spread = Spread(plan.seeds, self.output) if several else None
        self.posterior: Posterior | None = None
        if plan.posterior is not None:
            self.posterior = Posterior(plan.posterior, plan.steps, self.output, self.first.parameters.values)
        length = max(plan.steps, WARM_UP)  # a capture steps that often before the fit
        self.losses = torch.full((length,), torch.nan, device=device)
        self.stop_values = torch.full_like(self.losses, torch.nan)
        self.residual = torch.zeros((), device=device)
        self.reset(plan.seed)

    @property
    def first(self) -> Member:
        """The member whose generator is kept."""
        return self.members[0]

    def reset(self, seed: int) -> None:
        """Put every buffer to where a fit with ``seed`` begins, in place: captured steps go on holding them."""
        for member in self.members:
            member.reset(seed, self.problem.shown)
        for tensor in (self.step, self.output, self.average, self.averaged, self.residual):
            tensor.zero_()
        for part in (self.posterior, self.spread):
            if part is not None:
                part.reset()
        self.losses.fill_(torch.nan)
        self.stop_values.fill_(torch.nan)
        self.stop.reset(stream(seed, "stop"))

    def go_on_from(self, coarse: FitState) -> None:
        """Take over what a fit at half of the size has come to: weights and momentum, and what it last saw."""
        _, height, width = self.problem.shape

        def doubled(picture: Tensor) -> Tensor:
            return F.interpolate(picture, scale_factor=2, mode="bilinear")[..., :height, :width]

        for mine, theirs in zip(self.members, coarse.members, strict=True):
            mine.parameters.values.copy_(theirs.parameters.values)
            for name, value in vars(mine.optimizer).items():
                value.copy_(getattr(theirs.optimizer, name))
            mine.output.copy_(doubled(theirs.output))
        self.average.copy_(doubled(coarse.average))  # until the first step's output is in its place
        self.stop.go_on(self.average)

    def tensors(self) -> dict[str, Tensor]:
        """What a rollback must restore: weights, moments, averages and the criterion's statistics."""
        own = {"average": self.average, "averaged": self.averaged}
        for member in self.members:
            own |= {f"{member.number}.{k}": v for k, v in member.tensors().items()}
        if self.posterior is not None:
            own |= {f"posterior.{k}": v for k, v in self.posterior.tensors().items()}
        if self.spread is not None:
            own |= {f"spread.{k}": v for k, v in self.spread.tensors().items()}
        return own | {f"stop.{k}": v for k, v in self.stop.tensors().items()}

    def snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(snapshot[name])

    @property
    def finite(self) -> bool:
        """Whether all weights are."""
        return all(bool(torch.isfinite(member.parameters.values).all()) for member in self.members)


def fit_step(state: FitState, problem: Problem, plan: FitPlan, dtype: torch.dtype) -> None:
    """One step of the fit, in place."""
    side_by_side(state.members, lambda member: member.move(problem, plan, state.stop, dtype))
    with torch.no_grad():
        _observe(state, problem, plan)


def side_by_side(members: Sequence[Member], move: Callable[[Member], None]) -> None:
    """``move`` every member: on a GPU each on a stream of its own, forked from the current one and joined again."""
    if len(members) == 1 or members[0].latent.device.type != "cuda":
        for member in members:
            move(member)
        return
    main = torch.cuda.current_stream()
    streams = [torch.cuda.Stream() for _ in members]
    for side, member in zip(streams, members, strict=True):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            move(member)
    for side in streams:
        main.wait_stream(side)


def _observe(state: FitState, problem: Problem, plan: FitPlan) -> None:
    """Average, residual, stop statistics and the loss curve."""
    first, *others = state.members
    output = sum((member.output for member in others), first.output) / len(state.members)
    loss = sum((member.loss for member in others), first.loss) / len(state.members)
    state.output.copy_(output)
    weight = torch.ones_like(loss)
    if plan.average is not None:
        weight = newest_weight(plan.average, state.averaged)
        state.average.lerp_(output, weight)
        state.averaged.add_(1)
    state.residual.copy_(mean_square(problem.operator(output), problem.target))
    picture = state.output if plan.average is None else state.average
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
