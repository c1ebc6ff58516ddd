"""One image through the line: observed, posed, fitted, finished. What a worker and `dipfast.restore` both call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from dipfast import generators, tasks
from dipfast.errors import ItemError
from dipfast.fit import (
    NO_HOOKS,
    Course,
    FitResult,
    Hooks,
    ProgramCache,
    choose_machine,
    derive_seed,
    finish,
    fitting,
)
from dipfast.fit.distil import REFINED_SHARE, SHARE, Distilled, as_it_is, decibel, distil_steps, distilling
from dipfast.fit.result import averaged_generator
from dipfast.image import Image, Source, cut, in_range_of, opacity, pad
from dipfast.restoration.failure import is_out_of_memory
from dipfast.restoration.memory import MemoryPolicy, TierChoice
from dipfast.restoration.refinement import is_frozen, is_left_alone, refined_result, stored_refinement
from dipfast.restoration.strength import deviation_with_strength, noise_variance, with_strength
from dipfast.restoration.warnings import outside
from dipfast.settings.document import Settings
from dipfast.settings.generator import ImageInput, NoiseInput
from dipfast.settings.shapes import on_grid, padded_side, windows_of
from dipfast.settings.task import ALPHA, Inpaint, Task


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
    memory: dict[str, Any]  # the tier that the fit ran on, for the record
    seconds: dict[str, float]  # by phase
    deviation: np.ndarray | None = None  # [C, H, W] float32, of the full range; where the fit predicts its error
    kept: tuple[bytes, ...] = ()  # generators of the posterior's samples, safetensors
    trail: tuple[tuple[int, bytes], ...] = ()  # steps, and generators with the averaged weights of then
    members: tuple[bytes, ...] = ()  # generators of the other seeds, from the second


def observe(settings: Settings, image: Image, mask: Image | None, reference: Image | None) -> Observation:
    """Return the item as the fit will see it. Raises ItemError for a mask or reference of another image."""
    if settings.degrade is not None:
        damaged = tasks.degrade(settings.degrade, image.pixels)
        source = replace(image.source, alpha=None, size=damaged.clean.shape[1:], tags=())  # it may be cropped
        return Observation(damaged.observed, damaged.known, damaged.clean, source, damaged=True)
    if mask is None and isinstance(settings.task, Inpaint) and settings.task.mask == ALPHA:
        return _observed_holes(settings, image, reference)
    known = None
    if mask is not None and isinstance(settings.task, Inpaint):
        known = tasks.known_pixels(mask.pixels, settings.task.known, image.pixels, opacity(mask))
    scale = tasks.scale(settings.task)
    clean = None if reference is None else _matching(in_range_of(reference, image.source), image.pixels, scale)
    visible = _visible(image.source)
    if visible is None:
        return Observation(image.pixels, known, clean, image.source)
    shown = tasks.filled(torch.from_numpy(image.pixels)[None], torch.from_numpy(visible)[None])[0].numpy()
    return Observation(shown, known, clean, image.source, visible=visible, hidden=image.pixels)


def _observed_holes(settings: Settings, image: Image, reference: Image | None) -> Observation:
    """Return a picture whose fully transparent pixels are to be filled in; then nothing of it is transparent."""
    alpha = image.source.alpha
    if alpha is None or alpha.all() or not alpha.any():
        found = "the picture has none" if alpha is None else f"it is 0 {'nowhere' if alpha.any() else 'everywhere'}"
        raise ItemError("mask", f"task.mask is alpha, which should be 0 in some pixels: {found}")
    known = alpha == alpha.max() if image.source.alpha_kind == "premultiplied" else alpha > 0
    source = replace(image.source, alpha=None)
    clean = None if reference is None else _matching(in_range_of(reference, source), image.pixels, 1)
    return Observation(image.pixels, known[None], clean, source)


def _visible(source: Source) -> np.ndarray | None:  # [1, H, W] bool
    """Return where alpha shows the colours; None where that is everywhere, or nowhere.

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
    policy: MemoryPolicy | None = None,
) -> Restored:
    """Fit a generator to ``observation`` on ``device`` and return the picture, cut back to its size.

    Raises ItemError, MachineError or Cancelled, as `dipfast.fit.fit` does; ItemError `out-of-memory` where no tier of
    the memory policy fits.
    """
    start = time.perf_counter()
    problem = pose(settings, observation)
    posed = time.perf_counter() - start
    restored = finish(restoring(settings, observation, problem, device, id, hooks, policy or MemoryPolicy()))
    return replace(restored, seconds=restored.seconds | {"pose": posed})


