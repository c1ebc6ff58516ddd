"""The face of the kernels: what generators, tasks and fits call.

Every name here is the plain PyTorch of `reference.py` today. A fused kernel joins a name only with a record in
`bench/records` that shows it faster than the compiler's code for the same name.
"""

from .reference import (
    activate,
    batch_norm,
    downsample,
    interleave,
    nearest_conv,
    newton_schulz,
    pad,
    resampling_taps,
    upsample2x,
)

__all__ = [
    "activate",
    "batch_norm",
    "downsample",
    "interleave",
    "nearest_conv",
    "newton_schulz",
    "pad",
    "resampling_taps",
    "upsample2x",
]
