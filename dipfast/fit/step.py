"""The step: jitter, forward, loss, backward, update, average, stop statistics. Nothing in it waits for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dipfast.fit.average import newest_weight
from dipfast.fit.engine import Machine
from dipfast.fit.optimizer import FlatParameters, OptimizerState, optimizer_step, sgld_step
from dipfast.fit.plan import FitPlan, stream
from dipfast.fit.posterior import Posterior, likelihood_scale
from dipfast.fit.stop import Sure, make_stop
from dipfast.generators import build, latent_channels, make_latent
from dipfast.tasks import Problem
from dipfast.tasks.problem import mean_square


class FitState:
    """The buffers of one fit, all on one device. `fit_step` changes them in place."""

    def __init__(self, problem: Problem, config: dict[str, Any], plan: FitPlan, machine: Machine) -> None:
        channels, height, width = problem.shape
        device, layout = machine.device, torch.channels_last
        self.problem, self.config = problem, config
        self.generator: nn.Module = build(config, channels, seed=0).to(device)
        self.parameters = FlatParameters(self.generator, device)
        self.forward: Callable[..., Tensor] = self.generator  # an engine may put a faster one here
        self.optimizer = OptimizerState.zeros_like(self.parameters.values)
        depth = latent_channels(config["input"], channels)
        self.latent = torch.zeros(1, depth, height, width, device=device).contiguous(memory_format=layout)
        self.noise = torch.zeros(1, height, width, depth, device=device)  # a normal draw is slow in another layout
        self.random = torch.Generator(device)
        self.step = torch.zeros((), dtype=torch.int64, device=device)
        self.output = torch.zeros(1, channels, height, width, device=device).contiguous(memory_format=layout)
        self.average = torch.zeros_like(self.output)
        self.averaged = torch.zeros_like(self.step)  # outputs in the average: fewer than steps behind a rollback
        self.stop = make_stop(plan.stop, self.output, problem, plan.steps, config["input"]["type"])
        self.posterior: Posterior | None = None
        if plan.posterior is not None:
            self.posterior = Posterior(plan.posterior, plan.steps, self.output, self.parameters.values)
        self.losses = torch.full((plan.steps,), torch.nan, device=device)
        self.stop_values = torch.full_like(self.losses, torch.nan)
        self.residual = torch.zeros((), device=device)
        self.reset(plan.seed)

    def reset(self, seed: int) -> None:
        """Put every buffer to where a fit with ``seed`` begins, in place: captured steps go on holding them."""
        channels, height, width = self.problem.shape
        self.parameters.load(build(self.config, channels, stream(seed, "weights")))
        latent = make_latent(self.config["input"], height, width, stream(seed, "latent"), self.problem.guide)
        self.latent.copy_(latent)
        self.random.manual_seed(stream(seed, "jitter"))
        counts = (self.step, self.averaged, self.residual)
        for tensor in (*vars(self.optimizer).values(), self.noise, self.output, self.average, *counts):
            tensor.zero_()
        if self.posterior is not None:
            self.posterior.reset()
        self.losses.fill_(torch.nan)
        self.stop_values.fill_(torch.nan)
        self.stop.reset(stream(seed, "stop"))

    def tensors(self) -> dict[str, Tensor]:
        """What a rollback must restore: weights, moments, averages and the criterion's statistics."""
        own = {"values": self.parameters.values, "average": self.average, "averaged": self.averaged}
        if self.posterior is not None:
            own |= {f"posterior.{k}": v for k, v in self.posterior.tensors().items()}
        return own | vars(self.optimizer) | {f"stop.{k}": v for k, v in self.stop.tensors().items()}

    def snapshot(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.tensors().items()}

    def restore(self, snapshot: dict[str, Tensor]) -> None:
        for name, tensor in self.tensors().items():
            tensor.copy_(snapshot[name])


def fit_step(state: FitState, problem: Problem, plan: FitPlan, dtype: torch.dtype) -> None:
    """One step of the fit, in place."""
    latent = state.latent
    if plan.reg_noise_std:
        state.noise.normal_(generator=state.random)
        latent = latent.add(state.noise.permute(0, 3, 1, 2), alpha=plan.reg_noise_std)
    output = state.forward(latent, dtype)
    prediction = problem.operator(output)
    loss = problem.data_term(state.stop.fitted(prediction, problem.target), problem.target)
    if isinstance(state.stop, Sure):
        state.stop.probe.normal_(generator=state.random)
        shifted = state.forward(latent.add(state.stop.probe, alpha=state.stop.probe_step), dtype)
        loss = loss + state.stop.penalty(output, shifted)
    state.parameters.grads.zero_()
    loss.backward()
    with torch.no_grad():
        if plan.optimizer["type"] == "sgld":
            _sample(state, problem, plan)
        else:
            optimizer_step(plan.optimizer, state.parameters, state.optimizer, dtype)
        _observe(state, problem, plan, output.detach(), prediction.detach(), loss.detach())


def _sample(state: FitState, problem: Problem, plan: FitPlan) -> None:
    """One step of the chain of weights whose outputs are the posterior's samples."""
    config = plan.optimizer
    scale = likelihood_scale(config, problem) if config["rule"] == "preconditioned" else None
    burn_in = plan.posterior["burn_in"] if plan.posterior is not None else plan.steps
    sgld_step(config, state.parameters, state.optimizer, state.random, scale, burn_in)


def _observe(
    state: FitState, problem: Problem, plan: FitPlan, output: Tensor, prediction: Tensor, loss: Tensor
) -> None:
    """Average, residual, stop statistics and the loss curve."""
    state.output.copy_(output)
    if plan.average is not None:
        state.average.lerp_(output, newest_weight(plan.average, state.averaged))
        state.averaged.add_(1)
    state.residual.copy_(mean_square(prediction, problem.target))
    picture = state.output if plan.average is None else state.average
    if state.posterior is not None:
        state.posterior.update(state.step, output, state.parameters.values)
        picture = state.posterior.mean
    state.stop.update(state.step, output, picture, loss)
    for curve, value in ((state.losses, loss), (state.stop_values, state.stop.value)):
        curve.index_copy_(0, state.step.view(1), value.view(1))
    state.step.add_(1)
