"""Pictures with a known truth, damaged with a seed: what the scripts of this folder fit.

A damage is named by one word: `gaussian:25`, `poisson:30`, `jpeg:10`, `missing:0.5`, `superres:4`. The fit is not told
the strength of `unknown:25`, of `shared:25` (by the channels of a pixel) and of `blurred:0.6` (pixels, at sigma 25).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from dipfast import generators
from dipfast.errors import UsageError
from dipfast.fit import FitPlan
from dipfast.image import Limits, read
from dipfast.manifest.layers import Layer, resolve
from dipfast.manifest.options import read_options
from dipfast.samples import PREFIX, locate
from dipfast.settings.task import Degradation
from dipfast.tasks import Damaged, Problem, degrade, pose

Section = dict[str, Any]

BLURRED = 25  # sigma of the noise that is blurred
INPAINT = {"type": "inpaint", "known": "auto", "keep_known": True}
LANCZOS = {"type": "superres", "kernel": "lanczos2"}
WORDS = ("gaussian:25", "unknown:25", "shared:25", "blurred:0.6", "poisson:30", "jpeg:10", "missing:0.5", "superres:4")
SAMPLES = ("sample:astronaut", "sample:chelsea", "sample:coffee", "sample:rocket")


def _noise(told: bool = True, **noise: Any) -> tuple[Section, Section]:
    """The `degrade` section of a noise and the task that undoes it, to which its strength is ``told`` or not."""
    return noise, {"type": "denoise", "noise": noise if told else {"type": "gaussian", "sigma": "auto"}}


DAMAGES: dict[str, Callable[[float], tuple[Section, Section]]] = {
    "gaussian": lambda sigma: _noise(type="gaussian", sigma=sigma),
    "unknown": lambda sigma: _noise(False, type="gaussian", sigma=sigma),
    "shared": lambda sigma: _noise(False, type="gaussian", sigma=sigma, shared=True),
    "blurred": lambda pixels: _noise(False, type="gaussian", sigma=BLURRED, blur=pixels),
    "poisson": lambda peak: _noise(type="poisson", peak=peak),
    "jpeg": lambda quality: ({"type": "jpeg", "quality": int(quality)}, {"type": "jpeg"}),
    "missing": lambda fraction: ({"type": "missing", "fraction": fraction}, INPAINT),
    "superres": lambda scale: (LANCZOS | {"type": "downsample", "scale": int(scale)}, LANCZOS | {"scale": int(scale)}),
}


@dataclass(frozen=True)
class Case:
    """A damaged picture, its task as the manifest has it, and the truth [C, H, W] float32 in [0, 1]."""

    picture: str
    damage: str
    task: dict[str, Any]
    problem: Problem
    clean: np.ndarray
    damaged: Damaged

    @property
    def name(self) -> str:
        return picture_name(self.picture)

    @property
    def digest(self) -> str:
        """Of the truth and of what was damaged: rows of one case, whatever run they are from, have the same."""
        levels = [(255 * pixels).round().astype(np.uint8).tobytes() for pixels in (self.clean, self.damaged.observed)]
        return hashlib.sha256(b"".join(levels)).hexdigest()[:12]

    def under(self, preset: str, sets: Sequence[str]) -> Problem:
        """The problem as ``preset`` and ``sets`` pose it: the paper's knows nothing of clipping."""
        task = _settings(self.task, preset, sets, 0)["task"]
        return pose(task, self.damaged.observed, self.damaged.known)


def make_case(picture: str, damage: str, crop: int, seed: int) -> Case:
    """``picture`` (a path or `sample:NAME`), ``crop`` pixels a side from its middle, damaged with ``seed``.

    Raises UsageError for a damage that is not one, ItemError for a picture that cannot be read.
    """
    config, task = parse_damage(damage)
    image = read(locate(picture), Limits())
    if min(image.pixels.shape[1:]) < crop:
        raise UsageError(f"--crop is {crop}, but {picture} is {image.pixels.shape[2]}×{image.pixels.shape[1]}")
    damaged = degrade({"crop": crop, "seed": seed, **config}, image.pixels)
    return Case(picture, damage, task, pose(task, damaged.observed, damaged.known), damaged.clean, damaged)


def picture_name(picture: str) -> str:
    """``picture`` without the folders that it lies in."""
    return picture if picture.startswith(PREFIX) else Path(picture).name


def settings_of(
    task: dict[str, Any], preset: str, sets: Sequence[str], seed: int, crop: int
) -> tuple[dict[str, Any], FitPlan]:
    """The generator's section and the plan that ``preset`` and ``sets`` (`KEY=VALUE`) come to for ``task``.

    Raises UsageError for what is wrong with them, and for a ``crop`` that the net cannot take.
    """
    settings = _settings(task, preset, sets, seed)
    multiple, least = generators.multiple(settings["generator"]), generators.smallest_side(settings["generator"])
    if crop % multiple or crop < least:  # nothing is padded here: what is measured is what was cut
        raise UsageError(f"--crop should be a multiple of {multiple} and at least {least} for this net, is {crop}")
    return settings["generator"], FitPlan(**settings["fit"])


def _settings(task: dict[str, Any], preset: str, sets: Sequence[str], seed: int) -> dict[str, Any]:
    """All settings of an item of ``task``, as plain data."""
    options = read_options(sets, {"preset": preset, "seed": seed})
    found = resolve([Layer({"task": task}, "task"), *options.settings], with_mask=False)
    problems = [*options.problems, *(found if isinstance(found, list) else [])]
    if problems or isinstance(found, list):
        raise UsageError("; ".join(f"{problem.origin}: {problem.text}" for problem in problems))
    return found.model_dump(mode="json")


def parse_damage(word: str) -> tuple[Section, Section]:
    """The `degrade` and `task` sections that ``word`` stands for. Raises UsageError."""
    kind, _, value = word.partition(":")
    try:
        damage, task = DAMAGES[kind](float(value))
        TypeAdapter(Degradation).validate_python(damage)
    except (KeyError, ValueError, OverflowError):
        raise UsageError(f"--damage should be like {', '.join(WORDS[:-1])} or {WORDS[-1]}, is {word}") from None
    return damage, task
