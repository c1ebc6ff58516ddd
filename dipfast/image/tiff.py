"""TIFF through tifffile: gray, RGB, palette and CMYK in strips or tiles, 1 to 16 bits and floats, one picture a file.

Absent strips, which tifffile fills with zeros, are an error here. Lab, raw (CFA) and YCbCr without JPEG compression are
refused. BigTIFF is read, but not its EXIF.
"""

import math
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import tifffile
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage

from dipfast.errors import ItemError
from dipfast.image import exif
from dipfast.image.colour import Space, of_gamma
from dipfast.image.measures import GEO_TAGS
from dipfast.image.samples import spread
from dipfast.image.source import COLOURS, Header, Source, Stored, Tag, without_logs

_ORIENTATION, _X_RESOLUTION, _RESOLUTION_UNIT, _INK_SET = 274, 282, 296, 332
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _SEPARATED, _YCBCR = 0, 1, 2, 3, 5, 6
_JPEG = (6, 7)
_ALPHA_KINDS = {0: "unspecified", 1: "premultiplied", 2: "straight"}
_UNSIGNED, _FLOAT = 1, 3
_XMP, _IPTC = 700, 33723
_WHITE, _PRIMARIES, _TRANSFER = 318, 319, 301
_GAMMA = 2.2  # of a TIFF that gives its primaries
_MOST_BYTES = 1 << 24  # length of a tag that is carried over, at most
_IN_AN_INCH = {"inch": 1.0, "cm": 2.54, "mm": 25.4, "um": 25_400.0, "micron": 25_400.0, "nm": 25_400_000.0}
_METAMORPH = 33629  # the tag UIC2, which has a value for each plane
_MOST_PAGES = 64  # a file of more pages is more than a picture with smaller copies
_LEAST_REDUCED = 1.5  # least ratio of the sides of a picture to those of a smaller copy
_TILE_SLACK = 1 << 22  # pixels by which a tile may exceed 16 times the image, which may be small


class _Layout(NamedTuple):
    """How a page stores its samples, in the terms of `Source`; without alpha, alpha_kind is None."""

    mode: str
    alpha_kind: str | None
    bit_depth: int


def header(file: BinaryIO) -> Header:
    """Read the header; raise ItemError for several pictures, and for unsupported samples."""
    file.seek(0)
    with without_logs("tifffile"), TiffFile(file) as tiff:
        page, _ = _page(tiff)
        layout = _layout(page)
        width, height = page.imagewidth, page.imagelength
        if _orientation(page) >= 5:
            width, height = height, width
    channels = min(3, COLOURS[layout.mode])
    return Header("tiff", width, height, channels, layout.alpha_kind is not None, layout.bit_depth)


def decode(data: bytes) -> Stored:
    """Decode integers, spread over 8 or 16 bits, and floats as float32; invert white-is-zero, and resolve palettes."""
    with without_logs("tifffile"), TiffFile(BytesIO(data)) as tiff:
        page, notes = _page(tiff)
        layout = _layout(page)
        _check_segments(page, len(data))
        samples = _interleaved(page)
        if page.photometric == _PALETTE:
            samples = _looked_up(samples[..., 0], page.colormap)
        elif layout.bit_depth != 32:
            samples = spread(samples, page.bitspersample)
        if page.photometric == _WHITE_IS_ZERO:
            samples[..., 0] = np.iinfo(samples.dtype).max - samples[..., 0]
        return Stored(
            samples=samples,
            mode=layout.mode,
            alpha_kind=layout.alpha_kind or "straight",
            orientation=_orientation(page),
            icc=page.iccprofile,
            exif=exif.take(data, page.offset),
            dpi=_dpi(page, _imagej_unit(page)),
            length_unit=_imagej_unit(page),
            space=_space(page),
            xmp=_xmp(page),
            **_kept(page, notes),
        )


def encode(samples: NDArray[Any], source: Source) -> bytes:
    """Encode [H, W, S] uint8, uint16 or float32 in deflated strips, with profile, EXIF, XMP, density and tags."""
    colours = 1 if samples.shape[2] < 3 else 3
    options: dict[str, Any] = {}
    if samples.shape[2] > colours:
        kind = {name: number for number, name in _ALPHA_KINDS.items()}[source.alpha_kind]
        options["extrasamples"] = [kind]
    if source.dpi and source.length_unit:  # in the form that ImageJ reads
        across = tuple(n / _IN_AN_INCH[source.length_unit] for n in source.dpi)
        options |= {"resolution": across, "resolutionunit": "NONE"}
        options["description"] = f"ImageJ=1.11a\nunit={source.length_unit}\n"
    elif source.dpi:
        options |= {"resolution": source.dpi, "resolutionunit": "INCH"}
    extra = [(*tag, True) for tag in source.tags]
    if source.xmp:
        extra.append((_XMP, 1, len(source.xmp), source.xmp, True))
    if source.exif:
        options["byteorder"] = exif.byte_order(source.exif)
    out = BytesIO()
    with without_logs("tifffile"):
        tifffile.imwrite(
            out,
            samples[..., 0] if samples.shape[2] == 1 else samples,
            photometric="minisblack" if colours == 1 else "rgb",
            planarconfig="contig" if samples.shape[2] > 1 else None,
            compression="zlib",
            predictor=samples.dtype.kind == "u",
            iccprofile=source.icc,
            metadata=None,
            software=False,
            extratags=extra,
            **options,
        )
    return exif.graft(out.getvalue(), source.exif) if source.exif else out.getvalue()