def restoring(
    settings: Settings,
    observation: Observation,
    problem: tasks.Problem,
    device: str,
    id: str,
    hooks: Hooks,
    policy: MemoryPolicy,
    is_alone: Callable[[], bool] = lambda: True,
) -> Course[Restored]:
    """Do what `restore` does, step by step, of an observation whose ``problem`` is posed.

    A fit that runs out of memory is done again a tier of ``policy`` lower, if it ``is_alone`` on its device: where
    others had some of the memory, they are the first to go, and the error is the caller's.
    """
    cache = hooks.program_cache or ProgramCache()
    hooks = replace(hooks, program_cache=cache)
    asked = choose_machine(settings.fit, device)
    while True:
        choice = policy.choose(settings, problem.shape, asked)
        try:
            return (yield from _attempt(settings, observation, problem, id, hooks, choice))
        except Exception as error:
            retried = is_out_of_memory(error) and is_alone() and policy.descend(settings, problem.shape, asked)
            if not retried:
                raise
        cache.release()  # once the error is gone, which holds what the attempt has allocated


def _attempt(
    settings: Settings,
    observation: Observation,
    problem: tasks.Problem,
    id: str,
    hooks: Hooks,
    choice: TierChoice,
) -> Course[Restored]:
    """Fit, distil and pack on the tier of ``choice``."""
    asked = settings.fit.model_copy(update={"steps": 0}) if is_left_alone(problem, settings) else settings.fit
    result = yield from fitting(problem, settings.generator, asked, choice.machine, hooks)
    start = time.perf_counter()
    result = refined_result(result, problem, settings)
    seconds = result.seconds | ({} if settings.refine is None else {"refine": time.perf_counter() - start})
    start = time.perf_counter()
    module = averaged_generator(result, settings.generator, settings.fit)
    card = _card(settings, observation, problem, id, result.machine.precision)
    latent = generators.latent_of(_stored(card, module), problem.shown)
    if card.frozen:
        distilled = Distilled(
            module, decibel(float((result.image - problem.finish(result.picture)).square().mean())), 0
        )
    elif result.steps:
        share = SHARE if settings.refine is None else REFINED_SHARE
        steps, dtype = distil_steps(result, settings.fit, share), result.machine.dtype
        distilled = yield from distilling(module, latent, result.picture, steps, dtype, hooks.cancelled)
    else:
        distilled = as_it_is(module, latent, result.picture)
    seconds |= {"distil": time.perf_counter() - start}
    return _restored(settings, card, observation, problem, result, distilled, choice, seconds)


def _card(
    settings: Settings, observation: Observation, problem: tasks.Problem, id: str, precision: str
) -> generators.Card:
    """Return what the item's generators say of themselves."""
    seed = settings.fit.seed
    height, width = (side * tasks.scale(settings.task) for side in observation.observed.shape[1:])
    return generators.Card(
        id=id,
        generator=settings.generator,
        task=settings.task.model_dump(mode="json"),
        seed=seed,
        latent_seed=derive_seed(seed, "latent"),
        channels=problem.shape[0],
        padded=problem.shape[1:],
        size=(height, width),
        precision=precision,
        frozen=is_frozen(settings),
        refine=stored_refinement(problem, settings),
    )


def _stored(card: generators.Card, module: generators.SkipNet) -> generators.Card:
    """Return the card of the generator that is stored; ``card`` is that of the first seed's alone."""
    count = 1 + len(module.others)
    if count == 1:
        return card
    latent = card.generator.input
    if not (isinstance(latent, NoiseInput) or (isinstance(latent, ImageInput) and latent.noise)):
        return replace(card, trunks=count)
    seeds = [derive_seed(card.seed, "latent", number) for number in range(count)]
    return replace(card, trunks=count, latent_seed=seeds)


