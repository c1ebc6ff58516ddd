"""One image through the line: observed, posed, fitted, finished. What a worker and `dipfast.restore` both call."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

import dipfast
from dipfast import generators, tasks
from dipfast.errors import ItemError
from dipfast.fit import (
    NO_HOOKS,
    Course,
    FitPlan,
    FitResult,
    Hooks,
    ProgramCache,
    compilations,
    derive_seed,
    finish,
    fitting,
)
from dipfast.fit.distil import Distilled, as_it_is, distil_steps, distilling, undistilled
from dipfast.image import Image, Source, cut, in_range_of, opacity, pad
from dipfast.metrics import coverage, psnr, ssim, uncertainty_ece
from dipfast.restoration.failure import is_out_of_memory
from dipfast.restoration.memory import MemoryPolicy, TierChoice
from dipfast.restoration.surroundings import outside
from dipfast.restoration.warnings import caveats
from dipfast.settings.shapes import on_grid, padded_side
from dipfast.store.folder import Record, now

Settings = Mapping[str, Any]  # an item's settings, every default filled in, as plain data


@dataclass(frozen=True)
class Observation:
    """What a fit sees, and what it may not see. Images [C, H, W] float32 in [0, 1]."""

    observed: np.ndarray
    known: np.ndarray | None  # [1, H, W] bool, for inpainting
    clean: np.ndarray | None  # the truth, of the size of the picture sought; for metrics after the fit only
    source: Source
    damaged: bool = False  # whether a `degrade` section made `observed`
    visible: np.ndarray | None = None  # [1, H, W] bool, where alpha shows the colours; None: everywhere
    hidden: np.ndarray | None = None  # [C, H, W], the colours under alpha 0, which `observed` has not


@dataclass(frozen=True)
class Restored:
    """A finished picture and how it came about."""

    pixels: np.ndarray  # [C, H, W] float32 in [0, 1]
    last: np.ndarray  # the last raw output, likewise
    before: np.ndarray  # what was known before the fit, at the same size
    source: Source
    fit: FitResult
    distilled: Distilled
    generator: bytes  # safetensors, of the distilled weights
    facts: dict[str, Any]
    memory: dict[str, Any]  # the rung of `batch.memory` that the fit was on
    deviation: np.ndarray | None = None  # [C, H, W] float32, of the full range; where the fit predicts its error
    kept: tuple[bytes, ...] = ()  # generators of the posterior's samples, safetensors
    trail: tuple[tuple[int, bytes], ...] = ()  # steps, and generators with the averaged weights of then
    members: tuple[bytes, ...] = ()  # generators of the other seeds, from the second


def observe(settings: Settings, image: Image, mask: Image | None, reference: Image | None) -> Observation:
    """The item as the fit will see it. Raises ItemError for a mask or reference that does not belong to the image."""
    if settings["degrade"] is not None:
        damaged = tasks.degrade(settings["degrade"], image.pixels)
        source = replace(image.source, alpha=None, size=damaged.clean.shape[1:], tags=())  # it may be cropped
        return Observation(damaged.observed, damaged.known, damaged.clean, source, damaged=True)
    known = None
    if mask is not None:
        known = tasks.known_pixels(mask.pixels, settings["task"]["known"], image.pixels, opacity(mask))
    scale = tasks.scale(settings["task"])
    clean = None if reference is None else _matching(in_range_of(reference, image.source), image.pixels, scale)
    visible = _visible(image.source)
    if visible is None:
        return Observation(image.pixels, known, clean, image.source)
    shown = tasks.filled(torch.from_numpy(image.pixels)[None], torch.from_numpy(visible)[None])[0].numpy()
    return Observation(shown, known, clean, image.source, visible=visible, hidden=image.pixels)


def _visible(source: Source) -> np.ndarray | None:  # [1, H, W] bool
    """Where alpha shows the colours; None where that is everywhere, or nowhere.

    Premultiplied colours are 0 where nothing shows, and fade to that at edges.
    """
    if source.alpha is None or source.alpha_kind == "premultiplied":
        return None
    visible = source.alpha > 0
    return visible[None] if visible.any() and not visible.all() else None


def restore(
    settings: Settings,
    observation: Observation,
    device: str,
    id: str = "",
    hooks: Hooks = NO_HOOKS,
    ladder: MemoryPolicy | None = None,
) -> Restored:
    """Fit a generator to ``observation`` on ``device`` and give the picture, cut back to its size.

    Raises ItemError, MachineError or Cancelled, as `dipfast.fit.fit` does; ItemError `out-of-memory` where no rung of
    `batch.memory` fits.
    """
    start = time.perf_counter()
    problem = pose(settings, observation)
    posed = time.perf_counter() - start
    bench, ladder = hooks.program_cache or ProgramCache(), ladder or MemoryPolicy()
    hooks = replace(hooks, program_cache=bench)
    while True:
        try:
            restored = finish(restoring(settings, observation, problem, device, id, hooks, ladder))
            break
        except Exception as error:
            if not is_out_of_memory(error) or not ladder.descend(settings, problem.shape, fit_plan(settings, device)):
                raise
            bench.release()
    restored.fit.seconds["pose"] = posed
    return restored


def restoring(
    settings: Settings,
    observation: Observation,
    problem: tasks.Problem,
    device: str,
    id: str,
    hooks: Hooks,
    ladder: MemoryPolicy,
) -> Course[Restored]:
    """`restore` of an observation whose ``problem`` is posed, step by step, on the rung that ``ladder`` says."""
    config = settings["generator"]
    plan, memory = ladder.plan(settings, problem.shape, fit_plan(settings, device))
    result = yield from fitting(problem, config, plan, hooks)
    start = time.perf_counter()
    module = undistilled(result, config, plan)
    card = _card(settings, observation, problem, id, result.machine.precision)
    latent = generators.latent_of(_stored(card, module), problem.shown)
    if result.steps:
        steps, dtype = distil_steps(result, plan), result.machine.dtype
        distilled = yield from distilling(module, latent, result.picture, steps, dtype, hooks.cancelled)
    else:
        distilled = as_it_is(module, latent, result.picture)
    result.seconds["distil"] = time.perf_counter() - start
    return _restored(card, observation, problem, result, distilled, memory, keep_seeds=bool(plan.keep_seeds))


def _card(
    settings: Settings, observation: Observation, problem: tasks.Problem, id: str, precision: str
) -> generators.Card:
    """What the item's generators say of themselves."""
    task, seed = settings["task"], settings["fit"]["seed"]
    height, width = (side * tasks.scale(task) for side in observation.observed.shape[1:])
    return generators.Card(
        id=id,
        generator=dict(settings["generator"]),
        task=dict(task),
        seed=seed,
        latent_seed=_latent_seed(seed, 0),
        channels=problem.shape[0],
        padded=problem.shape[1:],
        size=(height, width),
        precision=precision,
    )


