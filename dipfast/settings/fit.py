"""`fit`: the optimisation, its stop, its averages and its device."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    field_validator,
    model_validator,
)

from dipfast.settings.choices import Precision
from dipfast.settings.section import Count, Section, Sigma, type_of
from dipfast.settings.stop import AutoStop, Stop

Engine = Literal["auto", "eager", "compile", "cudagraph"]
Kernels = Literal["auto", "plain", "triton"]
Shapes = Literal["auto", "exact", "grid"]
Store = Literal["all", "one"]

BURN_IN = 0.35  # of the steps of a chain, as in the second paper: 7000 of 20000


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value) is None:
        raise ValueError("should be auto, cpu, cuda or cuda:N")
    return value


class Adam(Section):
    """Kingma and Ba, with L2 weight decay added to the gradient as the papers' code does."""

    type: Literal["adam"] = "adam"
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-2, description="learning rate")
    betas: Annotated[tuple[float, float], Field(strict=False)] = Field(
        default=(0.9, 0.999), description="decay of the two moments"
    )
    eps: Annotated[float, Field(gt=0)] = Field(default=1e-8, description="added to the second moment's root")
    weight_decay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="factor on the weights' squared norm")

    @field_validator("betas")
    @classmethod
    def _below_one(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not all(0 <= beta < 1 for beta in value):
            raise ValueError("should both be at least 0 and below 1")
        return value


class Muon(Section):
    """Momentum orthogonalised by Newton-Schulz steps for large convolutions (Jordan 2024); else Adam."""

    type: Literal["muon"] = "muon"
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-2, description="learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="decay of the moving gradient")
    newton_schulz_steps: Annotated[int, Field(ge=1, le=10)] = Field(default=3, description="orthogonalisation steps")


class Sgld(Section):
    """Langevin dynamics: the weights wander over the posterior instead of settling. Needs `posterior`."""

    type: Literal["sgld"] = "sgld"
    rule: Literal["paper", "preconditioned"] = Field(
        default="paper",
        description="paper: Adam, and noise on the convolutions after each step (Cheng et al., CVPR 2019); "
        "preconditioned: noise of the right scale (pSGLD, Li et al., AAAI 2016)",
    )
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-2, description="learning rate; preconditioned: the first one")
    noise: Annotated[float, Field(ge=0)] = Field(default=2.0, description="paper: the noise's deviation over lr")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=5e-8, description="paper: factor on the weights' squared norm"
    )
    sigma: Sigma | Literal["auto"] = Field(
        default="auto", description="preconditioned: the observation's noise in 8-bit units; auto: the task's"
    )
    prior_std: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="preconditioned: deviation of the weights' normal prior"
    )
    decay: Annotated[float, Field(ge=0, le=1)] = Field(
        default=1 / 3, description="preconditioned: the rate falls as lr / (1 + steps / decay_steps) ** decay"
    )
    decay_steps: Annotated[int, Field(gt=0)] = Field(
        default=1000, description="preconditioned: steps until the rate has begun to fall"
    )

    @model_validator(mode="after")
    def _one_rule(self) -> Sgld:
        others = ("sigma", "prior_std", "decay", "decay_steps") if self.rule == "paper" else ("noise", "weight_decay")
        for name in others:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} does not belong to rule {self.rule}")
        return self


Optimizer = Annotated[Adam | Muon | Sgld, Field(discriminator="type")]


class Posterior(Section):
    """What becomes of the samples that sgld draws: the answer is their mean."""

    burn_in: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="steps before the first sample; null: 35 % of the steps"
    )
    every: Annotated[int, Field(gt=0)] = Field(default=50, description="steps from one sample to the next")
    uncertainty: bool = Field(default=True, description="write the samples' deviation as a 16-bit map")
    keep: Annotated[int, Field(ge=0, le=64)] = Field(
        default=0, description="samples whose weights are kept as generators, evenly spread"
    )


def _named(value: object) -> object:
    return {"type": "auto"} if value == "auto" else value


class Memory(Section):
    """What a fit may take of its device, and what may be done where that is too little."""

    limit: Count | None = Field(default=None, description="bytes at most, like 8G; null: what the device has free")
    recompute: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="activations again in the backward: the same bits, less memory, slower; auto: where it is needed",
    )
    lower_precision: bool = Field(
        default=False, description="fit in bf16 instead of fp32 or tf32 where nothing else fits, rather than fail"
    )


class Windows(Section):
    """The parts of the picture that the fit sees: as many as cover it, or one from each cell of a grid over it.

    The fit of a large picture then takes no longer than that of a small one. It ends in a network with frozen
    statistics, which is applied to the whole picture. At smaller sizes there are half as many.
    """

    count: Annotated[int, Field(ge=1, le=1024)] = Field(default=16, description="windows at the most")
    side: Annotated[int, Field(ge=16, le=1024)] = Field(
        default=64, description="pixels a side, a multiple of two to the number of scales"
    )
    optional: bool = Field(
        default=False,
        description="true: the whole picture where network, optimizer or stop cannot do with windows, and side rounded "
        "up; false: such settings are refused",
    )


