"""HEIF (HEIC) through pillow-heif, where that is installed: the extra `heif`. Read only; libheif turns it upright.

It opens a file without decoding it, and keeps to libheif's own limits beside ours.
"""

from io import BytesIO
from typing import Any, BinaryIO

import numpy as np

from dipfast.errors import ItemError
from dipfast.image import exif, space
from dipfast.image.samples import spread
from dipfast.image.source import Header, Stored

_MODES = {
    "L": ("gray", False),
    "LA": ("gray", True),
    "RGB": ("rgb", False),
    "RGBA": ("rgb", True),
    "RGBa": ("rgb", True),
}


def header(file: BinaryIO) -> Header:
    """Raises ItemError without pillow-heif, and for an unknown layout."""
    file.seek(0)
    picture, _ = _opened(file.read())
    mode, alpha = _mode(picture)
    depth = 8 if picture.info["bit_depth"] <= 8 else 16
    width, height = picture.size
    return Header("heif", width, height, 1 if mode == "gray" else 3, alpha, depth)


def decode(data: bytes) -> Stored:
    """8 bits as they are; 10 and 12, which libheif puts at the top of 16, spread over 16."""
    picture, count = _opened(data)
    mode, _ = _mode(picture)
    samples = np.asarray(picture)
    bits, said = picture.info["bit_depth"], picture.info.get("nclx_profile")
    if samples.dtype == np.uint16:
        samples = spread(samples >> (16 - bits), bits)
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode=mode,
        alpha_kind="premultiplied" if picture.mode.startswith("RGBa") else "straight",
        icc=picture.info.get("icc_profile"),
        exif=exif.upright(picture.info.get("exif")),
        space=space.of_codes(said["color_primaries"], said["transfer_characteristics"]) if said else None,
        xmp=picture.info.get("xmp"),
        notes=(f"only the primary one of the HEIF's {count} pictures was restored",) if count > 1 else (),
    )


def _opened(data: bytes) -> tuple[Any, int]:
    """The primary picture, and how many there are. Thumbnails, depth maps and the like are none."""
    try:
        from pillow_heif import HeifFile, options
    except ImportError:
        raise ItemError("unsupported", "a heif image: pip install 'dipfast[heif]' to read it") from None
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    found = HeifFile(BytesIO(data), convert_hdr_to_8bit=False)
    return found[found.primary_index], len(found)


def _mode(picture: Any) -> tuple[str, bool]:
    name = picture.mode.partition(";")[0]
    if name not in _MODES:
        raise ItemError("unsupported", f"HEIF mode {picture.mode}")
    return _MODES[name]
