"""The manifest's vocabulary: every section, key, type and limit, as frozen pydantic models.

This file is what `dipfast schema` prints and what an error quotes. It holds no values tuned for quality:
those are in `dipfast/presets.py`. Sigma is in 8-bit units (0 to 255) wherever it appears; everything else
that speaks of pixels is in [0, 1].
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

Kernel = Literal["lanczos2", "lanczos3", "bicubic"]
Preset = Literal["fast", "balanced", "best", "paper"]
Engine = Literal["auto", "eager", "compile", "cudagraph"]
Precision = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
Shapes = Literal["auto", "exact", "grid"]
Format = Literal["png", "jpeg", "tiff", "webp", "avif", "heif", "jxl"]

VERSION = 1
LATER_TASKS = ("flash", "invert", "maximize")  # words of the manifest that this version does not do
EXTENSIONS = {
    "png": ("png",),
    "jpeg": ("jpg", "jpeg"),
    "tiff": ("tif", "tiff"),
    "webp": ("webp",),
    "avif": ("avif",),
    "heif": ("heic", "heif"),
    "jxl": ("jxl",),
}
READ_ONLY = ("heif", "jxl")
SUFFIXES = tuple(f".{ext}" for several in EXTENSIONS.values() for ext in several)
WRITTEN = tuple(f".{ext}" for name, several in EXTENSIONS.items() if name not in READ_ONLY for ext in several)
PLACEHOLDERS = ("relpath", "name", "stem", "ext", "task", "preset", "seed")
MAX_SIDE_CHANNELS = 4096
BURN_IN = 0.35  # of the steps of a chain, as in the second paper: 7000 of 20000


def _count(value: object) -> object:
    """``64M`` → 64000000. Numbers pass as they are."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kMG]?)", value.strip())
        if match is None:
            raise ValueError("should be a whole number, or one with k, M or G behind it, like 64M")
        return int(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]])
    return value


def check_template(value: str) -> str:
    """``value`` if its {placeholders} are known, else ValueError. {{ and }} stand for braces, as in Python."""
    for token in re.finditer(r"{{|}}|{([^{}]*)}|[{}]", value):
        if token[0] in "{}":
            raise ValueError("has a brace without its partner ({{ and }} stand for braces)")
        if token[1] is not None and token[1] not in PLACEHOLDERS:
            raise ValueError(f"has no placeholder {token[0]}; there are {', '.join(PLACEHOLDERS)}")
    if "\0" in value:
        raise ValueError("should hold no NUL character")
    return value


def _device(value: str) -> str:
    if re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?", value) is None:
        raise ValueError("should be auto, cpu, cuda or cuda:N")
    return value


Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=int | str), Field(gt=0)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Template = Annotated[Text, AfterValidator(check_template)]
Sigma = Annotated[float, Field(gt=0, le=255)]
Width = Annotated[int, Field(gt=0, le=MAX_SIDE_CHANNELS)]
KernelSize = Annotated[int, Field(gt=0, le=31)]