def _page(tiff: TiffFile) -> tuple[TiffPage, tuple[str, ...]]:
    """Return the page that is the picture, and sentences about pages that are left out.

    Previews and transparency masks are recognised by their tags, and smaller copies, as in pyramids, by their tags or
    their proportions. Raises ItemError if there are several pictures, or none.
    """
    count = max(len(tiff.pages), (tiff.imagej_metadata or {}).get("images", 1), _planes(tiff.pages[0]))
    pages = [page for page in islice(tiff.pages, _MOST_PAGES) if isinstance(page, TiffPage)]
    full = [page for page in pages if not (page.is_reduced or page.is_mask)]
    if not full:
        raise ItemError("unsupported", "its first page is only a preview, as in raw camera files")
    page = max(full, key=lambda one: one.imagewidth * one.imagelength)
    others = [one for one in full if one is not page]
    if count > len(pages) or not all(_is_copy(one, page) for one in others):
        raise ItemError("unsupported", f"{count} pages: only a single one is restored")
    if page.imagedepth != 1 or min(page.imagewidth, page.imagelength) < 1:
        raise ItemError("unreadable", f"no image of {page.imagewidth}x{page.imagelength}x{page.imagedepth}")
    notes = []
    if others:
        notes.append(f"only the largest of {len(full)} pages was restored: the others seem to be smaller copies of it")
    if any(one.is_mask for one in pages):
        notes.append("the TIFF holds a transparency mask on a page of its own, which was left out")
    return page, tuple(notes)


def _planes(page: Any) -> int:
    """Return the number of planes of a MetaMorph file, which are pictures in one directory; 1 for other files."""
    return page.tags[_METAMORPH].count if _METAMORPH in page.tags else 1


def _is_copy(page: TiffPage, of: TiffPage) -> bool:
    """Return whether a page may be ``of`` at a smaller size: it has as many samples and the same proportions."""
    width, height, full_width, full_height = page.imagewidth, page.imagelength, of.imagewidth, of.imagelength
    if min(width, height) < 1 or page.samplesperpixel != of.samplesperpixel:
        return False
    factor = full_width / width if full_width > full_height else full_height / height
    return factor >= _LEAST_REDUCED and max(abs(full_width / factor - width), abs(full_height / factor - height)) <= 1


def _layout(page: TiffPage) -> _Layout:
    mode = _mode(page)
    extra = page.samplesperpixel - (1 if mode == "palette" else COLOURS[mode])
    if not 0 <= extra <= 1 or (extra and mode == "palette"):
        raise ItemError("unsupported", f"{mode} with {page.samplesperpixel} samples a pixel")
    kinds = [int(kind) for kind in page.extrasamples] or [0]
    alpha_kind = _ALPHA_KINDS.get(kinds[0], "unspecified") if extra else None
    return _Layout(mode, alpha_kind, _bit_depth(page, mode))


def _mode(page: TiffPage) -> str:
    photometric = page.photometric
    if photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO):
        return "bilevel" if page.bitspersample == 1 else "gray"
    if photometric == _RGB or (photometric == _YCBCR and page.compression in _JPEG):
        return "rgb"
    if photometric == _PALETTE and page.colormap is not None:
        return "palette"
    if photometric == _SEPARATED and page.tags.valueof(_INK_SET, 1) == 1:
        return "cmyk"
    raise ItemError("unsupported", f"TIFF photometric {getattr(photometric, 'name', photometric)}")


def _bit_depth(page: TiffPage, mode: str) -> int:
    bits, kind = page.bitspersample, int(page.sampleformat)
    floats = kind == _FLOAT and mode in ("gray", "rgb") and page.photometric != _WHITE_IS_ZERO
    if floats and bits in (16, 32, 64):
        return 32
    if kind == _UNSIGNED and 1 <= bits <= 16:
        return 8 if bits <= 8 or mode == "palette" else 16
    names = {1: "unsigned", 2: "signed", 3: "float"}
    raise ItemError("unsupported", f"{mode} in {bits}-bit {names.get(kind, 'odd')} samples")


