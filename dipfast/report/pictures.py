"""Pictures for the page: read as they are, shrunk, and put into the page itself as data URIs."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image as Pillow

from dipfast.errors import DipfastError, ItemError
from dipfast.image import Image, Limits, read
from dipfast.record import damaged_of
from dipfast.remote import sha256_of
from dipfast.report.facts import section
from dipfast.store.folder import RunFolder

if TYPE_CHECKING:
    from dipfast.store.rows import Row

MAX_SIDE = 768  # pixels of an embedded picture
SMALL = 160 * 160  # pixels up to which a lossless file is no larger than a good JPEG
LIMITS = Limits(max_pixels=256_000_000)


@dataclass(frozen=True)
class Pictures:
    """Before and after as data URIs of one size, in pixels; ``notes`` say why one of them is not here."""

    before: str | None
    after: str | None
    width: int
    height: int
    enlarged: bool = False  # what was before
    notes: tuple[str, ...] = ()

    @property
    def frame(self) -> str:
        """Width over height of the frame around them, in CSS; a strip or a tower gets room on its sides."""
        return f"{min(max(self.width / self.height, 0.75), 2.4):.4f}"


def pictures(folder: RunFolder, row: Row) -> Pictures:
    """What went into the fit of ``row`` and what came out. Reads files; raises nothing that a file can cause."""
    try:
        after = _load(folder.at(f"images/{row.output}"))
    except (DipfastError, OSError) as error:
        return Pictures(None, None, 4, 3, notes=(f"Its image cannot be shown: {error}",))
    size = _shown(after.size)
    result = _data_uri(_resized(after, size))
    try:
        before = _load(before_path(folder, row))
    except (DipfastError, OSError) as error:
        return Pictures(None, result, *size, notes=(f"What it was before cannot be shown: {error}",))
    return Pictures(_data_uri(_resized(before, size)), result, *size, enlarged=before.width < after.width)


def before_path(folder: RunFolder, row: Row) -> str:
    """The file or address of what the fit saw. Raises ItemError where it is not there as it was then, OSError."""
    record = row.record or {}
    if section(section(record, "settings"), "degrade"):
        return str(folder.at(damaged_of(row.output)))
    given = section(record, "input")
    path = str(given.get("path") or row.path)
    try:
        digest = sha256_of(path, LIMITS.max_bytes)
    except (OSError, ValueError):
        raise ItemError("unreadable", f"{path}: is not there any more") from None
    if given.get("sha256") != digest:
        raise ItemError("changed", f"{path}: the file changed after the run")
    return path


def _load(path: Path | str) -> Pillow.Image:
    image = read(path, LIMITS)
    picture = _eight_bit(image)
    picture.info["icc_profile"] = image.source.icc
    return picture


def _eight_bit(image: Image) -> Pillow.Image:
    """The pixels at 8 bits, on white where they are transparent. Premultiplied ones are on black already."""
    pixels, alpha = image.pixels, image.source.alpha
    if alpha is not None and image.source.alpha_kind == "straight":
        full = np.float32(np.iinfo(alpha.dtype).max if alpha.dtype.kind == "u" else 1)
        pixels = 1 + alpha.astype(np.float32) / full * (pixels - 1)
    bytes_ = np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)  # [C, H, W]
    return Pillow.fromarray(bytes_[0] if len(bytes_) == 1 else np.moveaxis(bytes_, 0, 2))


def _shown(size: tuple[int, int]) -> tuple[int, int]:
    """``size`` (width, height), shrunk to MAX_SIDE."""
    share = min(1.0, MAX_SIDE / max(size))
    return max(1, round(size[0] * share)), max(1, round(size[1] * share))


def _resized(picture: Pillow.Image, size: tuple[int, int]) -> Pillow.Image:
    """Enlarged like the guide of super-resolution (bicubic), shrunk without aliasing."""
    if picture.size == size:
        return picture
    enlarge = size[0] > picture.width
    resized = picture.resize(size, Pillow.Resampling.BICUBIC if enlarge else Pillow.Resampling.LANCZOS)
    resized.info["icc_profile"] = picture.info["icc_profile"]
    return resized


def _data_uri(picture: Pillow.Image) -> str:
    kind = "PNG" if picture.width * picture.height <= SMALL else "JPEG"
    options: dict[str, Any] = {"optimize": True} if kind == "PNG" else {"quality": 82}
    buffer = io.BytesIO()
    picture.save(buffer, kind, icc_profile=picture.info["icc_profile"], **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