class Section(BaseModel):
    """Strict: no unknown key, no silent conversion, no NaN, no change after the fact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def sections(field: FieldInfo) -> dict[str, type[Section]]:
    """The sections that ``field`` may hold, by their ``type``; empty where it holds a plain value."""
    return {_tag(model): model for model in _models(field.annotation)}


def _models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def _type_of(section: object) -> object:
    return section.get("type") if isinstance(section, dict) else getattr(section, "type", None)


def _tag(model: type[Section]) -> str:
    kind = model.model_fields.get("type")
    return str(get_args(kind.annotation)[0]) if kind else ""


# ---- tasks -------------------------------------------------------------------------------------------------


class GaussianNoise(Section):
    """White noise of one standard deviation."""

    type: Literal["gaussian"] = "gaussian"
    sigma: Sigma | Literal["auto"] = Field(
        default="auto", description="standard deviation in 8-bit units; auto: estimated"
    )
    clipped: bool = Field(
        default=True,
        description="the noise was cut off at black and white, as any file of 8 bits has it, and the fit reckons with "
        "it; false: fitted as it is, as the papers do",
    )


class PoissonNoise(Section):
    """Photon noise."""

    type: Literal["poisson"]
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class SaltPepperNoise(Section):
    """Pixels thrown to black or white."""

    type: Literal["salt-pepper"]


Noise = Annotated[GaussianNoise | PoissonNoise | SaltPepperNoise, Field(discriminator="type")]


class Denoise(Section):
    """Remove noise: A is the identity."""

    type: Literal["denoise"] = "denoise"
    noise: Noise = Field(default=GaussianNoise(), description="what the noise is like")


class Jpeg(Section):
    """Remove the blocks and rings of JPEG compression."""

    type: Literal["jpeg"]


class Inpaint(Section):
    """Fill what the mask leaves out: A multiplies by the mask."""

    type: Literal["inpaint"]
    mask: Template | None = Field(
        default=None, description="mask image of the input's size; {stem} and the like are filled in"
    )
    known: Literal["auto", "white", "black"] = Field(
        default="auto",
        description="which colour of the mask marks known pixels; auto: white, refused where that looks upside down",
    )
    keep_known: bool = Field(default=True, description="return the known pixels exactly as they were")


class SuperRes(Section):
    """Enlarge: A filters and keeps each scale-th pixel."""

    type: Literal["superres"]
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times larger each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter that made the small image")


Task = Annotated[Denoise | Jpeg | Inpaint | SuperRes, Field(discriminator="type")]


# ---- generator ---------------------------------------------------------------------------------------------


class NoiseInput(Section):
    """Random numbers, drawn once from the seed."""

    type: Literal["noise"] = "noise"
    depth: Width = Field(default=32, description="channels of the latent")
    distribution: Literal["uniform", "normal"] = Field(default="uniform", description="what is drawn, before scale")
    scale: Annotated[float, Field(gt=0)] = Field(default=0.1, description="factor on what is drawn")


class MeshgridInput(Section):
    """The pixel coordinates, two channels."""

    type: Literal["meshgrid"]


class ImageInput(Section):
    """The degraded image itself."""

    type: Literal["image"]
    blind: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="task denoise: share of the values that is hidden from the network, another at each step, and on "
        "which alone it is judged; for noise that is independent from pixel to pixel; null: it sees and fits all",
    )


class FourierInput(Section):
    """Sines and cosines of the pixel coordinates."""

    type: Literal["fourier"]
    frequencies: Annotated[int, Field(gt=0, le=64)] = Field(default=8, description="octaves for each axis")


Latent = Annotated[NoiseInput | MeshgridInput | ImageInput | FourierInput, Field(discriminator="type")]
Upsample = Literal["nearest", "bilinear"]


class SkipGenerator(Section):
    """The hourglass with skip connections of Ulyanov et al. (CVPR 2018). Lists start at the finest scale."""

    type: Literal["skip"] = "skip"
    channels: Annotated[tuple[Width, ...], Field(strict=False, min_length=1, max_length=8)] = Field(
        default=(128,) * 5,
        description="channels of each scale on the way down; their number is the number of scales",
    )
    up_channels: Annotated[tuple[Width, ...], Field(strict=False)] | None = Field(
        default=None, description="channels of each scale on the way up; null: as on the way down"
    )
    skip_channels: Annotated[int, Field(ge=0)] | Annotated[tuple[int, ...], Field(strict=False)] = Field(
        default=4, description="channels of the skip connections; 0: none"
    )
    kernel_down: KernelSize | Annotated[tuple[KernelSize, ...], Field(strict=False)] = Field(
        default=3, description="kernel size on the way down, odd"
    )
    kernel_up: KernelSize | Annotated[tuple[KernelSize, ...], Field(strict=False)] = Field(
        default=3, description="kernel size on the way up, odd"
    )
    kernel_skip: KernelSize = Field(default=1, description="kernel size of the skip connections, odd")
    upsample: Upsample | Annotated[tuple[Upsample, ...], Field(strict=False)] = Field(
        default="bilinear", description="how a coarse scale becomes a finer one"
    )
    downsample: Literal["stride", "avg", "max", "lanczos2"] = Field(
        default="stride", description="how a fine scale becomes a coarser one"
    )
    pad: Literal["reflection", "replication", "zero"] = Field(
        default="reflection", description="padding of convolutions"
    )
    activation: Literal["leaky_relu", "relu", "elu", "swish", "none"] = Field(
        default="leaky_relu", description="non-linearity behind each normalisation"
    )
    pointwise_up: bool = Field(default=True, description="a 1x1 convolution behind each scale's upward convolution")
    bias: bool = Field(default=False, description="biases before normalisations too; their gradient is zero")
    sigmoid: bool = Field(default=True, description="end in a sigmoid, so that the image stays in [0, 1]")
    input: Latent = Field(default=NoiseInput(), description="the latent: the network's fixed input")

    @field_validator("kernel_down", "kernel_up", "kernel_skip")
    @classmethod
    def _odd(cls, value: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if any(size % 2 == 0 for size in (value if isinstance(value, tuple) else (value,))):
            raise ValueError("should be odd: an even kernel has no centre")
        return value

    @model_validator(mode="after")
    def _same_length(self) -> SkipGenerator:
        for name in ("up_channels", "skip_channels", "kernel_down", "kernel_up", "upsample"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != len(self.channels):
                raise ValueError(f"{name} has {len(value)} entries where channels has {len(self.channels)} scales")
        skips = self.skip_channels if isinstance(self.skip_channels, tuple) else (self.skip_channels,)
        if not all(0 <= width <= MAX_SIDE_CHANNELS for width in skips):
            raise ValueError(f"skip_channels should be between 0 and {MAX_SIDE_CHANNELS}")
        return self


Generator = SkipGenerator


# ---- fit ---------------------------------------------------------------------------------------------------


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

    type: Literal["muon"]
    lr: Annotated[float, Field(gt=0)] = Field(default=1e-2, description="learning rate")
    momentum: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.9, description="decay of the moving gradient")
    newton_schulz_steps: Annotated[int, Field(ge=1, le=10)] = Field(default=3, description="orthogonalisation steps")


class Sgld(Section):
    """Langevin dynamics: the weights wander over the posterior instead of settling. Needs `posterior`."""

    type: Literal["sgld"]
    rule: Literal["paper", "preconditioned"] = Field(
        default="paper",
        description="paper: Adam, and noise on the convolutions behind each step (Cheng et al., CVPR 2019); "
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


class AutoStop(Section):
    """What suits the task: `discrepancy` where its noise is known, `blocks` for jpeg, else `fixed`. The record says."""

    type: Literal["auto"] = "auto"


class FixedStop(Section):
    """All the steps, and no choice among the iterates. For every task."""

    type: Literal["fixed"]


Patience = Annotated[float, Field(gt=0)]
MinSteps = Annotated[int, Field(ge=0)]


class ValleyStop(Section):
    """What the criteria that wait for a minimum share."""

    patience: Patience = Field(
        default=0.5, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    min_steps: MinSteps = Field(default=10, description="steps before the first minimum")


class EmaVarianceStop(ValleyStop):
    """ES-EMV (Wang et al., TMLR 2023): stop when the outputs' moving variance has not fallen for a while.

    For every task.
    """

    type: Literal["ema-variance"]
    patience: Patience = Field(
        default=0.2, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] | Literal["auto"] = Field(
        default="auto", description="weight of the newest output; auto: falls as the fit goes on"
    )


class WindowedVarianceStop(ValleyStop):
    """ES-WMV (Wang et al., TMLR 2023): likewise, with the variance over a window of the last outputs.

    For every task.
    """

    type: Literal["windowed-variance"]
    share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.6, description="length of the window as a share of the steps so far"
    )


class HeldOutStop(ValleyStop):
    """Keep some observed pixels from the fit and stop when the error there rises. For every task but jpeg."""

    type: Literal["held-out"]
    patience: Patience = Field(
        default=0.1, description="stop when the minimum is this share of its own step behind, and min_steps more"
    )
    share: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.05, description="of the observed pixels")


class SureStop(Section):
    """Fit Stein's unbiased risk estimate (Jo et al., ICCV 2021), and stop when it falls below zero.

    For task denoise with gaussian or poisson noise, generator.input image and one seed.
    """

    type: Literal["sure"]


class DiscrepancyStop(Section):
    """Morozov: stop when the residual has fallen to the noise, mean (A x - y)^2 <= factor * what the noise leaves.

    For task denoise with gaussian or poisson noise.
    """

    type: Literal["discrepancy"]
    factor: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        default="auto", description="the residual over the noise at the stop; auto: 1 - 0.075 / channels (LOG.md)"
    )


class BlocksStop(Section):
    """Stop when the picture begins to show the codec's blocks. For task jpeg."""

    type: Literal["blocks"]
    ratio: Annotated[float, Field(gt=0)] = Field(
        default=1.05, description="jump between neighbours at the blocks' borders over that beside them, at the stop"
    )


