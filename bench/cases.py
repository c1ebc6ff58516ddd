"""Pictures with a known truth, damaged with a seed: what the scripts of this folder fit.

A damage is named by one word: `gaussian:25`, `poisson:30`, `jpeg:10`, `missing:0.5`, `superres:4`. The noise of
`gaussian-unclipped:25` is neither clipped nor rounded, as in most papers. The fit is not told the strength of
`unknown:25`, of `shared:25` (by the channels of a pixel) and of `blurred:0.6` (pixels, at sigma 25).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipfast import generators
from dipfast.errors import UsageError
from dipfast.image import Limits, cut, pad, read
from dipfast.manifest.layers import Layer, resolve
from dipfast.manifest.options import read_options
from dipfast.restoration.line import padded_sides
from dipfast.samples import PREFIX, locate
from dipfast.settings.document import Settings
from dipfast.settings.section import Section
from dipfast.settings.task import (
    AddGaussian,
    AddPoisson,
    CompressJpeg,
    Degradation,
    Denoise,
    DropPixels,
    GaussianNoise,
    Inpaint,
    Jpeg,
    PoissonNoise,
    Shrink,
    SuperRes,
    Task,
)
from dipfast.tasks import Damaged, Problem, degrade, pose

BLURRED = 25  # sigma of the noise that is blurred
WORDS = (
    *("gaussian:25", "gaussian-unclipped:25", "unknown:25", "shared:25", "blurred:0.6"),
    *("poisson:30", "jpeg:10", "missing:0.5", "superres:4"),
)
SAMPLES = ("sample:astronaut", "sample:chelsea", "sample:coffee", "sample:rocket")


UNKNOWN = Denoise(noise=GaussianNoise(sigma="auto"))
DAMAGES: dict[str, Callable[[float], tuple[Degradation, Task]]] = {
    "gaussian": lambda sigma: (AddGaussian(sigma=sigma), Denoise(noise=GaussianNoise(sigma=sigma))),
    "gaussian-unclipped": lambda sigma: (
        AddGaussian(sigma=sigma),
        Denoise(noise=GaussianNoise(sigma=sigma, clipped=False)),
    ),
    "unknown": lambda sigma: (AddGaussian(sigma=sigma), UNKNOWN),
    "shared": lambda sigma: (AddGaussian(sigma=sigma, shared=True), UNKNOWN),
    "blurred": lambda pixels: (AddGaussian(sigma=BLURRED, blur=pixels), UNKNOWN),
    "poisson": lambda peak: (AddPoisson(peak=peak), Denoise(noise=PoissonNoise(peak=peak))),
    "jpeg": lambda quality: (CompressJpeg(quality=int(quality)), Jpeg()),
    "missing": lambda fraction: (DropPixels(fraction=fraction), Inpaint(known="auto", keep_known=True)),
    "superres": lambda scale: (Shrink(scale=int(scale)), SuperRes(scale=int(scale), kernel="lanczos2")),
}


@dataclass(frozen=True)
class Case:
    """A damaged picture, its task, and the truth [C, H, W] float32 in [0, 1]."""

    picture: str
    damage: str
    task: Task
    problem: Problem
    clean: np.ndarray
    damaged: Damaged
    crop: int | None  # the side of the square that was cut from the picture; None: the whole picture

    @property
    def name(self) -> str:
        return picture_name(self.picture)

    @property
    def digest(self) -> str:
        """Of the truth and of what was damaged: rows of one case, whatever run they are from, have the same."""
        levels = [(255 * pixels).round().clip(0, 255) for pixels in (self.clean, self.damaged.observed)]
        return hashlib.sha256(b"".join(level.astype(np.uint8).tobytes() for level in levels)).hexdigest()[:12]

    def under(self, preset: str, sets: Sequence[str]) -> Problem:
        """The problem as ``preset`` and ``sets`` pose it: the paper's knows nothing of clipping.

        A whole picture is padded by reflection to what the network needs, as `dipfast.restore` does.
        """
        settings = _settings(self.task, preset, sets, 0)
        observed, known = self.damaged.observed, self.damaged.known
        if self.crop is None:
            sides = padded_sides(settings, observed.shape[1:])
            observed, known = pad(observed, sides), None if known is None else pad(known, sides)
        return pose(settings.task, observed, known)

    def cut(self, picture: np.ndarray) -> np.ndarray:
        """``picture`` [..., H, W] without the padding."""
        return cut(picture, *self.clean.shape[1:])


def make_case(picture: str, damage: str, crop: int | None, seed: int) -> Case:
    """``picture`` (a path or `sample:NAME`) damaged with ``seed``: ``crop`` pixels a side from its middle, or all.

    Raises UsageError for a damage that is not one, ItemError for a picture that cannot be read.
    """
    asked, task = parse_damage(damage)
    image = read(locate(picture), Limits())
    if crop is not None and min(image.pixels.shape[1:]) < crop:
        raise UsageError(f"--crop is {crop}, but {picture} is {image.pixels.shape[2]}×{image.pixels.shape[1]}")
    asked = asked.model_copy(update={"crop": crop, "seed": seed})
    damaged = degrade(asked, image.pixels, clipped=_is_clipped(task))
    return Case(picture, damage, task, pose(task, damaged.observed, damaged.known), damaged.clean, damaged, crop)


def _is_clipped(task: Task) -> bool:
    """Whether values beyond black and white are cut off before ``task`` sees them."""
    return not (isinstance(task, Denoise) and isinstance(task.noise, GaussianNoise) and not task.noise.clipped)


def picture_name(picture: str) -> str:
    """``picture`` without the folders that it lies in."""
    return picture if picture.startswith(PREFIX) else Path(picture).name


def settings_of(task: Task, preset: str, sets: Sequence[str], seed: int, crop: int | None) -> Settings:
    """The settings that ``preset`` and ``sets`` (`KEY=VALUE`) come to for ``task``.

    Raises UsageError for what is wrong with them, and for a ``crop`` that the net cannot take; None is a whole picture,
    which is padded.
    """
    settings = _settings(task, preset, sets, seed)
    if crop is None:
        return settings
    multiple, least = generators.multiple(settings.generator), generators.smallest_side(settings.generator)
    if crop % multiple or crop < least:  # a crop is not padded: what is measured is what was cut
        raise UsageError(f"--crop should be a multiple of {multiple} and at least {least} for this net, is {crop}")
    return settings


def _settings(task: Task, preset: str, sets: Sequence[str], seed: int) -> Settings:
    """All settings of an item of ``task``."""
    options = read_options(sets, {"preset": preset, "seed": seed})
    found = resolve([Layer({"task": _given(task)}, "task"), *options.settings], with_mask=False)
    problems = [*options.problems, *(found if isinstance(found, list) else [])]
    if problems or isinstance(found, list):
        raise UsageError("; ".join(f"{problem.origin}: {problem.text}" for problem in problems))
    return found


def _given(section: Section) -> dict[str, Any]:
    """The keys that ``section`` was made with, and its type: what it leaves open is the preset's to say."""
    given = {name: getattr(section, name) for name in ("type", *sorted(section.model_fields_set))}
    return {name: _given(value) if isinstance(value, Section) else value for name, value in given.items()}


def parse_damage(word: str) -> tuple[Degradation, Task]:
    """The damage, and the task that undoes it, that ``word`` stands for. Raises UsageError."""
    kind, _, value = word.partition(":")
    try:
        return DAMAGES[kind](float(value))
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"--damage should be like {', '.join(WORDS[:-1])} or {WORDS[-1]}, is {word}") from None
