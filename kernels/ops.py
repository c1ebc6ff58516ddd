"""The face of the kernels: what generators, tasks and fits call.

Every name here runs plain PyTorch unless this process chose a fused kernel for it (`choose_fused`), which is an error
where it cannot run. No GPU has measured a fused kernel yet, so that none is a default; one that the compiler equals
goes, and one that becomes a default has a record in `bench/records` that shows it faster.
"""

from .choice import FUSED, choose_fused, fused
from .faces import adam_, head, norm_pad, upsample_concat
from .reference import (
    activate,
    batch_norm,
    decimate,
    downsample,
    interleave,
    nearest_conv,
    newton_schulz,
    pad,
    phase_taps,
    resampling_taps,
    upsample2x,
    worth,
)

__all__ = [
    "FUSED",
    "activate",
    "adam_",
    "batch_norm",
    "choose_fused",
    "decimate",
    "downsample",
    "fused",
    "head",
    "interleave",
    "nearest_conv",
    "newton_schulz",
    "norm_pad",
    "pad",
    "phase_taps",
    "resampling_taps",
    "upsample2x",
    "upsample_concat",
    "worth",
]
