"""The commit record of a restored picture, and its quality where the truth is known."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import dipfast
from dipfast import generators
from dipfast.fit import FitResult, compilations
from dipfast.image import Image
from dipfast.metrics import coverage, psnr, ssim, uncertainty_ece
from dipfast.record import Record, now
from dipfast.restoration.line import Observation, Restored
from dipfast.restoration.warnings import warnings_of
from dipfast.settings.document import Settings
from dipfast.settings.stop import AutoStop


def describe(
    id: str,
    settings: Settings,
    image: Image,
    observation: Observation,
    restored: Restored,
    seconds: Mapping[str, float],
) -> Record:
    """Return the record of a restored image, but for its files: what was asked, what ran, what came out."""
    channels, height, width = image.pixels.shape
    fitted = restored.fit
    return Record(
        version=1,
        id=id,
        input={
            "format": image.source.format,
            "mode": image.source.mode,
            "bit_depth": image.source.bit_depth,
            "width": width,
            "height": height,
            "channels": channels,
        },
        settings=settings.model_dump(mode="json"),
        seed=settings.fit.seed,
        ran=ran_on(fitted.machine.device)
        | {name: getattr(fitted.machine, name) for name in ("engine", "precision", "kernels")}
        | {"programs": fitted.programs, "compilations": compilations()}
        | {"fitted_at": list(fitted.picture.shape[1:]), "memory": restored.memory}
        | ({"coarse": [{"size": size, "steps": steps} for steps, size in fitted.coarse]} if fitted.coarse else {}),
        steps=fitted.steps,
        chosen_step=fitted.chosen_step,
        stop=_criterion(settings, fitted),
        why=fitted.why,
        samples=fitted.samples or None,
        rollbacks=fitted.rollbacks,
        losses=fitted.losses,
        stop_curve=fitted.stop_curve,
        generator={
            "weights": "distilled onto the kept picture" if restored.distilled.steps else "as fitted",
            **_trunks(restored.distilled.generator),
            "distil_steps": restored.distilled.steps,
            "parity_db": _decibel(restored.distilled.parity_db),
        },
        facts=restored.facts,
        warnings=[*image.source.notes, *warnings_of(settings, restored.facts)],
        seconds={name: round(value, 4) for name, value in seconds.items()},
        metrics=measure(observation, restored),
        output={} if settings.output.strength == 1 else {"strength": settings.output.strength},
        finished=now(),
    )


def _criterion(settings: Settings, fitted: FitResult) -> dict[str, Any]:
    """Return the stop criterion that ran. One that `auto` stands for begins with its type, as records always had it."""
    found = fitted.stop.model_dump(mode="json")
    return {"type": fitted.stop.type} | found if isinstance(settings.fit.stop, AutoStop) else found


def _trunks(module: generators.SkipNet) -> dict[str, int]:
    """Return the number of trunks, where there are several."""
    return {"trunks": 1 + len(module.others)} if len(module.others) else {}


def _decibel(value: float) -> float | None:
    """Return ``value`` with three digits; None where it is infinite."""
    return round(value, 3) if np.isfinite(value) else None


def measure(observation: Observation, restored: Restored) -> dict[str, float | None]:
    """Return the metrics of a restored picture, where the truth is known: `quality`, and the last output's PSNR."""
    clean = observation.clean
    if clean is None:
        return {}
    last = psnr(restored.last, clean)
    return quality(clean, restored.before, restored.pixels, restored.deviation) | {"psnr_last": _rounded(last)}


def quality(
    clean: np.ndarray, before: np.ndarray, pixels: np.ndarray, deviation: np.ndarray | None
) -> dict[str, float | None]:
    """Return PSNR in dB and SSIM of the picture before and after the fit against the truth, all [C, H, W] in [0, 1].

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
    """Return ``value`` with four digits; None where it is not finite."""
    return round(value, 4) if value is not None and np.isfinite(value) else None


def ran_on(device: torch.device) -> dict[str, Any]:
    """Return what a fit ran on, for the record."""
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
