"""Many renders of one generator, measured: along the fit, of other seeds and samples, with jitter of the latent, in
other precisions, backends and sizes, with a share of the change applied, blended with the input.

A variant is measured against the fit (the picture that the run kept, or the render in float32 of a lone generator),
and against a reference where there is one. Sizes are rendered by the network itself, with the statistics of the
resized latent's own picture, and measured when brought back to the fit's size.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError
from torch import Tensor
from torch.nn import functional as F

from dipfast import generators
from dipfast.errors import ItemError, UsageError
from dipfast.export.targets import Target, inside
from dipfast.image import cut, read
from dipfast.manifest import yaml
from dipfast.manifest.wording import explain
from dipfast.metrics import psnr, ssim
from dipfast.record import Record
from dipfast.remote import holds
from dipfast.render.generator import FittedGenerator, as_fitted, kept, load, renderer
from dipfast.render.origin import origin, settings_of
from dipfast.restoration.line import observe, pose
from dipfast.samples import locate
from dipfast.settings.files import Strength
from dipfast.settings.generator import FourierInput, ImageInput, MeshgridInput, NoiseInput
from dipfast.settings.section import Section
from dipfast.settings.task import SuperRes
from dipfast.store.folder import RunFolder

Share = Annotated[float, Field(gt=0, lt=1)]


class Spec(Section):
    """What `variants.yaml` may say; every list may be empty. `dipfast schema --variants` prints it as JSON Schema."""

    version: Literal[1] = Field(default=1, description="of this format")
    checkpoints: bool = Field(default=True, description="what the fit kept along its way (fit.checkpoints)")
    samples: bool = Field(default=True, description="what it kept of its posterior's samples (fit.posterior.keep)")
    seeds: bool = Field(default=True, description="what it kept of its other seeds (fit.keep_seeds)")
    jitter: tuple[Annotated[float, Field(gt=0, le=10)], ...] = Field(
        strict=False,
        default=(0.02, 0.05, 0.1),
        description="deviations of what the latent gains; each is the mean of some renders",
    )
    renders: Annotated[int, Field(ge=2, le=1000)] = Field(default=8, description="renders of each strength of jitter")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(default=0, description="of the jitter")
    precisions: tuple[Literal["fp32", "bf16"], ...] = Field(
        strict=False, default=("fp32", "bf16"), description="on torch"
    )
    backends: tuple[Literal["onnxruntime", "tensorrt"], ...] = Field(
        strict=False, default=("onnxruntime",), description="each in fp32 and fp16"
    )
    sizes: tuple[Annotated[float, Field(ge=0.1, le=8)], ...] = Field(
        strict=False, default=(), description="factors on the sides; not for latents of noise"
    )
    strength: tuple[Strength, ...] = Field(
        strict=False, default=(), description="shares of the change that are applied, as by dipfast render --strength"
    )
    blend: tuple[Share, ...] = Field(
        strict=False, default=(0.25, 0.5), description="shares of the damaged input; only for generators of a run"
    )


@dataclass(frozen=True)
class Variant:
    """One picture [C, H, W] in [0, 1] and what was measured. ``deviation``: mean over pixels of K renders' own."""

    name: str
    pixels: np.ndarray
    ms: float | None
    psnr: float | None  # to the fit; None where equal
    ssim: float | None
    psnr_reference: float | None
    ssim_reference: float | None
    sharpness: float  # mean |Laplacian|, in 8-bit units
    deviation: float | None = None

    def as_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "pixels"} | {
            "height": self.pixels.shape[1],
            "width": self.pixels.shape[2],
        }


@dataclass(frozen=True)
class Subject:
    """A generator with the picture that it was fitted for, what it was before, and the truth where it is known."""

    target: Target
    id: str
    name: str  # of the picture in its run, or the generator's file
    generator: FittedGenerator
    fit: np.ndarray  # [C, H, W]
    before: np.ndarray | None
    reference: np.ndarray | None
    further: Mapping[str, Mapping[str, Path]]  # what a run kept beside it: kind → name → file


def read_spec(path: Path | None) -> Spec:
    """The spec in a file, or the default one. Raises UsageError with place and rule."""
    if path is None:
        return Spec()
    try:
        tree = yaml.load(path.read_bytes())
    except OSError as error:
        raise UsageError(f"--spec {path}: cannot be read ({error.strerror or error})") from None
    if tree.flaws:
        flaw = tree.flaws[0]
        raise UsageError(f"{path}:{flaw.mark.line}:{flaw.mark.column}: {flaw.text}")
    try:
        return Spec.model_validate({} if tree.data is None else tree.data)
    except ValidationError as error:
        raise UsageError("\n".join(f"{path}: {finding.text}" for finding in explain(error, Spec))) from None


