"""What a generator was fitted to, and with it the way from what the generator renders to the picture that is written.

A generator of a run has the run's input: known pixels are put back, and a share of the change can be applied. A lone
denoiser holds the noisy picture, in the range that it was fitted in; other lone generators hold nothing of the kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from dipfast.errors import DipfastError, ItemError, UsageError
from dipfast.export.targets import Target
from dipfast.image import Source, read
from dipfast.record import Record
from dipfast.remote import holds
from dipfast.render.generator import FittedGenerator, kept
from dipfast.restoration.line import observe, pose, put_back
from dipfast.restoration.strength import with_strength
from dipfast.samples import locate
from dipfast.settings.document import Settings
from dipfast.settings.task import Inpaint, SuperRes
from dipfast.tasks.range import Range

Finish = Callable[[np.ndarray, float], np.ndarray]  # [C, H', W'] as `FittedGenerator.picture`, strength → [C, H, W]


@dataclass(frozen=True)
class Origin:
    """Where a generator comes from.

    ``finish`` raises UsageError or ItemError for a strength that cannot be applied, because the picture has another
    size or is not there.
    """

    source: Source  # what the picture is written like
    strength: float  # of the run; 1 for a lone generator
    finish: Finish


def origin(target: Target, generator: FittedGenerator) -> Origin:
    """Return the origin of ``generator``. Raises ItemError where known pixels that are kept are not there any more."""
    record, run, channels = target.record, target.run, generator.card.channels
    if run is None or record is None:

        def unknown(strength: float) -> DipfastError:
            return UsageError(f"{target.generator}: holds no observed picture for strength {strength:g}; give its run")

        return Origin(Source("png", "gray" if channels == 1 else "rgb", 8), 1.0, _without_input(generator, unknown))
    settings, path = settings_of(record), locate(record["input"]["path"])
    if holds(path, record["input"]["sha256"]):
        source, finish = _with_input(settings, generator, path, record["input"].get("mask"))
    elif isinstance(settings.task, Inpaint) and settings.task.keep_known:
        raise ItemError("changed", f"{path}: is not as it was, so its known pixels cannot be put back")
    else:

        def changed(strength: float) -> DipfastError:
            text = f"is not as it was, so strength {strength:g} cannot be applied; strength 1 can"
            return ItemError("changed", f"{path}: {text}")

        source = read(run.images / record["output"]["paths"][0]).source
        finish = _without_input(generator, changed)
    return Origin(source, settings.output.strength, _of_one_size(settings, finish))


def _with_input(settings: Settings, generator: FittedGenerator, path: str, mask: str | None) -> tuple[Source, Finish]:
    """Return what the input at ``path`` says of its file and of the picture's pixels."""
    observation = observe(settings, read(path), None if mask is None else read(mask), None)
    problem = pose(settings, observation)

    def finish(picture: np.ndarray, strength: float) -> np.ndarray:
        if generator.card.refine is None:
            picture = problem.finish(problem.range.of_full(torch.from_numpy(picture)[None]))[0].numpy()
        answer = kept(picture, generator.card.size)
        return put_back(observation, problem, with_strength(observation.observed, answer, strength, observation.known))

    return observation.source, finish


def _without_input(generator: FittedGenerator, refused: Callable[[float], DipfastError]) -> Finish:
    """Return what can be done without the input. A fitted denoiser holds the observed picture, as its latent."""

    def finish(picture: np.ndarray, strength: float) -> np.ndarray:
        answer = kept(picture, generator.card.size)
        if strength == 1:
            return answer
        if not generator.card.frozen:
            raise refused(strength)
        range = Range.of(generator.module.low, generator.module.width)
        observed = kept(range.to_full(generator.latent)[0].numpy(), generator.card.size)
        return with_strength(observed, answer, strength)

    return finish


def _of_one_size(settings: Settings, finish: Finish) -> Finish:
    """Return ``finish``, which refuses to apply a share of a change where the answer has another size."""

    def checked(picture: np.ndarray, strength: float) -> np.ndarray:
        if strength != 1 and isinstance(settings.task, SuperRes):
            raise UsageError(f"strength {strength:g}: should be 1 for task superres, whose answer has another size")
        return finish(picture, strength)

    return checked


def settings_of(record: Record) -> Settings:
    """Return the settings that ``record`` says an item was fitted with. Raises ItemError for what no version writes."""
    try:
        return Settings.from_json(record["settings"])
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ItemError("unreadable", f"records/{record.id}.json: its settings cannot be read ({reason})") from None
