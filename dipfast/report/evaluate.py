"""A run's images, and the deviations that it predicts for them, against true ones that the run never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from dipfast.errors import GateError, ItemError, NothingMatchedError, UsageError
from dipfast.image import in_range_of, read
from dipfast.metrics import calibration_scale, coverage, psnr, ssim, uncertainty_ece
from dipfast.store.folder import RunFolder
from dipfast.store.rows import rows_of
from dipfast.text import count, printable

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".ppm", ".pgm", ".jp2")
PLAIN = ("psnr", "ssim")
CALIBRATION = ("coverage_90", "uncertainty_ece", "scale", "coverage_90_scaled", "uncertainty_ece_scaled")
# items: a list; the names above: means of those that have a finite value; psnr_items, ssim_items: how many these are;
# psnr_identical: how many equal their references, of which PSNR is infinite; missing: outputs without a reference
Scores = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """One picture of the run, its reference, and the map of its deviations where there is one."""

    output: str
    image: Path
    truth: Path
    deviation: Path | None


def evaluate(folder: RunFolder, reference: Path) -> Scores:
    """PSNR and SSIM of every image done, against the file of the same relative name under ``reference``.

    The suffix may differ. Where the run predicts deviations, how far they are borne out: as they are, and times one
    scale that is fitted on all other images of the run. Raises UsageError where ``reference`` is no folder,
    NothingMatchedError where no image has a reference.
    """
    if not reference.is_dir():
        raise UsageError(f"--reference {reference}: should be a folder")
    pairs, missing = [], []
    for row in rows_of(folder):
        if row.status != "done" or row.record is None:
            continue
        truth = _find(reference, row.output)
        if truth is None:
            missing.append(row.output)
        else:
            map_of = row.record["output"].get("uncertainty")
            deviation = None if map_of is None else folder.root / map_of["path"]
            pairs.append(Pair(row.output, folder.images / row.output, truth, deviation))
    if not pairs:
        raise NothingMatchedError(f"--reference {reference}: has no image of the same name as any of {folder.root}")
    items = [_score(pair) for pair in pairs]
    sampled = [(item, pair) for item, pair in zip(items, pairs, strict=True) if pair.deviation and "reason" not in item]
    _calibrate(sampled)
    names = PLAIN + CALIBRATION if sampled else PLAIN
    counts = {f"{name}_items": len(_values(items, name)) for name in PLAIN}
    counts["psnr_identical"] = sum(item["identical"] for item in items)
    return {"items": items, "missing": missing, **{name: _mean(items, name) for name in names}, **counts}


def _find(reference: Path, output: str) -> Path | None:
    exact = reference / output
    candidates = (exact, *(exact.with_suffix(suffix) for suffix in SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _score(pair: Pair) -> dict[str, Any]:
    nothing = {"output": pair.output, "psnr": None, "ssim": None, "identical": False}
    try:
        restored, clean = _restored_and_clean(pair)
    except ItemError as error:
        return nothing | {"reason": str(error)}
    if restored.shape != clean.shape:
        sizes = [f"{w}×{h} with {c} channels" for c, h, w in (restored.shape, clean.shape)]
        return nothing | {"reason": f"is {sizes[0]}, the reference {sizes[1]}"}
    value = psnr(restored, clean)
    if math.isinf(value):
        return nothing | {"ssim": ssim(restored, clean), "identical": True}
    return nothing | {"psnr": value, "ssim": ssim(restored, clean)}


def _calibrate(sampled: Sequence[tuple[dict[str, Any], Pair]]) -> None:
    """Put the numbers of `CALIBRATION` into each item; the scaled ones only where another image can give a scale."""
    own = [calibration_scale(*_pictures(pair)) for _, pair in sampled]
    for i, (item, pair) in enumerate(sampled):
        image, deviation, truth = _pictures(pair)
        item["coverage_90"] = coverage(image, deviation, truth)
        item["uncertainty_ece"] = uncertainty_ece(image, deviation, truth)
        others = [scale**2 for scale in (*own[:i], *own[i + 1 :]) if scale is not None]
        if others:
            item["scale"] = scale = math.sqrt(sum(others) / len(others))
            item["coverage_90_scaled"] = coverage(image, deviation * scale, truth)
            item["uncertainty_ece_scaled"] = uncertainty_ece(image, deviation * scale, truth)


def _pictures(pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, deviation and truth, each [C, H, W] in [0, 1]. Raises ItemError for a map that cannot be read."""
    assert pair.deviation is not None
    restored, clean = _restored_and_clean(pair)
    return restored, read(pair.deviation).pixels, clean


