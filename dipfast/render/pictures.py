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

from dipfast.errors import DipfastError, ItemError, UsageError
from dipfast.export.targets import Target, inside
from dipfast.files import write_atomic
from dipfast.image import Image, Source, encode, format_of, read
from dipfast.metrics import psnr
from dipfast.record import Record
from dipfast.remote import holds
from dipfast.render.generator import FittedGenerator, OnnxRenderer, Renderer, as_fitted, kept, load
from dipfast.restoration.line import observe, pose, put_back
from dipfast.restoration.strength import with_strength
from dipfast.samples import locate
from dipfast.settings.document import Settings
from dipfast.settings.task import Inpaint, SuperRes
from dipfast.tasks.range import Range

AHEAD = 2  # generators loaded before they are rendered
Finish = Callable[[np.ndarray], np.ndarray]  # [C, H', W'] as the network gives it → the picture [C, H, W]


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
    if target.run is None or record is None:
        lone = _file(output, target.generator.with_suffix(".png"))
        pixels = kept(picture, card.size)
        if strength is not None and strength != 1:
            reason = f"{target.generator}: holds no observed picture for --strength {strength:g}; give its run"
            pixels = with_strength(_held(generator, UsageError(reason)), pixels, strength)
        _write([lone], pixels, _plain(picture), 8)
        return Rendered(card.id, lone, ms, None)
    source, finish = origin(target, generator, strength)
    pixels = finish(picture)
    paths = record["output"]["paths"]
    if output is None:
        to = [inside(target.run, f"renders/{path}") for path in paths]
    else:
        to = [output] if names_file(output) else [output / path for path in paths]
    _write(to, pixels, source, settings_of(record).output.bit_depth)
    before = as_fitted(read(target.run.images / paths[0]).pixels, card.channels)
    distance = psnr(pixels, before) if before.shape == pixels.shape else np.inf
    return Rendered(card.id, to[0], ms, round(distance, 3) if np.isfinite(distance) else None)


def _write(paths: Sequence[Path], pixels: np.ndarray, source: Source, depth: int | str) -> None:
    for path in paths:
        write_atomic(path, encode(pixels, source, format_of(path), bit_depth=depth))


def _held(generator: FittedGenerator, otherwise: DipfastError) -> np.ndarray:  # [C, H, W]
    """Return the observed picture that a fitted denoiser holds as its latent. Raises ``otherwise`` for other ones."""
    if not generator.card.frozen:
        raise otherwise
    range = Range.of(generator.module.low, generator.module.width)
    return kept(range.to_full(generator.latent)[0].numpy(), generator.card.size)


def origin(target: Target, generator: FittedGenerator, strength: float | None = None) -> tuple[Source, Finish]:
    """What the run's input puts back: its file's metadata, and what it says of the picture's pixels.

    Without the input, known pixels of inpainting cannot be put back; pictures of other tasks are the network's own. A
    ``strength`` other than 1 needs the input too, but for a denoiser, which holds it; None is that of the run.
    """
    record = target.record
    assert record is not None and target.run is not None
    settings, size = settings_of(record), generator.card.size
    share = settings.output.strength if strength is None else strength
    if share != 1 and isinstance(settings.task, SuperRes):
        raise UsageError(f"--strength {share:g}: should be 1 for task superres, whose answer has another size")
    given = record["input"]
    path = locate(given["path"])
    here = holds(path, given["sha256"])
    if not here:
        if isinstance(settings.task, Inpaint) and settings.task.keep_known:
            raise ItemError("changed", f"{path}: is not as it was, so its known pixels cannot be put back")
        source = read(target.run.images / record["output"]["paths"][0]).source
        if share == 1:
            return source, lambda picture: kept(picture, size)
        reason = f"{path}: is not as it was, so strength {share:g} cannot be applied; --strength 1 can"
        held = _held(generator, ItemError("changed", reason))
        return source, lambda picture: with_strength(held, kept(picture, size), share)
    mask = given.get("mask")
    observation = observe(settings, read(path), None if mask is None else read(mask), None)
    problem = pose(settings, observation)

    def finish(picture: np.ndarray) -> np.ndarray:
        if generator.card.refine is None:
            picture = problem.finish(problem.range.of_full(torch.from_numpy(picture)[None]))[0].numpy()
        mixed = with_strength(observation.observed, kept(picture, size), share, observation.known)
        return put_back(observation, problem, mixed)

    return observation.source, finish


def settings_of(record: Record) -> Settings:
    """Return the settings that ``record`` says an item was fitted with. Raises ItemError for what no version writes."""
    try:
        return Settings.from_json(record["settings"])
    except (KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ItemError("unreadable", f"records/{record.id}.json: its settings cannot be read ({reason})") from None


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
