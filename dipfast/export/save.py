"""Exports: a generator's file to a model's file, proved on the way; nothing is left where the proof fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from dipfast.errors import GateError, MachineError, UsageError
from dipfast.export import parity
from dipfast.export.engine import Say, StoredEngine, beside, pack
from dipfast.export.onnx import metadata, to_onnx, verified
from dipfast.export.providers import Session, runtime
from dipfast.export.targets import Target, targets
from dipfast.export.tensorrt import TensorRTRenderer
from dipfast.files import sha256_of, write_atomic
from dipfast.generators import from_file
from dipfast.record import now
from dipfast.store.folder import dumps

Report = dict[str, Any]


def export_onnx(
    generator: Path,
    folder: Path,
    *,
    precision: str = "fp32",
    min_psnr: float | None = None,
    bake_latent: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Report:
    """Write `<id>.onnx` (fp32) or `<id>.<precision>.onnx` into ``folder``, and its parity report beside it.

    The model is run by onnxruntime and held against the generator in PyTorch in float32. Raises GateError where they
    differ by more than ``min_psnr`` dB allows (50, and never less than 80 in fp32), and then no such file is there;
    UsageError for a file that is no generator, MachineError without onnxruntime and for bf16.
    """
    module, latent, card = from_file(generator)
    fit = None if record is None else record["settings"]["fit"]
    model = to_onnx(module.state_dict(), latent, card, precision=precision, bake_latent=bake_latent, fit=fit)
    data = model.SerializeToString()
    session = Session(data)
    reference = card.output(module, latent, torch.float32).numpy()
    found = parity.agreement(session.render(), reference)
    name = card.id or generator.stem
    path = folder / f"{name}{'' if precision == 'fp32' else '.' + precision}.onnx"
    least = parity.required(precision, min_psnr)
    _gate(found, least, path)
    report = {
        "id": card.id,
        "model": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "precision": precision,
        "opset": metadata(model)["opset"],
        "operators": sorted({node.op_type for node in model.graph.node}),
        "of": card.shows,
        "provider": session.provider,
        "generator_sha256": sha256_of(generator),
        "baked_latent": bake_latent,
        "against": "the generator in PyTorch, float32",
        **found,
        "min_psnr": least,
        "kept_picture_db": ((record or {}).get("generator") or {}).get("parity_db"),
        "versions": metadata(model)["versions"] | {"onnxruntime": _onnxruntime_version()},
        "finished": now(),
    }
    write_atomic(path, data)
    write_atomic(report_path(path), dumps(report))
    return report | {"path": str(path)}


def export_tensorrt(
    generator: Path, folder: Path, backend: TensorRTRenderer, *, min_psnr: float | None = None
) -> Report:
    """Write `<id>.<precision>.engine`, refitted with the generator's weights, and its parity report.

    Its input `latent` has no default: that lies beside it (`dipfast.export.engine`). It runs on this GPU and
    TensorRT only. Raises as `export_onnx` does.
    """
    module, latent, card = from_file(generator)
    one = backend.fold(module.state_dict(), latent, card)
    data, found = backend.plan(one)
    path = folder / f"{card.id or generator.stem}.{backend.precision}.engine"
    least = parity.required(backend.precision, min_psnr)
    _gate(found, least, path)
    report = {
        "id": card.id,
        "model": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "precision": backend.precision,
        "of": card.shows,
        "provider": "TensorRT",
        "latent": beside(path).name,
        "ran": backend.ran,
        "against": "the folded generator in PyTorch, float32",
        **found,
        "min_psnr": least,
        "finished": now(),
    }
    write_atomic(beside(path), pack(StoredEngine(data, latent, card, backend.key(one))))
    write_atomic(path, data)
    write_atomic(report_path(path), dumps(report))
    return report | {"path": str(path)}


def _gate(found: Mapping[str, Any], least: float, path: Path) -> None:
    """Raise GateError where ``found`` misses the gate, and remove what an earlier export left."""
    try:
        parity.check(dict(found), least, path.name)
    except GateError:
        for stale in (path, report_path(path), beside(path)):
            stale.unlink(missing_ok=True)
        raise


def report_path(model: Path) -> Path:
    """Return where the parity report of a model lies."""
    return model.with_name(f"{model.name.removesuffix('.onnx')}.parity.json")


def load_model(path: Path) -> tuple[onnx.ModelProto, dict[str, Any], bytes]:
    """Load a model that `export_onnx` wrote: itself, its metadata, its bytes.

    Raises UsageError with the reason for one that was changed: by its own digest and, where its parity report lies
    beside it, by the hash in that.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    model, about = verified(data, str(path))
    try:
        proved = json.loads(report_path(path).read_bytes())
    except FileNotFoundError:
        return model, about, data
    except (OSError, ValueError) as error:
        raise UsageError(f"{report_path(path)}: cannot be read ({error})") from None
    if not isinstance(proved, dict) or proved.get("sha256") != hashlib.sha256(data).hexdigest():
        raise UsageError(f"{path}: refused, it is not the file that its parity report proved")
    return model, about, data


def _onnxruntime_version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def ready(formats: Sequence[str], precision: str, say: Say = lambda line: None) -> TensorRTRenderer | None:
    """Return what builds engines, where they are asked for, and tells ``say`` of it.

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
    """Export each generator; return the reports, and a line for each generator that missed its gate."""
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
    """Return whether the model of this very generator is there, whole, and good enough."""
    model = one.folder / f"{one.generator.stem}{'' if precision == 'fp32' else '.' + precision}.onnx"
    try:
        report = json.loads(report_path(model).read_bytes())
        good = report["psnr_db"] is None or report["psnr_db"] >= min_psnr
        whole = report["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert one.record is not None
        return bool(good and whole and report["generator_sha256"] == one.record["generator"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