def subject(target: Target, reference: Path | None = None) -> Subject:
    """What `variants_of` works on. Raises UsageError for a reference that cannot be read or has another size."""
    generator = load(target.generator)
    if target.run is None or target.record is None:
        fit, before, clean = kept(generator.output("fp32"), generator.card.size), None, None
        name, further = target.generator.name, {}
    else:
        further = _further(target.run, target.record)
        name = target.record["output"]["paths"][0]
        fit = as_fitted(read(target.run.images / name).pixels, generator.card.channels)
        before, clean = _seen(target)
    if reference is not None:
        path = reference / name if reference.is_dir() else reference
        try:
            clean = read(path).pixels
        except ItemError as error:
            raise UsageError(f"--reference {error}") from None
        if clean.shape != fit.shape:
            raise UsageError(f"--reference {path}: should be {list(fit.shape)}, is {list(clean.shape)}")
    return Subject(target, generator.card.id or target.generator.stem, name, generator, fit, before, clean, further)


def _further(run: RunFolder, record: Record) -> dict[str, dict[str, Path]]:
    """The generators that the run kept of this item beside the one, by kind, under the names of their variants."""
    names: dict[str, Callable[[int, Mapping[str, Any]], str]] = {
        "checkpoints": lambda _, part: f"step {part.get('step')} of {record.get('steps')}",
        "samples": lambda number, _: f"sample {number}",
        "seeds": lambda _, part: f"seed {part.get('number')}",
    }
    parts = {kind: record["generator"].get(kind, ()) for kind in names}
    return {
        kind: {name(n, part): inside(run, part["path"]) for n, part in enumerate(parts[kind], 1)}
        for kind, name in names.items()
    }


