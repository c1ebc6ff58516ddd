"""The image room's types: limits, header, image, and what must be written back; and what becomes of library errors."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dipfast.errors import DipfastError, ItemError, UsageError
from dipfast.image.colour import Space

FORMATS = ("png", "jpeg", "tiff", "webp", "avif")
READ_ONLY = ("heif", "jxl", "jp2", "bmp", "gif", "tga", "pnm")
READABLE = (*FORMATS, *READ_ONLY)
COLOURS = {"gray": 1, "bilevel": 1, "rgb": 3, "palette": 3, "cmyk": 4}  # mode -> colour samples of a decoded pixel
_WARNINGS = Lock()  # catch_warnings swaps a global, which two threads at once would leave swapped


class Tag(NamedTuple):
    """A tag of a TIFF in tifffile's terms."""

    code: int
    kind: int  # the tag's data type
    number: int  # of values
    value: Any  # text, bytes or numbers


@dataclass(frozen=True)
class Limits:
    """Limits on what is decoded, checked on the file's size and header alone."""

    max_pixels: int = 64_000_000  # width times height
    max_bytes: int = 1 << 30  # of the file
    max_aspect: float = 1000.0  # longer side over shorter side
    formats: tuple[str, ...] = READABLE  # the accepted ones

    def __post_init__(self) -> None:
        """Raise UsageError for a limit below 1 or an unknown format."""
        for name in ("max_pixels", "max_bytes", "max_aspect"):
            if not getattr(self, name) >= 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in self.formats:
            if name not in READABLE:
                raise UsageError(f"formats may hold {', '.join(READABLE)}, not {name!r}")


@dataclass(frozen=True)
class Header:
    """What the header of a file says about the image."""

    format: str  # one of READABLE
    width: int  # as displayed, with the EXIF orientation applied
    height: int
    channels: int  # of colour: 1 or 3
    alpha: bool
    bit_depth: int  # of an output with `bit_depth: source`: 8, 16, or 32 for floats


@dataclass(frozen=True, eq=False)
class Source:
    """What belongs to an image beside its pixels, and is written with the restored ones."""

    format: str  # one of READABLE, or array
    mode: str  # the stored colours, a key of COLOURS; palette and CMYK are converted to RGB
    bit_depth: int  # 8, 16, or 32 for floats
    icc: bytes | None = None  # the profile of the converted pixels, so never one of CMYK
    exif: bytes | None = None  # a TIFF structure without the `Exif` prefix, upright, without its thumbnail
    alpha: NDArray[Any] | None = None  # [H, W] upright, in its own integers; floats for float sources
    alpha_kind: str = "straight"  # or premultiplied, or unspecified (TIFF)
    low: float = 0.0  # the stored values that 0 and 1 stand for in a float source
    high: float = 1.0
    dpi: tuple[float, float] | None = None  # dots per inch, horizontal and vertical
    length_unit: str = ""  # ImageJ's unit of length
    png_colour: bytes = b""  # a PNG's chunks about colour, such as gAMA and cICP, for a PNG only
    space: Space | None = None  # the space of colours without a profile, if it is not sRGB
    xmp: bytes | None = None
    tags: tuple[Tag, ...] = ()  # of a TIFF, for a TIFF only
    size: tuple[int, int] | None = None  # height and width to which dpi and tags refer; None: those of the output
    lossless: bool = False  # whether a WebP was lossless, and is written so again
    notes: tuple[str, ...] = ()  # sentences that say which parts of the file are left out


@dataclass(frozen=True, eq=False)
class Image:
    """An upright image in the form in which it is restored."""

    pixels: NDArray[np.float32]  # [C, H, W] in [0, 1], of 1 or 3 channels
    source: Source


@dataclass(frozen=True, eq=False)
class Stored:
    """The result of a decoder, in the orientation of the file. Fields that `Source` has too mean the same."""

    samples: NDArray[Any]  # [H, W, S] uint8, uint16 or float32 over their whole range; alpha last; CMYK: 0 is no ink
    mode: str
    alpha_kind: str = "straight"
    orientation: int = 1  # of EXIF, 1 to 8
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
    """Return 32 for floats, and the number of bits of an integer type."""
    return 32 if dtype.kind == "f" else 8 * dtype.itemsize


@contextmanager
def failing_as(kind: str, what: str, otherwise: str = "") -> Iterator[None]:
    """Turn any exception over one file into an ItemError of ``kind``, whose one line begins with ``what``.

    An ItemError keeps its kind, and another DipfastError stays as it is. ``otherwise`` introduces a library's own
    message, which is seldom written for users.
    """
    try:
        yield
    except ItemError as error:
        raise ItemError(error.kind, f"{what}: {error}") from error
    except DipfastError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        raise ItemError(kind, f"{what}: {_line(reason)}") from error
    except MemoryError as error:
        raise ItemError(kind, f"{what}: not enough memory for what its header claims") from error
    except Exception as error:  # decoders raise anything, such as SyntaxError or zlib.error
        raise ItemError(kind, f"{what}: {otherwise}{_line(str(error) or type(error).__name__)}") from error


@contextmanager
def without_warnings() -> Iterator[None]:
    """Silence Python warnings: Pillow's are about EXIF that it cannot parse, whose bytes are carried over anyway."""
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def without_logs(name: str) -> Iterator[None]:
    """Silence the logger ``name``: tifffile logs what it finds odd, and Python prints that if logging is not set up."""

    def drop(record: logging.LogRecord) -> bool:
        return False

    logger = logging.getLogger(name)
    logger.addFilter(drop)
    try:
        yield
    finally:
        logger.removeFilter(drop)


def _line(text: str) -> str:
    """Return at most 200 characters of ``text`` in one line."""
    return " ".join(text.split())[:200]
