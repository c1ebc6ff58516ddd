"""Image files and arrays as float32 [C, H, W] in [0, 1], and back in the form in which they came.

Pixels are upright. Size, depth, colour description, EXIF, XMP and alpha are written back, and nothing is cropped.
`losses` says what the output's format cannot hold. A bad file raises `ItemError` with a reason, from its header alone
where that is possible. IPTC blocks of JPEGs and text chunks are not carried over. The room knows nothing of tasks,
networks, manifests or torch.
"""

from dipfast.image.array import cut, from_array, pad, to_array
from dipfast.image.read import luma_steps, probe, read
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
    "luma_steps",
    "opacity",
    "pad",
    "probe",
    "read",
    "to_array",
    "write",
]
