"""AVIF: Pillow parses and writes; imagecodecs decodes, for Pillow silently reduces 10 and 12 bits to 8."""

from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.AvifImagePlugin import AvifImageFile

from dipfast.errors import ItemError
from dipfast.image import exif, space
from dipfast.image.boxes import primary_properties
from dipfast.image.guard import without_warnings
from dipfast.image.samples import spread
from dipfast.image.source import Header, Source, Stored


def header(file: BinaryIO) -> Header:
    """Raises ItemError for a sequence. The file is parsed whole, its pixels are not decoded."""
    picture = _opened(file)
    width, height = picture.size
    if exif.orientation(picture.info.get("exif")) >= 5:
        width, height = height, width
    file.seek(0)
    depth = 8 if _bits(file.read()) == 8 else 16
    channels = 1 if picture.mode in ("L", "LA") else 3
    return Header("avif", width, height, channels, picture.mode in ("LA", "RGBA"), depth)


def decode(data: bytes) -> Stored:
    """8 bits as they are; 10 and 12 spread over 16."""
    picture = _opened(BytesIO(data))
    block = picture.info.get("exif")  # Pillow puts the rotation of the container (irot, imir) into it
    codes = _codes(data)
    samples = np.asarray(imagecodecs.avif_decode(data))
    if samples.dtype == np.uint16:
        samples = spread(samples, _bits(data))
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode="gray" if samples.ndim == 2 or samples.shape[2] < 3 else "rgb",
        orientation=exif.orientation(block),
        icc=picture.info.get("icc_profile"),
        exif=block,
        space=space.of_codes(*codes) if codes else None,
        xmp=picture.info.get("xmp"),
    )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """[H, W, S] uint8 -> 4:4:4 at quality 95, or at 100 with alpha, for only there alpha is lossless.

    Gray with alpha becomes RGBA. With profile and EXIF.
    """
    if samples.shape[2] == 2:
        samples = samples[..., [0, 0, 0, 1]]
    options: dict[str, Any] = {"quality": 100 if samples.shape[2] == 4 else 95, "subsampling": "4:4:4"}
    if samples.shape[2] == 1:
        options["subsampling"], samples = "4:0:0", samples[..., 0]
    out = BytesIO()
    with without_warnings():
        picture = PillowImage.fromarray(samples)
        options |= {"icc_profile": source.icc or b"", "exif": source.exif or b"", "xmp": source.xmp or b""}
        picture.save(out, "AVIF", **options)
    return out.getvalue()


def _opened(file: BinaryIO) -> AvifImageFile:
    file.seek(0)
    with without_warnings():
        picture = AvifImageFile(file)
    if picture.n_frames > 1:
        raise ItemError("unsupported", f"an AVIF sequence of {picture.n_frames} frames: only one is restored")
    return picture


def _codes(data: bytes) -> tuple[int, int] | None:
    """Primaries and transfer by H.273, of the primary picture."""
    for box in primary_properties(BytesIO(data)):
        body = data[box.at : box.at + 8]
        if box.kind == b"colr" and body[:4] == b"nclx" and len(body) == 8:
            return int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
    return None


def _bits(data: bytes) -> int:
    """Bits a sample, from the AV1 configuration box: 8, 10 or 12."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