def _named(value: object) -> object:
    return {"type": "auto"} if value == "auto" else value


Stop = Annotated[
    AutoStop
    | FixedStop
    | EmaVarianceStop
    | WindowedVarianceStop
    | HeldOutStop
    | SureStop
    | DiscrepancyStop
    | BlocksStop,
    Field(discriminator="type"),
]


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
    uncertainty: bool | None = Field(
        default=None,
        description="write the deviation foretold by the seeds' spread as a 16-bit map; null: with 2 seeds or more",
    )
    engine: Engine = Field(default="auto", description="how a step is run")
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
        """With sgld: `posterior`, and the burn-in that null stands for."""
        if not isinstance(tree, dict) or _type_of(tree.get("optimizer")) != "sgld":
            return tree
        posterior, steps = tree.get("posterior", {}), tree.get("steps", cls.model_fields["steps"].default)
        if isinstance(posterior, dict) and posterior.get("burn_in") is None and isinstance(steps, int):
            posterior = {**posterior, "burn_in": int(BURN_IN * steps)}
        return {**tree, "posterior": posterior}

    @model_validator(mode="after")
    def _spread(self) -> Fit:
        if self.uncertainty and self.seeds < 2:
            raise ValueError(f"uncertainty should be given with 2 seeds or more, seeds is {self.seeds}")
        return self

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


