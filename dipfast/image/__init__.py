"""The image room: files and arrays to float32 [C, H, W] in [0, 1], and back in the form in which they came.

What it promises: the fitted pixels are upright; size, depth, description of colours, EXIF, XMP and alpha come back;
nothing is cropped; what a format does not hold is said (`losses`); a bad file is an `ItemError` with a reason, found
from its header where the header can tell. What it does not know: tasks, networks, manifests, torch. IPTC blocks of
JPEGs and text chunks are not carried.
"""

from dipfast.image.array import from_array, to_array
from dipfast.image.pad import cut, pad
from dipfast.image.read import probe, read
from dipfast.image.samples import in_range_of, opacity
from dipfast.image.source import Header, Image, Limits, Source
from dipfast.image.write import check_output, encode, format_of, losses, write

__all__ = [
    "Header",
    "Image",
    "Limits",
    "Source",
    "check_output",
    "cut",
    "encode",
    "format_of",
    "from_array",
    "in_range_of",
    "losses",
    "opacity",
    "pad",
    "probe",
    "read",
    "to_array",
    "write",
]
