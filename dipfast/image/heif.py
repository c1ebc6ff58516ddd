"""AVIF and HEIF (HEIC), two kinds of the HEIF container with different codecs.

AVIF is parsed and written by Pillow, and decoded by imagecodecs, because Pillow silently reduces 10 and 12 bits to 8.
HEIF is read by pillow-heif if it is installed (the extra `heif`), and is not written; libheif turns it upright, and
applies limits of its own to the file. Both libraries open a file without decoding its pixels.
"""

from io import BytesIO
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL.AvifImagePlugin import AvifImageFile

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.boxes import primary_properties
from dipfast.image.colour import of_codes
from dipfast.image.samples import spread
from dipfast.image.source import Header, Source, Stored, without_warnings

_HEIF_MODES = {  # mode of pillow-heif -> mode of `Stored`, and whether there is alpha
    "L": ("gray", False),
    "LA": ("gray", True),
    "RGB": ("rgb", False),
    "RGBA": ("rgb", True),
    "RGBa": ("rgb", True),
}


def avif_header(file: BinaryIO) -> Header:
    """Read the header of an AVIF; raise ItemError for a sequence."""
    picture = _opened_avif(file)
    width, height = picture.size
    if exif.orientation(picture.info.get("exif")) >= 5:
        width, height = height, width
    file.seek(0)
    depth = 8 if _bits(file.read()) == 8 else 16
    channels = 1 if picture.mode in ("L", "LA") else 3
    return Header("avif", width, height, channels, picture.mode in ("LA", "RGBA"), depth)


def avif_decode(data: bytes) -> Stored:
    """Decode an AVIF: 8 bits unchanged, 10 and 12 bits spread over 16."""
    picture = _opened_avif(BytesIO(data))
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
        space=of_codes(*codes) if codes else None,
        xmp=picture.info.get("xmp"),
    )


def avif_encode(samples: NDArray[Any], source: Source) -> bytes:
    """Encode [H, W, S] uint8 as an AVIF with profile, EXIF and XMP, without chroma subsampling.

    The quality is 95, or 100 with alpha, because only there alpha is lossless. Gray with alpha becomes RGBA.
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


def _opened_avif(file: BinaryIO) -> AvifImageFile:
    """Parse a file that holds one frame."""
    file.seek(0)
    with without_warnings():
        picture = AvifImageFile(file)
    if picture.n_frames > 1:
        raise ItemError("unsupported", f"an AVIF sequence of {picture.n_frames} frames: only one is restored")
    return picture


def _codes(data: bytes) -> tuple[int, int] | None:
    """Return the code points of H.273 for primaries and transfer of an AVIF's primary picture; None if it has none."""
    for box in primary_properties(BytesIO(data)):
        body = data[box.at : box.at + 8]
        if box.kind == b"colr" and body[:4] == b"nclx" and len(body) == 8:
            return int.from_bytes(body[4:6], "big"), int.from_bytes(body[6:8], "big")
    return None


def _bits(data: bytes) -> int:
    """Return the bits of an AVIF's samples, 8, 10 or 12, from the AV1 configuration box."""
    at = data.find(b"av1C")
    flags = data[at + 6] if 0 <= at < len(data) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def heif_header(file: BinaryIO) -> Header:
    """Read the header of a HEIF; raise ItemError without pillow-heif, and for an unknown layout."""
    file.seek(0)
    picture, _ = _opened_heif(file.read())
    mode, alpha = _heif_mode(picture)
    depth = 8 if picture.info["bit_depth"] <= 8 else 16
    width, height = picture.size
    return Header("heif", width, height, 1 if mode == "gray" else 3, alpha, depth)


def heif_decode(data: bytes) -> Stored:
    """Decode a HEIF: 8 bits unchanged; 10 and 12, which libheif shifts to the top of 16, spread over 16."""
    picture, count = _opened_heif(data)
    mode, _ = _heif_mode(picture)
    samples = np.asarray(picture)
    bits, codes = picture.info["bit_depth"], picture.info.get("nclx_profile")
    if samples.dtype == np.uint16:
        samples = spread(samples >> (16 - bits), bits)
    return Stored(
        samples=samples.reshape(*samples.shape[:2], -1),
        mode=mode,
        alpha_kind="premultiplied" if picture.mode.startswith("RGBa") else "straight",
        icc=picture.info.get("icc_profile"),
        exif=exif.upright(picture.info.get("exif")),
        space=of_codes(codes["color_primaries"], codes["transfer_characteristics"]) if codes else None,
        xmp=picture.info.get("xmp"),
        notes=(f"only the primary one of the HEIF's {count} pictures was restored",) if count > 1 else (),
    )


def _opened_heif(data: bytes) -> tuple[Any, int]:
    """Return the primary picture and the number of pictures, not counting thumbnails, depth maps and the like."""
    try:
        from pillow_heif import HeifFile, options
    except ImportError:
        raise ItemError("unsupported", "a heif image: pip install 'dipfast[heif]' to read it") from None
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    found = HeifFile(BytesIO(data), convert_hdr_to_8bit=False)
    return found[found.primary_index], len(found)


def _heif_mode(picture: Any) -> tuple[str, bool]:
    """Return the mode of `Stored`, and whether the picture has alpha; raise ItemError for an unknown mode."""
    name = picture.mode.partition(";")[0]
    if name not in _HEIF_MODES:
        raise ItemError("unsupported", f"HEIF mode {picture.mode}")
    return _HEIF_MODES[name]
