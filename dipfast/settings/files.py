"""`input` and `output`: what may be opened, and what is written."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from dipfast.settings.section import Count, Section, Template

Format = Literal["png", "jpeg", "tiff", "webp", "avif", "heif", "jxl", "jp2", "bmp", "gif", "tga", "pnm"]

EXTENSIONS = {
    "png": ("png", "apng"),
    "jpeg": ("jpg", "jpeg", "jpe", "jfif", "jif", "mpo"),
    "tiff": ("tif", "tiff"),
    "webp": ("webp",),
    "avif": ("avif", "avifs"),
    "heif": ("heic", "heif", "hif"),
    "jxl": ("jxl",),
    "jp2": ("jp2", "j2k", "j2c", "jpc", "jpx", "jpf"),
    "bmp": ("bmp", "dib"),
    "gif": ("gif",),
    "tga": ("tga", "targa"),
    "pnm": ("pnm", "ppm", "pgm", "pbm", "pam"),
}
READ_ONLY = ("heif", "jxl", "jp2", "bmp", "gif", "tga", "pnm")
SUFFIXES = tuple(f".{ext}" for several in EXTENSIONS.values() for ext in several)
WRITTEN = tuple(f".{ext}" for name, several in EXTENSIONS.items() if name not in READ_ONLY for ext in several)
# Endings of pictures that are not read: of what a folder leaves out, they are named one by one.
UNREAD = frozenset(
    f".{ext}"
    for several in (
        "3fr arw cr2 cr3 crw dcr dng erf fff gpr iiq kdc mef mos mrw nef nrw orf pef raf raw rw2 rwl sr2 srf srw x3f",
        "cdr ai eps pdf ps psb psd svg svgz xcf afphoto clip kra ora djvu djv",
        "czi dcm dicom fit fits fts ims lif lsm mrc mrxs nd2 ndpi nii oib oif oir scn stk svs vsi",
        "bpg cur dds exr flif hdp hdr heics ico icns jls jng jxr mng pcx pfm pic pict qoi ras sgi wbmp wdp xbm xpm",
    )
    for ext in several.split()
)


class Input(Section):
    """What may be opened. A file beyond a limit fails alone."""

    max_pixels: Count = Field(default=64_000_000, description="width times height; 64M is 64 million")
    max_bytes: Count = Field(default=1_000_000_000, description="of the file")
    max_aspect: Annotated[float, Field(ge=1)] = Field(default=1000.0, description="longer side over shorter side")
    formats: Annotated[tuple[Format, ...], Field(strict=False, min_length=1)] = Field(
        default=("png", "jpeg", "tiff", "webp", "avif", "heif", "jxl", "jp2", "bmp", "gif", "tga", "pnm"),
        description=f"formats that are opened and that a folder lists; {', '.join(READ_ONLY)} are read and not written",
    )


def _writable(value: str) -> str:
    if not value.lower().endswith((*WRITTEN, ".{ext}")):
        raise ValueError("should end in .png, .jpg, .tif, .webp, .avif or .{ext}")
    if value.startswith(("/", "~")) or "\\" in value or re.match(r"[A-Za-z]:", value):
        raise ValueError("should be a path inside the run's images folder, with / between its parts")
    if ".." in value.split("/"):
        raise ValueError("should stay in the run's images folder: '..' leaves it")
    if re.search(r"[\x00-\x1f\x7f]", value):
        raise ValueError("should hold no control character")
    for part in value.split("/"):
        if re.match(r"(?i)(con|prn|aux|nul|com[1-9]|lpt[1-9])(\.|$)", part):
            raise ValueError(f"should not use {part!r}: Windows reserves that name")
    return value


Strength = Annotated[float, Field(ge=0, le=1)]


class Output(Section):
    """What is written. The file's ending is its format."""

    template: Annotated[Template, AfterValidator(_writable)] = Field(
        default="{relpath}/{name}.png",
        description="file in the run's images folder; {{ and }} stand for braces",
    )
    bit_depth: Literal["source", 8, 16] = Field(default="source", description="bits for each channel")
    strength: Strength = Field(
        default=1.0, description="share of the change that is applied: 1 returns the answer, 0 the picture as it came"
    )