def _stored(card: generators.Card, module: generators.SkipNet) -> generators.Card:
    """The card of the generator that is stored; ``card`` is that of the first seed's alone."""
    count = 1 + len(module.others)
    if count == 1:
        return card
    latent = card.generator["input"]
    own = latent["type"] == "noise" or latent.get("noise")
    seeds: int | list[int] = [_latent_seed(card.seed, number) for number in range(count)] if own else card.latent_seed
    return replace(card, generator=card.generator | {"trunks": count}, latent_seed=seeds)


def _latent_seed(seed: int, number: int) -> int:
    """Of the ``number``-th of a fit's seeds, from 0."""
    return derive_seed(seed, f"latent/{number}" if number else "latent")


def _restored(
    card: generators.Card,
    observation: Observation,
    problem: tasks.Problem,
    result: FitResult,
    distilled: Distilled,
    memory: TierChoice,
    *,
    keep_seeds: bool,
) -> Restored:
    """The picture cut back to its size, and every generator as bytes."""
    range = None if problem.range.is_whole else (problem.range.low, problem.range.width)

    def packed(module: nn.Module, card: generators.Card = card) -> bytes:
        return generators.to_bytes(module, problem.shown, card, range)

    pixels = put_back(observation, problem, cut(result.image[0].numpy(), *card.size))
    return Restored(
        pixels=pixels,
        last=cut(result.last[0].numpy(), *card.size),
        before=put_back(observation, problem, cut(problem.range.to_full(problem.guide)[0].numpy(), *card.size)),
        source=observation.source,
        fit=result,
        distilled=distilled,
        generator=packed(distilled.generator, _stored(card, distilled.generator)),
        facts=problem.facts | _facts(card, observation, problem, result, pixels),
        memory=memory.record(),
        deviation=None if result.deviation is None else cut(result.deviation[0].numpy(), *card.size),
        kept=tuple(packed(sample) for sample in result.kept),
        trail=tuple((step, packed(module)) for step, module in result.snapshots),
        members=tuple(
            packed(module, replace(card, latent_seed=_latent_seed(card.seed, number)))
            for number, module in enumerate(result.members if keep_seeds else (), 1)
        ),
    )


