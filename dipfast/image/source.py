"""What the image room passes around: limits, a header, an image, and what must be put back on writing."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import UsageError
from dipfast.image.space import Space

FORMATS = ("png", "jpeg", "tiff", "webp", "avif")
READ_ONLY = ("heif", "jxl", "jp2", "bmp", "gif", "tga", "pnm")
READABLE = (*FORMATS, *READ_ONLY)
COLOURS = {"gray": 1, "bilevel": 1, "rgb": 3, "palette": 3, "cmyk": 4}  # mode -> colour samples as decoded


class Tag(NamedTuple):
    """A tag of a TIFF, as tifffile has it: its value is text, bytes or numbers."""

    code: int
    kind: int
    number: int  # of values
    value: Any


@dataclass(frozen=True)
class Limits:
    """What may be decoded, checked on the file's size and header alone.

    max_pixels: width times height; max_bytes: of the file; max_aspect: longer side over shorter side;
    formats: those accepted, of `READABLE`. Raises UsageError for an impossible limit.
    """

    max_pixels: int = 64_000_000
    max_bytes: int = 1 << 30
    max_aspect: float = 1000.0
    formats: tuple[str, ...] = READABLE

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_bytes", "max_aspect"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in self.formats:
            if name not in READABLE:
                raise UsageError(f"formats may hold {', '.join(READABLE)}, not {name!r}")


@dataclass(frozen=True)
class Header:
    """What a file says of itself before it is decoded.

    width and height are those displayed, EXIF orientation applied. channels are the colours that are fitted:
    1 or 3. bit_depth is that of an output with `bit_depth: source`: 8, 16, or 32 for floats.
    """

    format: str
    width: int
    height: int
    channels: int
    alpha: bool
    bit_depth: int


@dataclass(frozen=True, eq=False)
class Source:
    """What must be put back when the restored pixels are written."""

    format: str
    mode: str  # the colours as they were stored, a key of COLOURS; palette and CMYK are fitted as RGB
    bit_depth: int
    icc: bytes | None = None  # the profile of the fitted pixels, so never one of CMYK
    exif: bytes | None = None  # a TIFF structure without the `Exif` prefix, upright, without its thumbnail
    alpha: NDArray[Any] | None = None  # [H, W] upright, in its own integers; floats for float sources
    alpha_kind: str = "straight"  # or premultiplied, or unspecified (TIFF)
    low: float = 0.0  # what 0 and 1 stand for in a float source
    high: float = 1.0
    dpi: tuple[float, float] | None = None  # horizontal, vertical
    length_unit: str = ""  # ImageJ's
    png_colour: bytes = b""  # gAMA, cHRM, sRGB, cICP and their like as chunks, put back into a PNG only
    space: Space | None = None  # what colours without a profile are, where they are not sRGB
    xmp: bytes | None = None
    tags: tuple[Tag, ...] = ()  # of a TIFF, put back into one only
    size: tuple[int, int] | None = None  # height and width that dpi and tags are of; None: those that are written
    lossless: bool = False  # of a WebP, which is written so again
    notes: tuple[str, ...] = ()  # what of the file is not in the picture, a sentence each


@dataclass(frozen=True, eq=False)
class Image:
    """pixels: [C, H, W] float32 in [0, 1], C = 1 or 3, upright; source: what must be put back."""

    pixels: NDArray[np.float32]
    source: Source


@dataclass(frozen=True, eq=False)
class Stored:
    """What a decoder hands over, as the file holds it: not yet upright, alpha last.

    samples: [H, W, S] uint8, uint16 or float32, over their whole range; CMYK with 0 for no ink.
    """

    samples: NDArray[Any]
    mode: str
    alpha_kind: str = "straight"
    orientation: int = 1
    icc: bytes | None = None
    exif: bytes | None = None
    dpi: tuple[float, float] | None = None
    length_unit: str = ""
    png_colour: bytes = b""
    space: Space | None = None
    xmp: bytes | None = None
    tags: tuple[Tag, ...] = ()
    lossless: bool = False
    notes: tuple[str, ...] = ()


def bit_depth_of(dtype: np.dtype[Any]) -> int:
    return 32 if dtype.kind == "f" else 8 * dtype.itemsize