def _seen(target: Target) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What the fit saw, at the size of its picture, and the truth where a `degrade` section had it."""
    assert target.record is not None
    settings, given = settings_of(target.record), target.record["input"]
    path = locate(given["path"])
    if not holds(path, given["sha256"]):
        return None, None
    mask = given.get("mask")
    observation = observe(settings, read(path), None if mask is None else read(mask), None)
    scale = settings.task.scale if isinstance(settings.task, SuperRes) else 1
    size = tuple(side * scale for side in observation.observed.shape[1:])
    problem = pose(settings, observation)
    return cut(problem.range.to_full(problem.guide)[0].numpy(), *size), observation.clean


def variants_of(one: Subject, spec: Spec) -> Iterator[Variant]:
    """Render and measure every variant of ``spec``, the fit itself first.

    Raises MachineError for a backend that is not here, UsageError for sizes of a latent that has no other, and what
    `origin` and its `finish` raise for strengths that cannot be applied.
    """
    latent = one.generator.card.generator.input
    if spec.sizes and (isinstance(latent, NoiseInput) or (isinstance(latent, ImageInput) and latent.noise)):
        raise UsageError(f"sizes: {one.id} has a latent of noise, which shows another picture at another size")
    in_part = _at_strengths(one, spec.strength)
    yield _measured(one, "fit", one.fit, None)
    for kind in ("checkpoints", "samples", "seeds"):
        if getattr(spec, kind):
            for name, path in one.further.get(kind, {}).items():
                yield _other(one, name, path)
    for precision in spec.precisions:
        yield _backend(one, "torch", precision)
    for backend in spec.backends:
        yield _backend(one, backend, "fp32")
        yield _backend(one, backend, "fp16")
    for strength in spec.jitter:
        yield _jittered(one, strength, spec.renders, spec.seed)
    for factor in spec.sizes:
        yield _resized(one, factor)
    yield from in_part
    if one.before is not None:
        for share in spec.blend:
            mixed = share * one.before + (1 - share) * one.fit
            yield _measured(one, f"blend {share:g} of the input", mixed.astype(np.float32), None)


def _at_strengths(one: Subject, strengths: Sequence[float]) -> list[Variant]:
    """The picture with each share of the change applied, known pixels put back. Raises as `origin` does."""
    if not strengths:
        return []
    came = origin(one.target, one.generator)
    picture = one.generator.picture(one.generator.output("fp32"))
    return [_measured(one, f"strength {share:g}", came.finish(picture, share), None) for share in strengths]


def _other(one: Subject, name: str, path: Path) -> Variant:
    """The picture of other weights. Raises UsageError for a file that is no generator."""
    other = load(path)
    picture, ms = _clocked(lambda: other.output("fp32"))
    return _measured(one, name, kept(picture, other.card.size), ms)


def _backend(one: Subject, backend: str, precision: str) -> Variant:
    run = renderer(backend, precision, "cpu").prepare(one.generator)
    picture, ms = _clocked(run)
    return _measured(one, f"{backend} {precision}", kept(picture, one.generator.card.size), ms)


def _jittered(one: Subject, strength: float, renders: int, seed: int) -> Variant:
    """The mean of ``renders`` pictures, each with white noise on the latent, as the fit has it in its steps."""
    rng = torch.Generator().manual_seed(seed)
    latent = one.generator.latent
    pictures, times = [], []
    for _ in range(renders):
        noisy = latent + strength * torch.randn(latent.shape, generator=rng)
        picture, ms = _clocked(partial(one.generator.output, "fp32", noisy))
        pictures.append(kept(picture, one.generator.card.size))
        times.append(ms)
    stack = np.stack(pictures)
    deviation = float(stack.std(0).mean())
    name = f"jitter {strength:g}, mean of {renders}"
    return _measured(one, name, stack.mean(0), float(np.median(times)), deviation)


def _resized(one: Subject, factor: float) -> Variant:
    """The network at another size: as near to ``factor`` as its scales allow."""
    card = one.generator.card
    step, least = generators.multiple(card.generator), generators.smallest_side(card.generator)
    sides = [max(least, round(side * factor / step) * step) for side in card.padded]
    latent = resized_latent(one.generator, sides[0], sides[1])
    picture, ms = _clocked(lambda: one.generator.output("fp32", latent))
    size = tuple(max(1, round(side * new / old)) for side, new, old in zip(card.size, sides, card.padded, strict=True))
    return _measured(one, f"size {size[1]}×{size[0]}", kept(picture, size), ms)  # type: ignore[arg-type]


def resized_latent(generator: FittedGenerator, height: int, width: int) -> Tensor:
    """The latent [1, D, height, width]: coordinates are made anew, an image is interpolated."""
    if isinstance(generator.card.generator.input, MeshgridInput | FourierInput):
        return generators.latent_of(replace(generator.card, padded=(height, width)), torch.empty(0))
    return F.interpolate(generator.latent, (height, width), mode="bilinear", antialias=True)


def _clocked(run: Callable[[], np.ndarray]) -> tuple[np.ndarray, float]:
    start = time.perf_counter()
    picture = run()
    return picture, 1e3 * (time.perf_counter() - start)


def _measured(one: Subject, name: str, pixels: np.ndarray, ms: float | None, deviation: float | None = None) -> Variant:
    if not np.isfinite(pixels).all():  # as fp16 may give: a row that says so, and not the end of all rows
        name, pixels = f"{name}, not finite", np.nan_to_num(pixels)
    same = _sized(pixels, one.fit.shape[1:])
    reference = one.reference
    return Variant(
        name,
        pixels,
        None if ms is None else round(ms, 3),
        _rounded(psnr(same, one.fit)),
        _rounded(ssim(same, one.fit)),
        None if reference is None else _rounded(psnr(same, reference)),
        None if reference is None else _rounded(ssim(same, reference)),
        round(sharpness(pixels), 3),
        None if deviation is None else round(255 * deviation, 4),
    )


def _sized(pixels: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if pixels.shape[1:] == size:
        return pixels
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))[None]
    return F.interpolate(tensor, size, mode="bicubic", antialias=True)[0].clamp(0, 1).numpy()


def sharpness(pixels: np.ndarray) -> float:
    """Mean |Laplacian| over pixels and channels of [C, H, W] in [0, 1], in 8-bit units; 0 for fewer than 3 rows."""
    if min(pixels.shape[1:]) < 3:
        return 0.0
    middle = pixels[:, 1:-1, 1:-1]
    around = pixels[:, :-2, 1:-1] + pixels[:, 2:, 1:-1] + pixels[:, 1:-1, :-2] + pixels[:, 1:-1, 2:]
    return float(255 * np.abs(4 * middle - around).mean())


def _rounded(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(value, 4)