def _facts(
    card: generators.Card,
    observation: Observation,
    problem: tasks.Problem,
    result: FitResult,
    pixels: np.ndarray,
) -> dict[str, float | str]:
    """What the answer says of itself, for the record."""
    found: dict[str, float | str] = {"flecks_mended": result.flecks} if result.flecks else {}
    beyond = outside(pixels, observation.observed, observation.known, problem, card.task)
    if beyond is not None:
        found |= {"outside": beyond.count, "outside_by": round(beyond.most, 6)}
        found |= {"outside_row": beyond.row, "outside_column": beyond.column}
    return found


def fit_plan(settings: Settings, device: str) -> FitPlan:
    """The plan of a fit by a worker on ``device``; a device that the settings name wins."""
    asked = dict(settings["fit"])
    return FitPlan(**(asked | {"device": device if asked["device"] == "auto" else asked["device"]}))


def pose(settings: Settings, observation: Observation) -> tasks.Problem:
    """The problem of ``observation``, padded to what the generator needs."""
    return tasks.pose(settings["task"], *_padded(settings, observation))


def put_back(observation: Observation, problem: tasks.Problem, pixels: np.ndarray) -> np.ndarray:
    """``pixels`` [C, H, W] as they are returned: what is not the fit's to change is as it was observed, to the bit.

    A channel of one value stays one. Of a picture of the observed size, outliers, known pixels that are kept, and
    colours that alpha hides are put back too.
    """
    observed, known = observation.observed, observation.known
    pixels = pixels.copy()
    for channel, values in zip(pixels, observed, strict=True):
        told = values if known is None else values[known[0]]
        if told.min() == told.max():
            channel[:] = told.min()
    if pixels.shape != observed.shape:
        return pixels
    size = observed.shape[1:]
    if problem.outlying is not None:
        outlying = cut(problem.outlying, *size)
        pixels[outlying] = observed[outlying]
    if problem.keep is not None:
        pixels = np.where(cut(problem.keep[0].numpy(), *size) > 0.5, observed, pixels)
    if observation.hidden is not None and observation.visible is not None:
        pixels = np.where(observation.visible, pixels, observation.hidden)
    return pixels


def _padded(settings: Settings, observation: Observation) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The observation grown by reflection to what the generator needs; the masks likewise."""
    sides = padded_sides(settings, observation.observed.shape[1:])
    masks = (None if mask is None else pad(mask, sides) for mask in (observation.known, observation.visible))
    return pad(observation.observed, sides), *masks  # type: ignore[return-value]


def padded_sides(settings: Settings, sides: Sequence[int]) -> tuple[int, int]:
    """Height and width that the picture given is padded to: what the generator can take, or the next of a grid."""
    task, config = settings["task"], settings["generator"]
    multiple = tasks.padded_multiple(task, generators.multiple(config))
    smallest = -(-generators.smallest_side(config) // tasks.scale(task))
    height, width = (padded_side(max(side, smallest), multiple, on_grid(settings["fit"])) for side in sides)
    return height, width


def _matching(reference: np.ndarray, observed: np.ndarray, scale: int) -> np.ndarray:
    """The reference, where it has the size and channels of the picture sought."""
    check_reference(reference.shape, observed.shape, scale)
    return reference


def check_reference(reference: Sequence[int], observed: Sequence[int], scale: int) -> None:
    """Raises ItemError where a reference's shape [C, H, W] is not that of the picture sought."""
    channels, height, width = observed
    wanted = (channels, height * scale, width * scale)
    if tuple(reference) != wanted:
        sizes = [f"{w}×{h} with {c} channels" for c, h, w in (wanted, reference)]
        raise ItemError("reference", f"reference should be {sizes[0]}, is {sizes[1]}")


