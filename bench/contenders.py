"""Who stands on the frontier, and what one of them makes of one damaged picture: a row, and the picture returned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from cases import Case, settings_of
from dipfast.errors import UsageError
from dipfast.fit import FitResult, ProgramCache, choose_machine, fit
from dipfast.metrics import psnr, ssim
from dipfast.plan import fit_flops
from dipfast.restoration.refinement import refined_result
from dipfast.settings.fit import Fit
from dipfast.settings.generator import SkipGenerator
from dipfast.settings.shapes import windows_of
from methods import METHODS, METHODS_UNCLIPPED
from rivals import RIVALS, compete
from watch import Clock, peak_of, quality

PRESETS = ("fast", "balanced", "best", "paper")
OF_NOISE = {"gaussian": METHODS, "gaussian-unclipped": METHODS_UNCLIPPED}  # kinds of damage, and what is for them

# FasterDIP (Liu et al., ICCV 2023), `denoising_dip.sh` and `core/denoising.py`: two scales, no skips, a latent as deep
# as the net is wide. They choose the width by the texture, from 32 to 256; 64 is the one for little of it.
FASTER_DIP = (
    "generator.channels=[64,64] generator.skip_channels=0 generator.activation=relu generator.pad=zero "
    "generator.input.depth=64 fit.rollback_db=null"
)
ALIASES: Mapping[str, tuple[str, list[str]]] = {"faster-dip": ("paper", FASTER_DIP.split())}


@dataclass(frozen=True)
class Contender:
    """A preset with changes to it, one of `METHODS`, or one of `RIVALS`."""

    name: str
    preset: str
    sets: tuple[str, ...]


def parse_contender(text: str) -> Contender:
    """``[NAME: ]PRESET [KEY=VALUE ...]``, a method, or ``RIVAL [steps=N] [channels=N]``. Raises UsageError."""
    name, colon, rest = text.partition(": ")
    preset, *sets = (rest if colon else text).split() or [""]
    preset, first = ALIASES.get(preset, (preset, []))
    if preset not in (*PRESETS, *METHODS, *RIVALS) or (preset in METHODS and sets):
        kinds = "|".join([*PRESETS, *ALIASES])
        others = ", ".join([*METHODS, *(f"{rival} [steps=N] [channels=N]" for rival in RIVALS)])
        raise UsageError(f"--contender should be [NAME: ]{kinds} [KEY=VALUE ...] or one of {others}, is {text!r}")
    contender = Contender(name if colon else text, preset, (*first, *sets))
    if preset in RIVALS:
        rival_settings(contender)
    return contender


def rival_settings(contender: Contender) -> Any:
    """Its authors' settings with the contender's changes. Raises UsageError."""
    found = RIVALS[contender.preset].settings
    for text in contender.sets:
        key, _, value = text.partition("=")
        if key not in vars(found) or not value.isdecimal() or int(value) < 1:
            raise UsageError(f"--contender {contender.name}: should have steps=N and channels=N alone, has {text!r}")
        found = replace(found, **{key: int(value)})
    return found


class Peer(NamedTuple):
    """Where the checkout of a rival is."""

    name: str
    checkout: Path


def parse_peer(text: str) -> Peer:
    """``NAME=DIR``. Raises UsageError."""
    name, equals, folder = text.partition("=")
    if name not in RIVALS or not equals:
        raise UsageError(f"--peer should be NAME=DIR with a name of {', '.join(RIVALS)}, is {text!r}")
    return Peer(name, Path(folder))


def need_peers(contenders: Sequence[Contender], peers: Mapping[str, Path]) -> None:
    """Raises UsageError where a rival has no checkout: before hours are spent on the others."""
    for contender in contenders:
        if contender.preset in RIVALS and contender.preset not in peers:
            needed = RIVALS[contender.preset].marker
            raise UsageError(f"--contender {contender.name} needs --peer {contender.preset}=DIR, which has {needed}")


def run_one(
    contender: Contender, case: Case, seed: int, past_stop: float, peers: Mapping[str, Path]
) -> tuple[dict[str, Any], np.ndarray] | None:
    """A row and the picture [C, H, W] returned; None for a method or rival that does not apply to the damage."""
    name, (kind, _, sigma), seen = contender.preset, case.damage.partition(":"), case.damaged.observed
    methods = OF_NOISE.get(kind, {})
    if name not in PRESETS and name not in methods and (name in METHODS or not methods):
        return None
    if name in PRESETS:
        picture, cost = _fit(contender, case, seed, past_stop)
    elif name in methods:
        with Clock() as clock:
            picture = methods[name](seen, float(sigma) / 255)
        cost = clock.seconds
    else:
        cost = compete(name, peers[name], rival_settings(contender), seen, case.clean, seed)
        picture = cost.pop("image")
    about = {"contender": contender.name, "picture": case.name, "damage": case.damage, "case": case.digest}
    scores = {"psnr": psnr(picture, case.clean), "ssim": ssim(picture, case.clean)}
    return about | {"before": psnr(case.problem.guide[0].numpy(), case.clean)} | scores | cost, picture


def _fit(contender: Contender, case: Case, seed: int, past_stop: float) -> tuple[np.ndarray, dict[str, Any]]:
    asked = settings_of(case.task, contender.preset, contender.sets, seed, case.crop)
    case = replace(case, problem=case.under(contender.preset, contender.sets))
    result, costs = watched(case, asked.generator, asked.fit, past_stop)
    with Clock() as clock:
        result = refined_result(result, case.problem, asked)
    costs |= {name: costs[name] + more for name, more in clock.seconds.items()}
    coarse = result.coarse[0][0] if result.coarse else 0
    taken = asked.fit.model_copy(update={"steps": result.steps, "coarse": coarse})
    flops = fit_flops(asked.model_copy(update={"fit": taken}), case.problem.shape)
    costs |= {"steps": result.steps, "chosen_step": result.chosen_step, "flops": flops, "why": result.why}
    return case.cut(result.image[0].numpy()), costs


def watched(case: Case, config: SkipGenerator, settings: Fit, past_stop: float) -> tuple[FitResult, dict[str, Any]]:
    """A fit, with its trajectory and the peak of it, and the fit's seconds without those of the looks.

    A fit on windows has a picture at its end alone.
    """
    bench, machine = ProgramCache(), choose_machine(settings)
    clean = torch.from_numpy(case.clean)[None].to(machine.device)
    height, width = case.clean.shape[1:]

    def score(picture: torch.Tensor) -> float:
        return quality(picture[..., :height, :width].to(clean.device), clean)

    if windows_of(config, settings) is not None:
        with Clock() as clock:
            result = fit(case.problem, config, settings, machine)
        return result, clock.seconds | peak_of([(result.steps, score(result.image))])
    state, step = bench.prepare(case.problem, config, settings, machine)
    curve, looked, whole = [(0, float("-inf"))], Clock(), Clock()

    def look(number: int, loss: float = 0.0) -> None:
        with looked:
            picture = state.problem.finish(state.output if settings.average is None else state.average)
            curve.append((number, score(picture)))

    with whole:
        result = fit(case.problem, config, settings, machine, progress=look, program_cache=bench)
    wall = sum(result.seconds.values()) - result.seconds["setup"] - looked.wall
    processor = whole.processor - looked.processor
    for number in range(result.steps, min(settings.steps, round((1 + past_stop) * result.steps))):
        step()
        look(number + 1)
    return result, {"seconds": wall, "processor_seconds": processor} | peak_of(curve)