def _restored(
    settings: Settings,
    card: generators.Card,
    observation: Observation,
    problem: tasks.Problem,
    result: FitResult,
    distilled: Distilled,
    choice: TierChoice,
    seconds: dict[str, float],
) -> Restored:
    """Return the picture cut back to its size, and every generator as bytes."""
    range = None if problem.range.is_whole else (problem.range.low, problem.range.width)

    def packed(module: nn.Module, card: generators.Card = card) -> bytes:
        return generators.to_bytes(module, problem.shown, card, range)

    strength = settings.output.strength
    answer = cut(result.image[0].numpy(), *card.size)
    mixed = with_strength(observation.observed, answer, strength, observation.known)
    pixels = put_back(observation, problem, mixed)
    deviation = None if result.deviation is None else cut(result.deviation[0].numpy(), *card.size)
    if deviation is not None and strength != 1:
        answer = put_back(observation, problem, answer)
        variance = noise_variance(problem, answer)
        deviation = deviation_with_strength(deviation, answer, pixels, strength, variance)
    return Restored(
        pixels=pixels,
        last=cut(result.last[0].numpy(), *card.size),
        before=put_back(observation, problem, cut(problem.range.to_full(problem.guide)[0].numpy(), *card.size)),
        source=observation.source,
        fit=result,
        distilled=distilled,
        generator=packed(distilled.generator, _stored(card, distilled.generator)),
        facts=problem.facts | _facts(settings.task, observation, problem, result, pixels),
        memory=choice.record(),
        seconds=seconds,
        deviation=deviation,
        kept=tuple(packed(sample) for sample in result.kept),
        trail=tuple((step, packed(module)) for step, module in result.snapshots),
        members=tuple(
            packed(module, replace(card, latent_seed=derive_seed(card.seed, "latent", number)))
            for number, module in enumerate(result.members if settings.fit.keep_seeds else (), 1)
        ),
    )


def _facts(
    task: Task,
    observation: Observation,
    problem: tasks.Problem,
    result: FitResult,
    pixels: np.ndarray,
) -> dict[str, float | str]:
    """Return what the answer says of itself, for the record."""
    found: dict[str, float | str] = {"flecks_mended": result.flecks} if result.flecks else {}
    if problem.bound is not None:
        found["change_applied"] = round(result.applied, 3)
    beyond = outside(pixels, observation.observed, observation.known, problem, task)
    if beyond is not None:
        found |= {"outside": beyond.count, "outside_by": round(beyond.most, 6)}
        found |= {"outside_row": beyond.row, "outside_column": beyond.column}
    return found


def pose(settings: Settings, observation: Observation) -> tasks.Problem:
    """Return the problem of ``observation``, padded to what the generator needs."""
    return tasks.pose(settings.task, *_padded(settings, observation))


def put_back(observation: Observation, problem: tasks.Problem, pixels: np.ndarray) -> np.ndarray:
    """Return ``pixels`` [C, H, W] with what the fit may not change as it was observed, to the bit.

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
    """Return the observation, grown by reflection to what the generator needs, and its masks likewise."""
    sides = padded_sides(settings, observation.observed.shape[1:])
    masks = (None if mask is None else pad(mask, sides) for mask in (observation.known, observation.visible))
    return pad(observation.observed, sides), *masks  # type: ignore[return-value]


def padded_sides(settings: Settings, sides: Sequence[int]) -> tuple[int, int]:
    """Return height and width that a picture is padded to: what the generator can take, or the next of a grid.

    A picture that is fitted on windows has at least the size of one, so that all pictures share a program.
    """
    task, generator = settings.task, settings.generator
    multiple = tasks.padded_multiple(task, generators.multiple(generator))
    windows = windows_of(generator, settings.fit)
    smallest = -(-generators.smallest_side(generator) // tasks.scale(task)) if windows is None else windows.side
    on_a_grid = windows is None and on_grid(settings.fit)
    height, width = (padded_side(max(side, smallest), multiple, on_a_grid) for side in sides)
    return height, width


def _matching(reference: np.ndarray, observed: np.ndarray, scale: int) -> np.ndarray:
    """Return the reference. Raises ItemError where it has another size or other channels than the picture sought."""
    check_reference(reference.shape, observed.shape, scale)
    return reference


def check_reference(reference: Sequence[int], observed: Sequence[int], scale: int) -> None:
    """Raise ItemError where a reference's shape [C, H, W] is not that of the picture sought."""
    channels, height, width = observed
    wanted = (channels, height * scale, width * scale)
    if tuple(reference) != wanted:
        sizes = [f"{w}×{h} with {c} channels" for c, h, w in (wanted, reference)]
        raise ItemError("reference", f"reference should be {sizes[0]}, is {sizes[1]}")