def _check_segments(page: TiffPage, size: int) -> None:
    """Raise ItemError for strips or tiles that are absent, lie outside the file, or are far larger than the image."""
    segments = list(zip(page.dataoffsets, page.databytecounts, strict=False))
    if len(segments) < math.prod(page.chunked):
        raise ItemError("unreadable", f"corrupt TIFF: {len(segments)} strips or tiles of {math.prod(page.chunked)}")
    if any(at <= 0 or count <= 0 or at + count > size for at, count in segments):
        raise ItemError("unreadable", "truncated TIFF: a strip or tile lies outside the file")
    tile = page.tilewidth * page.tilelength * max(1, page.tiledepth) if page.is_tiled else 0
    if tile > 16 * page.imagewidth * page.imagelength + _TILE_SLACK:
        raise ItemError("unreadable", "corrupt TIFF: a tile is far larger than the image")


def _interleaved(page: TiffPage) -> NDArray[Any]:
    """Return samples [H, W, S], whether the planes are stored together or apart."""
    planes = page.asarray(maxworkers=1).reshape(page.shaped)[:, 0]  # [S or 1, H, W, 1 or S]
    samples = np.moveaxis(planes, 0, 2).reshape(page.imagelength, page.imagewidth, -1)
    if samples.dtype.kind != "f":
        return np.array(samples)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes infinite, which is refused later
        return samples.astype(np.float32)


def _looked_up(indices: NDArray[Any], colormap: NDArray[Any] | None) -> NDArray[np.uint8]:
    table = np.asarray(colormap).T  # [entries, 3] over 16 bits
    if indices.max() >= len(table):
        raise ItemError("unreadable", f"corrupt TIFF: palette index {indices.max()} of {len(table)}")
    colours: NDArray[np.uint8] = (table >> 8).astype(np.uint8)[indices.astype(np.intp)]
    return colours


def _orientation(page: TiffPage) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


def _dpi(page: TiffPage, unit: str) -> tuple[float, float] | None:
    """Return dots per inch by the tag's own unit, or else by ImageJ's ``unit``; None without either."""
    if _X_RESOLUTION not in page.tags:
        return None
    if page.tags.valueof(_RESOLUTION_UNIT, 2) in (2, 3):
        x, y = page.get_resolution("INCH")
    elif unit:
        x, y = (n * _IN_AN_INCH[unit] for n in page.get_resolution())
    else:
        return None
    return float(x), float(y)


def _imagej_unit(page: TiffPage) -> str:
    """Return the unit of length in ImageJ's description; '' if there is none that is known."""
    if not page.description.startswith("ImageJ"):
        return ""
    lines = (line.partition("=") for line in page.description.splitlines())
    unit = next((value for name, _, value in lines if name == "unit"), "").replace("\\u00B5", "u").replace("µ", "u")
    return unit if unit in _IN_AN_INCH else ""


def _value(page: TiffPage, code: int) -> Any:
    """Return a tag's value; None if it is absent, broken or too long."""
    tag = page.tags.get(code)
    if tag is None or tag.valuebytecount > _MOST_BYTES:
        return None
    try:
        return tag.value
    except Exception:  # tifffile reads some tags only here, and raises anything
        return None


def _kept(page: TiffPage, notes: tuple[str, ...]) -> dict[str, Any]:
    """Return the tags that are carried over, and all notes; tags of a GeoTIFF do not fit a picture that was turned."""
    values = {code: _value(page, code) for code in (*GEO_TAGS, _IPTC)}
    if _orientation(page) != 1 and any(values[code] is not None for code in GEO_TAGS):
        values |= dict.fromkeys(GEO_TAGS)
        notes += ("the picture was turned upright, so its GeoTIFF tags were left out",)
    if _TRANSFER in page.tags and page.iccprofile is None:
        notes += ("the TIFF's own curve from values to light (TransferFunction) was left out",)
    there = {code: page.tags[code] for code, value in values.items() if value is not None}
    tags = tuple(Tag(code, int(tag.dtype), tag.count, _plain(values[code])) for code, tag in there.items())
    return {"tags": tags, "notes": notes}


def _plain(value: Any) -> Any:
    """Return a tag's value in the form that tifffile writes: text as bytes, a single number in a tuple."""
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes | tuple) else (value,)


def _xmp(page: TiffPage) -> bytes | None:
    value = _value(page, _XMP)
    return value if isinstance(value, bytes) else None


def _space(page: TiffPage) -> Space | None:
    """Return the colour space of the tags for white point and primaries, which are fractions."""
    white, primaries = _value(page, _WHITE), _value(page, _PRIMARIES)
    if not (isinstance(white, tuple) and isinstance(primaries, tuple) and len(white) == 4 and len(primaries) == 12):
        return None
    parts = (*white, *primaries)
    if not all(parts[1::2]):
        return None
    return of_gamma(tuple(over / under for over, under in zip(parts[::2], parts[1::2], strict=True)), _GAMMA)
