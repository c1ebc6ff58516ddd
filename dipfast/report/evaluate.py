"""A run's images against true ones that the run never saw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from dipfast.batch.ledger import RunFolder
from dipfast.batch.run import rows_of
from dipfast.errors import GateError, ItemError, NothingMatchedError, UsageError
from dipfast.image import read
from dipfast.metrics import psnr, ssim

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".webp", ".avif")
Scores = dict[str, Any]  # items: a list; psnr and ssim: means; missing: outputs without a reference


def evaluate(folder: RunFolder, reference: Path) -> Scores:
    """PSNR and SSIM of every image done, against the file of the same relative name under ``reference``.

    The suffix may differ. Raises UsageError where ``reference`` is no folder, NothingMatchedError where no image
    has a reference.
    """
    if not reference.is_dir():
        raise UsageError(f"--reference {reference}: should be a folder")
    items, missing = [], []
    for row in rows_of(folder):
        if row.status != "done":
            continue
        truth = _find(reference, row.output)
        if truth is None:
            missing.append(row.output)
        else:
            items.append(_score(folder.images / row.output, truth, row.output))
    if not items:
        raise NothingMatchedError(f"--reference {reference}: has no image of the same name as any of {folder.root}")
    return {"items": items, "missing": missing, "psnr": _mean(items, "psnr"), "ssim": _mean(items, "ssim")}


def _find(reference: Path, output: str) -> Path | None:
    exact = reference / output
    candidates = (exact, *(exact.with_suffix(suffix) for suffix in SUFFIXES))
    return next((path for path in candidates if path.is_file()), None)


def _score(image: Path, truth: Path, output: str) -> dict[str, Any]:
    try:
        restored, clean = read(image).pixels, read(truth).pixels
    except ItemError as error:
        return {"output": output, "psnr": None, "ssim": None, "reason": str(error)}
    if restored.shape != clean.shape:
        sizes = [f"{w}×{h} with {c} channels" for c, h, w in (restored.shape, clean.shape)]
        return {
            "output": output,
            "psnr": None,
            "ssim": None,
            "reason": f"is {sizes[0]}, the reference {sizes[1]}",
        }
    value = psnr(restored, clean)
    return {"output": output, "psnr": value if math.isfinite(value) else None, "ssim": ssim(restored, clean)}


def _mean(items: list[dict[str, Any]], name: str) -> float | None:
    values = [item[name] for item in items if item[name] is not None]
    return sum(values) / len(values) if values else None


def print_scores(scores: Scores, console: Console) -> None:
    """The scores as a table for a person."""
    table = Table("image", "PSNR dB", "SSIM", "")
    for item in [*scores["items"], {"output": "mean", **scores}]:
        numbers = (_text(item["psnr"], 2), _text(item["ssim"], 4))
        table.add_row(item["output"].replace("[", r"\["), *numbers, item.get("reason", ""))
    console.print(table)
    for output in scores["missing"]:
        console.print(f"no reference: {output}", markup=False)


def _text(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def check(scores: Scores, fail_under: float) -> None:
    """Raises GateError where the mean PSNR is below ``fail_under`` dB, or was not measured."""
    if scores["psnr"] is None or scores["psnr"] < fail_under:
        raise GateError(f"--fail-under {fail_under:g}: the mean PSNR is {_text(scores['psnr'], 2)} dB")
