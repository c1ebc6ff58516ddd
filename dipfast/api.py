"""What Python callers get: `restore` one image, `run` a manifest, `load` a generator."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from dipfast import generators
from dipfast.batch.choose import choose_task
from dipfast.batch.run import RunResult
from dipfast.batch.run import run as run_manifest
from dipfast.errors import UsageError
from dipfast.fit import Hooks
from dipfast.image import Image, Limits, from_array, read, to_array
from dipfast.manifest import Manifest, Settings, content_id, files_beside, settings_from, title
from dipfast.manifest import load as load_manifest
from dipfast.remote import checked, is_remote
from dipfast.render.generator import FittedGenerator, load
from dipfast.report import current_summary, note_current, write_report, write_summary
from dipfast.restoration.describe import describe
from dipfast.restoration.line import observe
from dipfast.restoration.line import restore as restore_observation
from dipfast.samples import locate
from dipfast.settings.rules import doubts
from dipfast.settings.task import ALPHA, Denoise, Inpaint
from dipfast.store.folder import RunFolder, Shard
from dipfast.store.lock import reporting, writing
from dipfast.store.mirror import mark, publish
from dipfast.store.rows import rows_of
from dipfast.workers.options import Executor, Resume, RunOptions

__all__ = ["FittedGenerator", "RestoreResult", "load", "restore", "run"]

Picture = np.ndarray | str | os.PathLike[str]
GIVEN = "array.png"  # stands in settings for a picture that came without a file


@dataclass(frozen=True)
class RestoreResult:
    """``image`` has the dtype and shape of the array that was given (for superres: enlarged).

    ``uncertainty``: its predicted standard deviation, [H, W] or [H, W, C] float32 where white is 1; for refined
    pictures, and for fits of several seeds or that sample a posterior, else None.
    """

    image: np.ndarray
    record: dict[str, Any]
    generator: FittedGenerator
    uncertainty: np.ndarray | None = None


def restore(
    image: Picture,
    task: str | Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
    sigma: float | str | None = None,
    scale: int | None = None,
    mask: Picture | None = None,
    reference: Picture | None = None,
    strength: float | None = None,
    generator: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
    **fit: Any,
) -> RestoreResult:
    """Restore one image in this process.

    ``image``: [H, W] or [H, W, C], uint8, uint16 or float in [0, 1], or a path. ``task``: its type, or the
    manifest's mapping; denoise unless given; auto: as a file tells. ``sigma`` (8-bit units, denoise), ``scale``
    (superres) and ``mask`` ([H, W], also bool, or "alpha", the picture's own; inpaint) are short for the task's keys.
    ``reference``: the true image, in the form of ``image``, for `record["metrics"]` only. ``strength``: share of the
    change that is applied, 0 to 1; 0 returns the image as it came, not for superres. ``generator`` and ``fit`` take
    the keys of the manifest's sections (``steps``, ``seed``, ``engine``, ``precision``, ``device``, ``average``,
    ``stop`` …), and ``preset`` its names.

    Raises UsageError for a wrong argument, ItemError for an image that cannot be done, MachineError for a device,
    engine or precision that is not here.
    """
    start = time.perf_counter()
    named: dict[str, Any] = {"generator": generator, "scale": scale, "sigma": sigma, "strength": strength}
    named |= {"mask": _name(mask), "reference": _name(reference)}
    given = fit | {name: value for name, value in named.items() if value is not None}
    if task == "auto" and _is_file(image):
        task = _chosen(os.fspath(image), preset, given)
    settings = settings_from(task, preset, given, place="restore()")
    for text in doubts(settings):
        warnings.warn(f"restore(): {text}", stacklevel=2)
    source, hole, truth = _pictures(settings, image, mask, reference)
    observation = observe(settings, source, hole, truth)
    id = content_id(_digest(source), settings, {} if hole is None else {"mask": _digest(hole)})
    restored = restore_observation(settings, observation, "auto", id, Hooks(progress))
    seconds = restored.seconds | {"total": time.perf_counter() - start}
    return RestoreResult(
        image=to_array(restored.pixels, image if isinstance(image, np.ndarray) else restored.source),
        record=describe(id, settings, source, observation, restored, seconds).to_json(),
        generator=FittedGenerator(*generators.from_bytes(restored.generator)),
        uncertainty=_uncertainty(restored.deviation, image),
    )


def _chosen(image: str, preset: str | None, given: Mapping[str, Any]) -> str | Mapping[str, Any]:
    """The task of a file for which ``given`` says nothing of one."""
    settings = settings_from("auto", preset, given, place="restore()")
    return "auto" if settings.task != Denoise() else choose_task(image, settings.input).task


def _uncertainty(deviation: np.ndarray | None, image: Picture) -> np.ndarray | None:
    if deviation is None:
        return None
    flat = len(deviation) == 1 and not (isinstance(image, np.ndarray) and image.ndim == 3)
    return deviation[0] if flat else np.ascontiguousarray(np.moveaxis(deviation, 0, -1))


def _name(picture: Picture | None) -> str | None:
    """A mask or reference as the manifest would name it: braces are not placeholders, an array has no name."""
    if picture is None:
        return None
    return os.fspath(picture).replace("{", "{{").replace("}", "}}") if _is_file(picture) else GIVEN


def _is_file(picture: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(picture, str | os.PathLike)


def _pictures(
    settings: Settings, image: Picture, mask: Picture | None, reference: Picture | None
) -> tuple[Image, Image | None, Image | None]:
    """The image, its mask and its reference, from arrays or from the files that ``settings`` name."""
    mask_file, reference_file = files_beside(os.fspath(image) if _is_file(image) else GIVEN, settings)
    if isinstance(settings.task, Inpaint) and settings.task.mask == ALPHA:
        mask = None
    elif mask is None or _is_file(mask):
        mask = mask_file
    reference = reference_file if reference is None or _is_file(reference) else reference
    if isinstance(settings.task, Inpaint) and settings.task.mask is None and mask is None and settings.degrade is None:
        raise UsageError("restore(): mask should be given for task inpaint")
    limits = Limits(**dict(settings.input))
    return (
        _read("image", image, limits),
        None if mask is None else _read("mask", _in_bytes(mask), limits),
        None if reference is None else _read("reference", reference, limits),
    )


def _in_bytes(mask: Picture) -> Picture:
    """A mask of truth values or of wide integers, as numpy and scikit-image make them, as one of bytes."""
    if isinstance(mask, np.ndarray) and mask.dtype == bool:
        return mask.astype(np.uint8) * 255
    if isinstance(mask, np.ndarray) and mask.dtype.kind in "iu" and mask.size and 0 <= mask.min() <= mask.max() <= 255:
        return mask.astype(np.uint8)
    return mask


def _read(name: str, picture: Picture, limits: Limits) -> Image:
    if isinstance(picture, str | os.PathLike):
        return read(locate(os.fspath(picture)), limits)
    try:
        return from_array(picture)
    except UsageError as error:
        raise UsageError(f"restore(): {name}: {error}") from None


def _digest(image: Image) -> str:
    return hashlib.sha256(repr(image.pixels.shape).encode() + image.pixels.tobytes()).hexdigest()


def run(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Manifest,
    output: str | os.PathLike[str] | None = None,
    *,
    devices: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    cohort: int | None = None,
    resume: Resume = "auto",
    max_failures: int | None = None,
    sets: tuple[str, ...] = (),
    shard: Shard | None = None,
    executor: Executor = "local",
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
    export: bool = True,
) -> RunResult:
    """Run a manifest, folder, glob or one image into the folder ``output``, and write its summary and report.

    A list of folders, globs and images is one run.

    ``output`` wins over the manifest's own; without either it is a folder in `runs` named after the source. Where it
    is an address (``s3://…``), what is done is uploaded there from a folder in `runs`. The same
    call again does only what is not done; ``shard`` (I, N) is part I of N of the items; shards may share a folder.
    Each worker computes with ``threads``, by default as many as OMP_NUM_THREADS says. ``cohort`` pictures of one size
    are fitted side by side on a device, by default as many as seem to pay. ``executor`` ray has Ray actors for workers,
    of the cluster at RAY_ADDRESS or of a local one. By default they are spawned processes: in a script, call this under
    ``if __name__ == "__main__":``.

    Last come the models that the manifest's `export` section asks for, unless ``export`` is False.

    Raises ManifestError, UsageError, NothingMatchedError, MachineError; a failed item is a row of the result. Raises
    GateError for models that miss `export.min_psnr`, with everything else written.
    """
    options = RunOptions(devices, workers, threads, cohort, resume, max_failures, shard, executor)
    manifest = source if isinstance(source, Manifest) else load_manifest(source, sets=sets, choose=choose_task)
    return run_and_report(manifest, output, options, on_event, export=export)


def run_and_report(
    manifest: Manifest,
    output: str | os.PathLike[str] | None,
    options: RunOptions,
    on_event: Callable[[dict[str, Any]], None],
    *,
    export: bool,
) -> RunResult:
    """Do what `run` does, of a manifest that is loaded."""
    folder = run_folder(manifest, output)
    for text in manifest.doubts():
        on_event({"event": "warning", "reason": text})
    if manifest.left_out:
        on_event({"event": "warning", "reason": f"left out: {manifest.left_out}"})
    result = run_manifest(manifest, folder, options, on_event)
    with writing(folder), reporting(folder):
        result = replace(result, summary=_reported(manifest, result, options.shard))
    publish(folder)
    if export:
        write_models(manifest, result)
    return result


def _reported(manifest: Manifest, result: RunResult, shard: Shard | None) -> dict[str, Any]:
    """The summary, written with the report. A run that found nothing to do leaves both as they are, where they hold."""
    folder, html = result.folder, manifest.report.html
    if result.idle and (known := current_summary(folder, html)) is not None:
        before = result.already_done + known["items"] - len(result.rows)
        return known | {"already_done": before, "wall_seconds": round(result.seconds, 4), "images_per_hour": 0.0}
    rows = result.rows if shard is None and result.alone else rows_of(folder)
    before = result.already_done + len(rows) - len(result.rows)
    summary = write_summary(folder, rows, result.seconds, already_done=before)
    write_report(folder, rows, summary, html=html)
    note_current(folder)
    return summary


def write_models(manifest: Manifest, result: RunResult, say: Callable[[str], None] = lambda line: None) -> int:
    """Export what a run has done, as its manifest asks. Returns how many models were written.

    ``say`` hears what they are of. Raises GateError, and UsageError where a denoiser is asked for and there is none.
    """
    asked = manifest.export
    if not asked.formats or not any(row.status == "done" for row in result.rows):
        return 0
    from dipfast.export.save import export_run

    written = len(export_run(result.folder.root, asked, say))
    publish(result.folder)
    return written


def output_folder(manifest: Manifest, output: str | os.PathLike[str] | None) -> Path:
    """Where a run of ``manifest`` goes: ``output``, its own, or a folder in `runs` that is named after the source.

    Of an address, too, it is a folder in `runs`: the run is here, and its results go there as well. Raises as
    `run_folder`.
    """
    named = _destination(manifest, output)
    if named is None or is_remote(named):
        return Path("runs", title((manifest.folder or manifest.source) if named is None else named))
    return Path(named)


def run_folder(manifest: Manifest, output: str | os.PathLike[str] | None) -> RunFolder:
    """The folder of a run, which knows where its results go. Raises UsageError, and MachineError for a protocol."""
    folder = RunFolder(output_folder(manifest, output))
    named = _destination(manifest, output)
    if named is not None and is_remote(named):
        with writing(folder):
            mark(folder, checked(named))
    return folder


def _destination(manifest: Manifest, output: str | os.PathLike[str] | None) -> str | None:
    """The folder or address that a run goes to, where one is named. Raises UsageError for one that may not be used."""
    named = manifest.output if output is None else os.fspath(output)
    if named == "":
        raise UsageError("output: should be a folder or an address, is ''")
    if named is not None and is_remote(named):
        try:
            checked(named)
        except UsageError as error:
            raise UsageError(f"output: {error}") from None
    return named