# ---- degradations: a clean image is damaged with a seed, so that a result can be measured ------------------


class Degrade(Section):
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(default=0, description="of the damage")
    crop: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="side of the square cut from the middle first"
    )


class AddGaussian(Degrade):
    """Add white noise."""

    type: Literal["gaussian"]
    sigma: Sigma = Field(description="standard deviation in 8-bit units")


class AddPoisson(Degrade):
    """Draw photons."""

    type: Literal["poisson"]
    peak: Annotated[float, Field(gt=0)] = Field(description="expected photons at full white")


class AddSaltPepper(Degrade):
    """Throw pixels to black or white."""

    type: Literal["salt-pepper"]
    amount: Annotated[float, Field(gt=0, lt=1)] = Field(description="fraction of pixels that are hit")


class CompressJpeg(Degrade):
    """Save as JPEG and open again."""

    type: Literal["jpeg"]
    quality: Annotated[int, Field(ge=1, le=100)] = Field(description="the encoder's quality")


class DropPixels(Degrade):
    """Lose pixels at random."""

    type: Literal["missing"]
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.5, description="fraction of pixels that are lost")


class Scratch(Degrade):
    """Random strokes, thick and thin: the generated stand-in for text and scratches."""

    type: Literal["scratches"]
    fraction: Annotated[float, Field(gt=0, lt=1)] = Field(default=0.15, description="fraction of pixels that are lost")


class Shrink(Degrade):
    """Filter and keep each scale-th pixel."""

    type: Literal["downsample"]
    scale: Annotated[int, Field(ge=2, le=32)] = Field(description="how many times smaller each side becomes")
    kernel: Kernel = Field(default="lanczos2", description="the filter")


Degradation = Annotated[
    AddGaussian | AddPoisson | AddSaltPepper | CompressJpeg | DropPixels | Scratch | Shrink,
    Field(discriminator="type"),
]


# ---- files -------------------------------------------------------------------------------------------------