def describe(
    id: str,
    settings: Settings,
    image: Image,
    observation: Observation,
    restored: Restored,
    seconds: Mapping[str, float],
) -> Record:
    """The record of a restored image, but for the files that hold it: what was asked, what ran, what came out."""
    channels, height, width = image.pixels.shape
    fitted = restored.fit
    return {
        "version": 1,
        "id": id,
        "input": {
            "format": image.source.format,
            "mode": image.source.mode,
            "bit_depth": image.source.bit_depth,
            "width": width,
            "height": height,
            "channels": channels,
        },
        "settings": settings,
        "seed": settings["fit"]["seed"],
        "ran": ran_on(fitted.machine.device)
        | {name: getattr(fitted.machine, name) for name in ("engine", "precision", "kernels")}
        | {"programs": fitted.programs, "compilations": compilations()}
        | {"fitted_at": list(fitted.picture.shape[1:]), "memory": restored.memory}
        | ({"coarse": [{"size": size, "steps": steps} for steps, size in fitted.coarse]} if fitted.coarse else {}),
        "steps": fitted.steps,
        "chosen_step": fitted.chosen_step,
        "stop": dict(fitted.stop),
        "why": fitted.why,
        **({"samples": fitted.samples} if fitted.samples else {}),
        "rollbacks": fitted.rollbacks,
        "losses": fitted.losses,
        "stop_curve": fitted.stop_curve,
        "generator": {
            "weights": "distilled onto the kept picture",
            **_trunks(restored.distilled.generator),
            "distil_steps": restored.distilled.steps,
            "parity_db": _decibel(restored.distilled.parity_db),
        },
        "facts": restored.facts,
        "warnings": [*image.source.notes, *caveats(settings, restored.facts)],
        "seconds": {name: round(value, 4) for name, value in seconds.items()},
        "metrics": measure(observation, restored),
        "finished": now(),
    }


def _trunks(module: generators.SkipNet) -> dict[str, int]:
    """How many, where there are several."""
    return {"trunks": 1 + len(module.others)} if len(module.others) else {}


def _decibel(value: float) -> float | None:
    """None where it is infinite."""
    return round(value, 3) if np.isfinite(value) else None


def measure(observation: Observation, restored: Restored) -> dict[str, float | None]:
    """The metrics of a restored picture, where there is a truth: those of `quality`, and the last output's PSNR."""
    clean = observation.clean
    if clean is None:
        return {}
    last = psnr(restored.last, clean)
    return quality(clean, restored.before, restored.pixels, restored.deviation) | {"psnr_last": _rounded(last)}


def quality(
    clean: np.ndarray, before: np.ndarray, pixels: np.ndarray, deviation: np.ndarray | None
) -> dict[str, float | None]:
    """PSNR in dB and SSIM of the picture ``before`` and after the fit against the truth, all [C, H, W] in [0, 1].

    A PSNR that is None is infinite: the two are equal. With a predicted deviation, how much of the truth its 90 %
    interval covers, and its expected calibration error.
    """
    values = {
        "psnr_before": psnr(before, clean),
        "psnr": psnr(pixels, clean),
        "ssim_before": ssim(before, clean),
        "ssim": ssim(pixels, clean),
    }
    if deviation is not None:
        values["coverage_90"] = coverage(pixels, deviation, clean)
        values["uncertainty_ece"] = uncertainty_ece(pixels, deviation, clean)
    return {name: _rounded(value) for name, value in values.items()}


def _rounded(value: float | None) -> float | None:
    """To four digits; None where it is not finite."""
    return round(value, 4) if value is not None and np.isfinite(value) else None


def ran_on(device: torch.device) -> dict[str, Any]:
    """What a fit ran on, for the record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "device": str(device),
        "device_name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "dipfast": dipfast.__version__,
        "host": platform.node(),
        "pid": os.getpid(),
    }
