"""Exports: a generator's file to a model's file, proved on the way; nothing is left where the proof fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from dipfast.errors import DipfastError, GateError, MachineError, UsageError
from dipfast.export import parity
from dipfast.export.engine import Say, StoredEngine, beside, pack
from dipfast.export.kind import Kind, in_words, kind_of
from dipfast.export.onnx import metadata, to_onnx, verified
from dipfast.export.providers import Session, runtime
from dipfast.export.targets import Target, targets
from dipfast.export.tensorrt import TensorRTRenderer
from dipfast.files import sha256_of, write_atomic
from dipfast.generators import Card, from_file
from dipfast.generators.frozen import render
from dipfast.record import now
from dipfast.settings.choices import MIN_PSNR_TO_PICTURE, ExportOf
from dipfast.settings.document import Export
from dipfast.store.folder import dumps
from dipfast.tasks.range import Range

Report = dict[str, Any]


@dataclass(frozen=True)
class Gates:
    """What a model must be."""

    min_psnr: float | None = None  # dB of its picture to that of PyTorch; None: 50
    of: ExportOf = "auto"
    min_psnr_to_picture: float = MIN_PSNR_TO_PICTURE  # dB of its picture to the kept one, for it to be of that

    @property
    def asked(self) -> dict[str, Any]:
        """Return what the parity report says of what a model was to be of."""
        return {"of_asked": self.of, "min_psnr_to_picture": self.min_psnr_to_picture}


ANY = Gates()


def export_onnx(
    generator: Path,
    folder: Path,
    *,
    precision: str = "fp32",
    gates: Gates = ANY,
    bake_latent: bool = False,
    record: Mapping[str, Any] | None = None,
) -> Report:
    """Write `<id>.onnx` (fp32) or `<id>.<precision>.onnx` into ``folder``, and its parity report beside it.

    The model is run by onnxruntime and held against the generator in PyTorch in float32. Raises GateError where they
    differ by more than the gate allows (50 dB, and never less than 80 in fp32), or where it is to be of the kept
    picture and is not known to be, and then no such file is there; UsageError for a file that is no generator and for
    a denoiser that is none, MachineError without onnxruntime and for bf16.
    """
    module, latent, card = from_file(generator)
    path = folder / f"{card.id or generator.stem}{'' if precision == 'fp32' else '.' + precision}.onnx"
    kind = _kind(generator, card, record, gates, path)
    fit = None if record is None else record["settings"]["fit"]
    state = module.state_dict()
    model = to_onnx(state, latent, card, precision=precision, bake_latent=bake_latent, fit=fit, kind=kind)
    data = model.SerializeToString()
    session = Session(data)
    reference = card.output(module, latent, torch.float32).numpy()
    if card.frozen and not bake_latent:
        picture = denoised(session, card, Range.of(module.low, module.width).to_full(latent))
    else:
        picture = session.render()
    found = parity.agreement(picture, reference)
    least = parity.required(precision, gates.min_psnr)
    _gate(found, least, path)
    report = {
        "id": card.id,
        "model": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "precision": precision,
        "opset": metadata(model)["opset"],
        "operators": sorted({node.op_type for node in model.graph.node}),
        **kind.to_json(),
        **gates.asked,
        "provider": session.provider,
        "generator_sha256": sha256_of(generator),
        "baked_latent": bake_latent,
        "against": "the generator in PyTorch, float32",
        **found,
        "min_psnr": least,
        "versions": metadata(model)["versions"] | {"onnxruntime": _onnxruntime_version()},
        "finished": now(),
    }
    write_atomic(path, data)
    write_atomic(report_path(path), dumps(report))
    return report | {"path": str(path)}


def denoised(session: Session, card: Card, picture: Tensor) -> np.ndarray:  # [1, C, H, W] -> the same
    """Return what a denoiser's model gives of ``picture``, tile by tile; sides are multiples of the coarsest pixel."""
    found = render(lambda part: torch.from_numpy(session.render(part.numpy())), card.architecture, picture)
    array: np.ndarray = found.numpy()
    return array


