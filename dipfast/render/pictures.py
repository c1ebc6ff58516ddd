"""Stored generators and models → image files: in the depth, profile and size of what the run restored.

A generator of a run gives the restored image: what is known of its pixels put back, the source's metadata with it. A
lone generator or model knows no source, and gives a PNG of 8 bits. Loading, rendering and writing of several overlap.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipfast.errors import UsageError
from dipfast.export.targets import Target, inside
from dipfast.files import write_atomic
from dipfast.image import Image, Source, encode, format_of, read
from dipfast.metrics import psnr
from dipfast.render.generator import FittedGenerator, OnnxRenderer, Renderer, as_fitted, kept, load
from dipfast.render.origin import origin, settings_of
from dipfast.restoration.strength import with_strength

AHEAD = 2  # generators loaded before they are rendered


@dataclass(frozen=True)
class Rendered:
    """One picture written, and what it cost."""

    id: str
    path: Path
    ms: float  # of the render alone
    kept_db: float | None  # PSNR to the picture that the run kept, where there is one; None too where it is equal

    def as_json(self) -> dict[str, Any]:
        return {"id": self.id, "path": str(self.path), "ms": round(self.ms, 3), "kept_db": self.kept_db}


def render_targets(
    found: Sequence[Target], backend: Renderer, output: Path | None, strength: float | None = None
) -> list[Rendered]:
    """Render every generator and write its picture: to ``output`` or `RUN/renders`; beside a lone generator.

    ``strength``: share of the change that is applied; None for that of the run, 1 for a lone generator. Raises
    UsageError, ItemError where known pixels cannot be put back or the observed picture is not there, MachineError.
    """
    if output is not None and names_file(output) and len(found) > 1:
        raise UsageError(f"-o {output}: should be a folder, for there are {len(found)} pictures")

    def ready(target: Target) -> tuple[Target, FittedGenerator, Callable[[], np.ndarray]]:
        generator = load(target.generator)
        return target, generator, backend.prepare(generator)

    rendered = []
    with ThreadPoolExecutor(1) as loader, ThreadPoolExecutor(1) as writer:
        for target, generator, run in _ahead(found, ready, loader):
            start = time.perf_counter()
            picture = generator.picture(run())
            ms = 1e3 * (time.perf_counter() - start)
            rendered.append(writer.submit(_finish, target, generator, picture, output, ms, strength))
        return [one.result() for one in rendered]


def render_model(
    path: Path, provider: str, output: Path | None, picture: Path | None = None, strength: float = 1.0
) -> tuple[Rendered, dict[str, Any]]:
    """Render an exported model that nothing was changed in, to a PNG. Returns also what ran it.

    A denoiser's model is applied to ``picture``, and the answer is like that file. Raises UsageError for a denoiser
    without one, and for a picture that the model is not for.
    """
    from dipfast.export.save import load_model

    _, about, data = load_model(path)
    if ("sizes" in about) != (picture is not None):
        raise UsageError(
            f"{path}: is a denoiser, which holds no picture: dipfast render {path.name} PICTURE applies it to one"
            if picture is None
            else f"{path}: is the model of one picture, and denoises no other"
        )
    backend = OnnxRenderer(about["precision"], provider)
    given = None if picture is None else read(picture)
    if given is not None and len(given.pixels) != about["channels"]:
        raise UsageError(f"{picture}: should have {about['channels']} channels, has {len(given.pixels)}")
    if given is not None and min(given.pixels.shape[1:]) < about["sizes"]["least"]:
        raise UsageError(f"{picture}: should have {about['sizes']['least']} pixels a side or more, for {path.name}")
    run = backend.model(data, None if given is None else given.pixels)
    start = time.perf_counter()
    found = run()
    ms = 1e3 * (time.perf_counter() - start)
    if given is not None and picture is not None:
        return _written_like(picture, given, found, about["id"], output, ms, strength), backend.ran
    to = _file(output, path.with_suffix(".png"))
    _write([to], kept(found, tuple(about["size"])), _plain(found), 8)
    return Rendered(about["id"], to, ms, None), backend.ran


def denoise_with(
    generator: Path, picture: Path, output: Path | None, strength: float = 1.0
) -> tuple[Rendered, dict[str, Any]]:
    """Apply a fitted denoiser to another picture, and write the answer like that file. Returns also what ran it.

    Raises UsageError for a generator that is no denoiser, or is for other channels.
    """
    fitted, given = load(generator), read(picture)
    start = time.perf_counter()
    try:
        found = fitted.denoised(given.pixels)
    except UsageError as error:
        raise UsageError(f"{generator}: {error}") from None
    ms = 1e3 * (time.perf_counter() - start)
    ran = {"backend": "torch", "version": torch.__version__, "device": "cpu"}
    return _written_like(picture, given, found, fitted.card.id, output, ms, strength), ran


def _written_like(
    picture: Path, given: Image, found: np.ndarray, id: str, output: Path | None, ms: float, strength: float
) -> Rendered:
    """Write ``found`` in the format, depth and colours of the ``picture`` given: beside it, unless told where."""
    to = _file(output, picture.with_name(f"{picture.stem}-denoised{picture.suffix}"))
    _write([to], with_strength(given.pixels, found.clip(0, 1), strength), given.source, "source")
    return Rendered(id, to, ms, None)


def render_engine(path: Path, output: Path | None) -> tuple[Rendered, dict[str, Any]]:
    """Render an exported TensorRT engine to a PNG. Returns also what ran it. Raises UsageError, MachineError."""
    from dipfast.export.engine import load_engine
    from dipfast.export.tensorrt import run_stored

    stored = load_engine(path)
    start = time.perf_counter()
    picture, ran = run_stored(stored.plan, stored.key, stored.latent)
    ms = 1e3 * (time.perf_counter() - start)
    to = _file(output, path.with_suffix(".png"))
    _write([to], kept(picture, stored.card.size), _plain(picture), 8)
    return Rendered(stored.card.id, to, ms, None), ran


def _ahead(found: Sequence[Target], ready: Callable[[Target], Any], pool: ThreadPoolExecutor) -> Iterator[Any]:
    """``ready`` of each, in order, done while the one before is at work."""
    waiting = [pool.submit(ready, target) for target in found[:AHEAD]]
    for target in [*found[AHEAD:], *[None] * len(waiting)]:
        done = waiting.pop(0).result()
        if target is not None:
            waiting.append(pool.submit(ready, target))
        yield done


def _finish(
    target: Target,
    generator: FittedGenerator,
    picture: np.ndarray,
    output: Path | None,
    ms: float,
    strength: float | None,
) -> Rendered:
    """Put back what the source had, write the picture, and compare it with the one that was kept."""
    record, card = target.record, generator.card
    came = origin(target, generator)
    pixels = came.finish(picture, came.strength if strength is None else strength)
    if target.run is None or record is None:
        lone = _file(output, target.generator.with_suffix(".png"))
        _write([lone], pixels, came.source, 8)
        return Rendered(card.id, lone, ms, None)
    paths = record["output"]["paths"]
    if output is None:
        to = [inside(target.run, f"renders/{path}") for path in paths]
    else:
        to = [output] if names_file(output) else [output / path for path in paths]
    _write(to, pixels, came.source, settings_of(record).output.bit_depth)
    before = as_fitted(read(target.run.images / paths[0]).pixels, card.channels)
    distance = psnr(pixels, before) if before.shape == pixels.shape else np.inf
    return Rendered(card.id, to[0], ms, round(distance, 3) if np.isfinite(distance) else None)


def _write(paths: Sequence[Path], pixels: np.ndarray, source: Source, depth: int | str) -> None:
    for path in paths:
        write_atomic(path, encode(pixels, source, format_of(path), bit_depth=depth))


def _plain(picture: np.ndarray) -> Source:
    return Source("png", "gray" if picture.shape[0] == 1 else "rgb", 8)


def _file(output: Path | None, otherwise: Path) -> Path:
    """``output`` where it names a file, else a file of the other's name in it."""
    if output is None:
        return otherwise
    return output if names_file(output) else output / otherwise.name


def names_file(output: Path) -> bool:
    """Whether ``-o`` is one picture, not a folder for several."""
    return bool(output.suffix) and not output.is_dir()