def _restored_and_clean(pair: Pair) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures, [C, H, W] in [0, 1]. WebP has no gray: three channels for a gray reference are one again."""
    picture, truth = read(pair.image), read(pair.truth)
    restored, clean = in_range_of(picture, truth.source), truth.pixels
    is_gray = len(clean) == 1 and pair.image.suffix.lower() == ".webp"
    return restored.mean(0, keepdims=True) if is_gray else restored, clean


def _values(items: list[dict[str, Any]], name: str) -> list[float]:
    return [item[name] for item in items if item.get(name) is not None]


def _mean(items: list[dict[str, Any]], name: str) -> float | None:
    values = _values(items, name)
    return sum(values) / len(values) if values else None


def print_scores(scores: Scores, console: Console) -> None:
    """The scores as a table for a person."""
    amiss = any("reason" in item for item in scores["items"])
    table = Table("image", "PSNR dB", "SSIM", *["not measured"] * amiss)
    for item in scores["items"]:
        numbers = ("∞" if item["identical"] else _text(item["psnr"], 2), _text(item["ssim"], 4))
        table.add_row(_cell(item), *numbers, *[printable(item.get("reason", "")).replace("[", r"\[")] * amiss)
    table.add_row("mean", _psnr_of_all(scores), _ssim_of_all(scores), *[""] * amiss)
    console.print(table)
    if "coverage_90" in scores:
        console.print(_calibration([*scores["items"], {"output": "mean", **scores}]))
    for output in scores["missing"]:
        console.print(printable(f"no reference: {output}"), markup=False)


def _psnr_of_all(scores: Scores) -> str:
    """The mean, and how many images are not in it, for they equal their references."""
    mean, identical = _text(scores["psnr"], 2), f"{scores['psnr_identical']} identical"
    if not scores["psnr_identical"]:
        return mean if scores["psnr_items"] == len(scores["items"]) else _of(mean, scores["psnr_items"])
    return f"{_of(mean, scores['psnr_items'])}, and {identical}" if scores["psnr_items"] else identical


def _ssim_of_all(scores: Scores) -> str:
    mean = _text(scores["ssim"], 4)
    return mean if scores["ssim_items"] == len(scores["items"]) else _of(mean, scores["ssim_items"])


def _of(mean: str, items: int) -> str:
    return f"{mean} of {count(items, 'image')}"


def _calibration(rows: list[dict[str, Any]]) -> Table:
    """How far the deviations are borne out: the 90 % interval's share, and the calibration error in 8-bit units."""
    table = Table("deviation", "90 % covers", "error /255", "scale of the others", "then covers", "error /255")
    for item in rows:
        covers, error, scale, then_covers, then_error = (item.get(name) for name in CALIBRATION)
        before, after = (_percent(covers), _eight_bit(error)), (_percent(then_covers), _eight_bit(then_error))
        table.add_row(_cell(item), *before, _text(scale, 3), *after)
    return table


def _cell(item: dict[str, Any]) -> str:
    return printable(item["output"]).replace("[", r"\[")


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def _eight_bit(value: float | None) -> str:
    return _text(None if value is None else 255 * value, 2)


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def check(scores: Scores, fail_under: float) -> None:
    """Raises GateError where the mean PSNR is below ``fail_under`` dB, or was not measured.

    Pictures that equal their references have none, and pass.
    """
    measured = [item["psnr"] for item in scores["items"] if "reason" not in item]
    if measured and not any(psnr is not None for psnr in measured):
        return
    if scores["psnr"] is None or scores["psnr"] < fail_under:
        raise GateError(f"--fail-under {fail_under:g}: the mean PSNR is {_text(scores['psnr'], 2)} dB")