def export_tensorrt(
    generator: Path,
    folder: Path,
    backend: TensorRTRenderer,
    *,
    gates: Gates = ANY,
    record: Mapping[str, Any] | None = None,
) -> Report:
    """Write `<id>.<precision>.engine`, refitted with the generator's weights, and its parity report.

    Its input `latent` has no default: that lies beside it (`dipfast.export.engine`). It runs on this GPU and
    TensorRT only, and at one size. Raises as `export_onnx` does.
    """
    module, latent, card = from_file(generator)
    path = folder / f"{card.id or generator.stem}.{backend.precision}.engine"
    kind = _kind(generator, card, record, gates, path)
    one = backend.fold(module.state_dict(), latent, card)
    data, found = backend.plan(one)
    least = parity.required(backend.precision, gates.min_psnr)
    _gate(found, least, path)
    report = {
        "id": card.id,
        "model": path.name,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "precision": backend.precision,
        **kind.to_json(),
        **gates.asked,
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
    with _leaving_nothing(path):
        parity.check(dict(found), least, path.name)


def _kind(generator: Path, card: Card, record: Mapping[str, Any] | None, gates: Gates, path: Path) -> Kind:
    """Return what the model is of; where it misses the gate, remove what an earlier export left."""
    with _leaving_nothing(path):
        return kind_of(card, record, sha256_of(generator), gates.of, gates.min_psnr_to_picture, path.name)


@contextmanager
def _leaving_nothing(path: Path) -> Iterator[None]:
    """Remove the model at ``path`` and what belongs to it where a gate is missed."""
    try:
        yield
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
    gates: Gates = ANY,
    bake_latent: bool = False,
    output: Path | None = None,
    say: Say = lambda line: None,
) -> tuple[list[Report], DipfastError | None]:
    """Export each generator; return the reports, and what to raise where some could not be: a line for each.

    ``say`` hears of builds, and in one line of what the models are of.
    """
    engines = ready(formats, precision, say)
    reports: list[Report] = []
    missed: list[DipfastError] = []
    for one in found:
        folder = output or one.folder
        try:
            if "onnx" in formats:
                options: dict[str, Any] = {"precision": precision, "bake_latent": bake_latent, "record": one.record}
                reports.append(export_onnx(one.generator, folder, gates=gates, **options))
            if engines is not None:
                reports.append(export_tensorrt(one.generator, folder, engines, gates=gates, record=one.record))
        except (GateError, UsageError) as error:
            missed.append(error)
    if reports:
        say(in_words(reports))
    return reports, _joined(missed)


def _joined(missed: Sequence[DipfastError]) -> DipfastError | None:
    """Return one error with all lines: of a gate, where there is one among them."""
    if not missed:
        return None
    kind = GateError if any(isinstance(error, GateError) for error in missed) else UsageError
    return kind("\n".join(map(str, missed)))


def export_run(root: Path, asked: Export, say: Say = lambda line: None) -> list[Report]:
    """Export what the run in ``root`` has done and not exported yet, as the manifest's section asks.

    Raises GateError and UsageError, once all others are written.
    """
    gates = Gates(asked.min_psnr, asked.of, asked.min_psnr_to_picture)
    todo = [one for one in targets(root) if "tensorrt" in asked.formats or not _exported(one, asked.precision, gates)]
    reports, missed = export(todo, asked.formats, precision=asked.precision, gates=gates, say=say)
    if missed is not None:
        raise missed
    return reports


def _exported(one: Target, precision: str, gates: Gates) -> bool:
    """Return whether the model of this very generator is there, whole, and good enough."""
    model = one.folder / f"{one.generator.stem}{'' if precision == 'fp32' else '.' + precision}.onnx"
    try:
        report = json.loads(report_path(model).read_bytes())
        good = report["psnr_db"] is None or report["psnr_db"] >= parity.required(precision, gates.min_psnr)
        good = good and gates.asked.items() <= report.items()
        whole = report["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert one.record is not None
        return bool(good and whole and report["generator_sha256"] == one.record["generator"]["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
