"""The manifest's vocabulary: every section, key, type and limit, as frozen pydantic models.

This room is what `dipfast schema` prints and what an error quotes. It holds no values tuned for quality:
those are in `dipfast/presets.py`. Sigma is in 8-bit units (0 to 255) wherever it appears; everything else
that speaks of pixels is in [0, 1].
"""

from dipfast.manifest.schema.degrade import Shrink
from dipfast.manifest.schema.document import VERSION, Document, Entry, Export, Preset, Products, Report, Settings
from dipfast.manifest.schema.files import EXTENSIONS, SUFFIXES, UNREAD, WRITTEN, Input, Output
from dipfast.manifest.schema.fit import Adam, Fit, Sgld
from dipfast.manifest.schema.generator import ImageInput, SkipGenerator
from dipfast.manifest.schema.section import Section, check_template, sections
from dipfast.manifest.schema.stop import (
    BlocksStop,
    DiscrepancyStop,
    EmaVarianceStop,
    FixedStop,
    HeldOutStop,
    Stop,
    SureStop,
    WindowedVarianceStop,
)
from dipfast.manifest.schema.task import LATER_TASKS, Denoise, GaussianNoise, Inpaint, Jpeg, PoissonNoise, SuperRes

__all__ = [
    "EXTENSIONS",
    "LATER_TASKS",
    "SUFFIXES",
    "UNREAD",
    "VERSION",
    "WRITTEN",
    "Adam",
    "BlocksStop",
    "Denoise",
    "DiscrepancyStop",
    "Document",
    "EmaVarianceStop",
    "Entry",
    "Export",
    "Fit",
    "FixedStop",
    "GaussianNoise",
    "HeldOutStop",
    "ImageInput",
    "Inpaint",
    "Input",
    "Jpeg",
    "Output",
    "PoissonNoise",
    "Preset",
    "Products",
    "Report",
    "Section",
    "Settings",
    "Sgld",
    "Shrink",
    "SkipGenerator",
    "Stop",
    "SuperRes",
    "SureStop",
    "WindowedVarianceStop",
    "check_template",
    "sections",
]
