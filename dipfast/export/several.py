"""Exports of many generators: each proved by itself, and those that fail named together at the end."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dipfast.errors import GateError, MachineError
from dipfast.export.engine_build import Say
from dipfast.export.providers import runtime
from dipfast.export.save import Report, export_onnx, export_tensorrt, report_path
from dipfast.export.targets import Target, targets
from dipfast.export.tensorrt import TensorRTRenderer


def ready(formats: Sequence[str], precision: str, say: Say = lambda line: None) -> TensorRTRenderer | None:
    """What builds engines, where they are asked for, and tells ``say`` of it.

    Raises MachineError for what cannot be exported here.
    """
    if precision == "bf16":
        raise MachineError("export.precision is bf16, which onnxruntime cannot prove on the CPU; use fp16 or fp32")
    if "onnx" in formats:
        runtime("cpu")
    return TensorRTRenderer(precision, say=say) if "tensorrt" in formats else None


def export(
    found: Sequence[Target],
    formats: Sequence[str],
    *,
    precision: str = "fp32",
    min_psnr: float | None = None,
    bake_latent: bool = False,
    output: Path | None = None,
    say: Say = lambda line: None,
) -> tuple[list[Report], list[str]]:
    """The reports of what was written, and a line for each generator that missed its gate."""
    engines = ready(formats, precision, say)
    reports, missed = [], []
    for one in found:
        folder = output or one.folder
        try:
            if "onnx" in formats:
                options: dict[str, Any] = {"precision": precision, "bake_latent": bake_latent, "record": one.record}
                reports.append(export_onnx(one.generator, folder, min_psnr=min_psnr, **options))
            if engines is not None:
                reports.append(export_tensorrt(one.generator, folder, engines, min_psnr=min_psnr))
        except GateError as error:
            missed.append(str(error))
    return reports, missed


def export_run(root: Path, formats: Sequence[str], precision: str, min_psnr: float) -> list[Report]:
    """Export what the run in ``root`` has done and not exported yet. Raises GateError, once all others are written."""
    todo = [one for one in targets(root) if "tensorrt" in formats or not _exported(one, precision, min_psnr)]
    reports, missed = export(todo, formats, precision=precision, min_psnr=min_psnr)
    if missed:
        raise GateError("\n".join(missed))
    return reports


def _exported(one: Target, precision: str, min_psnr: float) -> bool:
    """Whether the model of this very generator is there, whole, and good enough."""
    model = one.folder / f"{one.generator.stem}{'' if precision == 'fp32' else '.' + precision}.onnx"
    try:
        report = json.loads(report_path(model).read_bytes())
        good = report["psnr_db"] is None or report["psnr_db"] >= min_psnr
        whole = report["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert one.record is not None
        return bool(good and whole and report["generator_sha256"] == one.record["generator"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
