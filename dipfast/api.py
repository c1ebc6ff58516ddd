"""What Python callers get: `restore` one image, `run` a manifest, `load` a generator."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipfast import generators
from dipfast.batch.ledger import RunFolder
from dipfast.batch.restore import describe, observe
from dipfast.batch.restore import restore as restore_observation
from dipfast.batch.run import Resume, RunResult
from dipfast.batch.run import run as run_manifest
from dipfast.errors import UsageError
from dipfast.image import Image, Limits, from_array, read, to_array
from dipfast.manifest import Manifest, content_id, settings_from
from dipfast.manifest import load as load_manifest
from dipfast.render import FittedGenerator, load
from dipfast.report import write_report, write_summary

__all__ = ["FittedGenerator", "RestoreResult", "load", "restore", "run"]

Picture = np.ndarray | str | os.PathLike[str]


@dataclass(frozen=True)
class RestoreResult:
    """``image`` has the dtype and shape of the array that was given (for superres: enlarged)."""

    image: np.ndarray
    record: dict[str, Any]
    generator: FittedGenerator


def restore(
    image: Picture,
    task: str | Mapping[str, Any] = "denoise",
    *,
    preset: str = "balanced",
    sigma: float | str | None = None,
    scale: int | None = None,
    mask: Picture | None = None,
    generator: Mapping[str, Any] | None = None,
    progress: Callable[[int, float], None] | None = None,
    **fit: Any,
) -> RestoreResult:
    """Restore one image in this process.

    ``image``: [H, W] or [H, W, C], uint8, uint16 or float in [0, 1], or a path. ``task``: its type, or the
    manifest's mapping. ``sigma`` (8-bit units, denoise), ``scale`` (superres) and ``mask`` ([H, W], inpaint) are
    short for the task's keys. ``generator`` and ``fit`` take the keys of the manifest's sections (``steps``,
    ``seed``, ``engine``, ``precision``, ``device``, ``average``, ``stop`` …).

    Raises UsageError for a wrong argument, ItemError for an image that cannot be done, MachineError for a device,
    engine or precision that is not here.
    """
    start = time.perf_counter()
    asked = _task(task, sigma, scale, mask)
    overrides = {"fit": fit, **({} if generator is None else {"generator": dict(generator)})}
    settings = settings_from(asked, preset, overrides, place="restore()")
    if asked["type"] == "inpaint" and mask is None:
        raise UsageError("restore(): mask should be given for task inpaint")
    source = _image(image)
    plain = settings.model_dump(mode="json")
    observation = observe(plain, source, None if mask is None else _image(mask), None)
    digest = hashlib.sha256(repr(source.pixels.shape).encode() + source.pixels.tobytes()).hexdigest()
    extra = {} if mask is None else {"mask": hashlib.sha256(_image(mask).pixels.tobytes()).hexdigest()}
    id = content_id(digest, settings, extra)
    restored = restore_observation(plain, observation, "auto", id, progress)
    seconds = restored.fit.seconds | {"total": time.perf_counter() - start}
    return RestoreResult(
        image=to_array(restored.pixels, image if isinstance(image, np.ndarray) else restored.source),
        record=describe(id, plain, source, observation, restored, seconds),
        generator=FittedGenerator(*generators.from_bytes(restored.generator)),
    )


def _task(
    task: str | Mapping[str, Any], sigma: float | str | None, scale: int | None, mask: Picture | None
) -> dict[str, Any]:
    tree: dict[str, Any] = {"type": task} if isinstance(task, str) else dict(task)
    if sigma is not None:
        if tree.get("type", "denoise") != "denoise":
            raise UsageError(f"restore(): sigma belongs to task denoise, not {tree['type']}")
        value = float(sigma) if isinstance(sigma, int | float) else sigma
        tree["noise"] = {"type": "gaussian"} | dict(tree.get("noise", {})) | {"sigma": value}
    if scale is not None:
        tree["scale"] = scale
    if mask is not None:
        if tree.get("type") != "inpaint":
            raise UsageError(f"restore(): mask belongs to task inpaint, not {tree.get('type', 'denoise')}")
        tree["mask"] = "given" if isinstance(mask, np.ndarray) else os.fspath(mask)
    return tree


def _image(picture: Picture) -> Image:
    return from_array(picture) if isinstance(picture, np.ndarray) else read(picture, Limits())


def run(
    source: str | os.PathLike[str] | Manifest,
    output: str | os.PathLike[str] | None = None,
    *,
    devices: str = "auto",
    workers: int | None = None,
    resume: Resume = "auto",
    max_failures: int | None = None,
    sets: tuple[str, ...] = (),
    on_event: Callable[[dict[str, Any]], None] = lambda event: None,
) -> RunResult:
    """Run a manifest, folder, glob or one image into the folder ``output``, and write its summary and report.

    ``output`` wins over the manifest's own; without either it is `runs/<name of the source>`. The same call again
    does only what is not done. Workers are spawned processes: in a script, call this under
    ``if __name__ == "__main__":``.

    Raises ManifestError, UsageError, NothingMatchedError, MachineError; a failed item is a row of the result.
    """
    manifest = source if isinstance(source, Manifest) else load_manifest(os.fspath(source), sets=sets)
    folder = RunFolder(output_folder(manifest, output))
    result = run_manifest(
        manifest,
        folder,
        devices=devices,
        workers=workers,
        resume=resume,
        max_failures=max_failures,
        on_event=on_event,
    )
    summary = write_summary(folder, result.rows, result.seconds, already_done=result.already_done)
    write_report(folder, result.rows, summary, html=manifest.report.html)
    return result


def output_folder(manifest: Manifest, output: str | os.PathLike[str] | None) -> Path:
    """Where a run of ``manifest`` goes: ``output``, its own, or `runs/<name>`."""
    if output is not None:
        return Path(output)
    if manifest.output is not None:
        return Path(manifest.output)
    name = Path(manifest.source.rstrip("/*?")).stem or "run"
    return Path("runs") / name
