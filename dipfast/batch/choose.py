"""The task of a picture that is given without one: what the file itself tells of its damage.

A mask beside it or holes in its alpha ask for inpainting, a coarse quantisation in a JPEG's header for the removal of
its blocks. Any other picture is denoised, and its noise is measured. Objects of object storage are not opened for this:
they are denoised.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import ndimage

from dipfast import tasks
from dipfast.errors import ItemError
from dipfast.image import Limits, luma_steps, probe, read
from dipfast.manifest import Choice, Item, url
from dipfast.remote import is_remote
from dipfast.samples import PREFIX as SAMPLE
from dipfast.settings.files import Input
from dipfast.settings.task import ALPHA

COARSE = 60  # libjpeg's quality up to which a JPEG is taken to need the removal of its blocks
MASKS = ("{}_mask.png", "{}.mask.png")  # names of masks beside a picture
INPAINT, JPEG, DENOISE = "inpaint", "jpeg", "denoise"


def choose_task(path: str, limits: Input) -> Choice:
    """Return the task of the picture at ``path``, which is opened within ``limits``."""
    if is_remote(path) or path.startswith(SAMPLE):
        return Choice({"type": DENOISE}, "denoising is the usual task")
    mask = _mask_beside(Path(path))
    if mask is not None:
        return Choice({"type": INPAINT, "mask": url(str(mask))}, f"{mask.name} lies beside it")
    try:
        return _by_content(path, Limits(**dict(limits)))
    except ItemError:  # which the item will fail with
        return Choice({"type": DENOISE}, "the file cannot be read")


def _mask_beside(path: Path) -> Path | None:
    beside = (path.with_name(name.format(path.stem)) for name in MASKS)
    return next((mask for mask in beside if mask.is_file()), None)


def _by_content(path: str, limits: Limits) -> Choice:
    header = probe(path, limits)
    if header.format == "jpeg":
        steps = luma_steps(path, limits)
        quality = 100 if steps is None else tasks.quality_of(steps)
        if quality <= COARSE:
            return Choice({"type": JPEG}, f"a JPEG of quality {quality}")
    if header.alpha and _has_holes(read(path, limits).source.alpha):
        return Choice({"type": INPAINT, "mask": ALPHA}, "its alpha has holes")
    return Choice({"type": DENOISE}, "neither a mask, nor holes in its alpha, nor a coarse JPEG")


def _has_holes(alpha: np.ndarray | None) -> bool:  # [H, W]
    """Return whether most of what is fully transparent is surrounded by the picture.

    Transparency that reaches the border is the background of a cut-out object, or a rounded corner.
    """
    if alpha is None or alpha.all():
        return False
    regions, _ = ndimage.label(alpha == 0)
    border = np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]])
    inside = ~np.isin(regions, border) & (regions > 0)
    return bool(2 * inside.sum() >= (regions > 0).sum())


def chosen_in_words(items: Sequence[Item]) -> str:
    """Return one line that says which tasks were chosen for ``items``, and why; '' where none was."""
    chosen = [item for item in items if item.chosen]
    if len(chosen) == 1:
        return f"task: {chosen[0].shared.task.type} ({chosen[0].chosen})"
    counts: Counter[str] = Counter(item.shared.task.type for item in chosen)
    reasons = {
        INPAINT: "masks beside them, or holes in alpha",
        JPEG: f"JPEGs of quality {COARSE} or less",
        DENOISE: "the others" if len(counts) > 1 else "no masks, no holes in alpha, no coarse JPEGs",
    }
    parts = [f"{counts[task]} {task} ({why})" for task, why in reasons.items() if counts[task]]
    return f"tasks: {', '.join(parts)}" if parts else ""