class Fit(Section):
    """One optimisation of one generator."""

    steps: Annotated[int, Field(ge=0, le=10_000_000)] = Field(default=3000, description="steps at most")
    optimizer: Optimizer = Field(default=Adam(), description="how the weights move")
    posterior: Posterior | None = Field(
        default=None, description="samples of the fit; with sgld filled in where it is left out, else null"
    )
    reg_noise_std: Annotated[float, Field(ge=0)] = Field(default=1 / 30, description="input jitter, drawn at each step")
    average: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] | None = Field(
        default=0.99,
        description="EMA of the outputs: its constant; auto: over a quarter of the steps so far; null: none",
    )
    stop: Annotated[Stop, BeforeValidator(_named, json_schema_input_type=Stop | Literal["auto"])] = Field(
        default=AutoStop(), description="when to stop before the last step"
    )
    coarse: Annotated[int, Field(ge=0, le=1_000_000)] | Literal["auto"] = Field(
        default="auto",
        description="steps at each smaller size that the picture is fitted at first: half, and half of that, while "
        "sides have 64 pixels; for a network with blind spots; auto: 40 with windows; a tenth of steps where "
        "generator.input.recorrupt is at work; else, and with engine compile, 0",
    )
    windows: Windows | None = Field(
        default=None,
        description="what the fit sees of a large picture, for a network with blind spots; null: the whole picture",
    )
    rollback_db: Annotated[float, Field(gt=0)] | None = Field(
        default=5.0,
        description="a drop of the fit's own PSNR by this restores the last good state; null: never",
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="of weights, latent and jitter")
    seeds: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="generators fitted side by side, from seed on; the answer is the mean of their pictures"
    )
    checkpoints: Annotated[int, Field(ge=1, le=64)] | None = Field(
        default=None,
        description="sets of weights kept along the fit as generators, evenly in the logarithm of the step; null: none",
    )
    keep_seeds: bool | None = Field(
        default=None, description="true: the generators of all seeds are kept, not of the first alone"
    )
    store: Store = Field(
        default="all",
        description="what the stored generator of several seeds is made of: all, their trunks under one head; one, a "
        "single network, of a K-th of the size and time and some 0.1 dB lower",
    )
    uncertainty: bool | None = Field(
        default=None,
        description="write the deviation foretold by the refinement, or by the seeds' spread, as a 16-bit map; null: "
        "where there is a refinement, and with 2 seeds or more",
    )
    engine: Engine = Field(default="auto", description="how a step is run")
    kernels: Kernels = Field(
        default="auto",
        description="of normalisation, activation and padding, and of Muon's products: plain, PyTorch's; triton, fused "
        "ones of our own, on CUDA; auto: plain",
    )
    precision: Precision = Field(default="auto", description="of convolutions and activations")
    shapes: Shapes = Field(
        default="auto",
        description="what pictures are padded to: exact, the least that the network takes; grid, a coarser grid, for "
        "fewer programs; auto: grid where the engine is compile or cudagraph",
    )
    memory: Memory = Field(default=Memory(), description="what may be done where a fit is too large for its device")
    device: Annotated[str, AfterValidator(_device)] = Field(default="auto", description="auto, cpu, cuda or cuda:N")

    @model_validator(mode="before")
    @classmethod
    def _with_samples(cls, tree: Any) -> Any:
        """Fill in, with sgld, `posterior` and the burn-in that null stands for."""
        if not isinstance(tree, dict) or type_of(tree.get("optimizer")) != "sgld":
            return tree
        posterior, steps = tree.get("posterior", {}), tree.get("steps", cls.model_fields["steps"].default)
        if isinstance(posterior, dict) and posterior.get("burn_in") is None and isinstance(steps, int):
            posterior = {**posterior, "burn_in": int(BURN_IN * steps)}
        return {**tree, "posterior": posterior}

    @model_validator(mode="after")
    def _sampled(self) -> Fit:
        posterior, kind = self.posterior, self.optimizer.type
        if (posterior is None) == (kind == "sgld"):
            raise ValueError(f"posterior should be {'given' if posterior is None else 'null'} with optimizer {kind}")
        if posterior is None:
            return self
        if self.seeds != 1:
            raise ValueError(f"seeds should be 1 with optimizer sgld, which samples one chain, is {self.seeds}")
        if self.stop.type not in ("auto", "fixed"):
            raise ValueError(
                f"stop should be fixed with optimizer sgld, which takes all its steps, is {self.stop.type}"
            )
        samples = max(0, (self.steps - 1) // posterior.every - (posterior.burn_in or 0) // posterior.every)
        if self.steps and samples < max(2, posterior.keep):
            given = f"steps {self.steps}, burn_in {posterior.burn_in} and every {posterior.every} give {samples}"
            raise ValueError(f"posterior should have {max(2, posterior.keep)} samples or more; {given}")
        return self