class Input(Section):
    """What may be opened. A file beyond a limit fails alone."""

    max_pixels: Count = Field(default=64_000_000, description="width times height; 64M is 64 million")
    max_bytes: Count = Field(default=1_000_000_000, description="of the file")
    max_aspect: Annotated[float, Field(ge=1)] = Field(default=1000.0, description="longer side over shorter side")
    formats: Annotated[tuple[Format, ...], Field(strict=False, min_length=1)] = Field(
        default=("png", "jpeg", "tiff", "webp", "avif", "heif", "jxl"),
        description="formats that are opened and that a folder lists",
    )


class Output(Section):
    """What is written. The file's ending is its format."""

    template: Template = Field(
        default="{relpath}/{name}.png",
        description="file in the run's images folder; {{ and }} stand for braces",
    )
    bit_depth: Literal["source", 8, 16] = Field(default="source", description="bits for each channel")

    @field_validator("template")
    @classmethod
    def _writable(cls, value: str) -> str:
        if not value.lower().endswith((*WRITTEN, ".{ext}")):
            raise ValueError("should end in .png, .jpg, .tif, .webp, .avif or .{ext}")
        if value.startswith(("/", "~")) or "\\" in value or re.match(r"[A-Za-z]:", value):
            raise ValueError("should be a path inside the run's images folder, with / between its parts")
        if ".." in value.split("/"):
            raise ValueError("should stay in the run's images folder: '..' leaves it")
        if re.search(r"[\x00-\x1f\x7f]", value):
            raise ValueError("should hold no control character")
        for part in value.split("/"):
            if re.match(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", part):
                raise ValueError(f"should not use {part!r}: Windows reserves that name")
        return value


class Settings(Section):
    """All that holds for one item, every default filled in."""

    task: Task = Field(default=Denoise(), description="the inverse problem")
    preset: Preset = Field(default="balanced", description="where generator and fit start from")
    fit: Fit = Field(default=Fit(), description="the optimisation")
    generator: Generator = Field(default=SkipGenerator(), description="the network whose weights are fitted")
    input: Input = Field(default=Input(), description="limits on what is opened")
    output: Output = Field(default=Output(), description="names and depth of what is written")
    degrade: Degradation | None = Field(
        default=None, description="damage a clean image first, to measure the result; null: do not"
    )
    reference: Template | None = Field(
        default=None, description="the true image, only for metrics; {stem} and the like are filled in"
    )


class Entry(Settings):
    """One entry of ``items``: an image, a folder or a glob, and what differs from ``defaults``."""

    path: Text = Field(
        description="image, folder or glob (the folders of runs are left out), from root; sample:NAME; file:///…; s3://…"
    )
    relpath: str | None = Field(
        default=None, description="what {relpath} stands for; null: the image's folder from root"
    )


class Export(Section):
    """Models written after the run."""

    formats: Annotated[tuple[Literal["onnx", "tensorrt"], ...], Field(strict=False)] = Field(
        default=(), description="none, onnx, tensorrt or both"
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="of the exported model")
    min_psnr: Annotated[float, Field(gt=0)] = Field(default=50.0, description="gate: model against PyTorch, in dB")


class Report(Section):
    """Pages written after the run."""

    html: bool = Field(default=True, description="write report.html")


class Products(Section):
    """The part of a document that says what is made of a finished run."""

    export: Export = Field(default=Export(), description="models written after the run")
    report: Report = Field(default=Report(), description="pages written after the run")


class Document(Section):
    """A dipfast manifest: the images to restore, with their tasks and settings."""

    version: Literal[1] = Field(description="of the manifest's vocabulary")
    root: Text | None = Field(
        default=None, description="folder or address where relative paths start; null: the manifest's own"
    )
    output: Text | None = Field(default=None, description="the run's folder, or an address like s3://…; -o wins")
    defaults: Settings = Field(default=Settings(), description="settings of every item that says nothing else")
    items: Annotated[tuple[Entry | Text, ...], Field(strict=False, min_length=1)] = Field(description="what to restore")
    export: Export = Field(default=Export(), description="models written after the run")
    report: Report = Field(default=Report(), description="pages written after the run")
