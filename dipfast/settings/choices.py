"""Words and limits that the settings, the command line and benchmarks share. Importing them needs no pydantic."""

from typing import Literal

FitPrecision = Literal["fp32", "tf32", "bf16", "fp16"]  # of convolutions and activations
Precision = Literal["auto", FitPrecision]
ExportPrecision = Literal["fp32", "fp16", "bf16"]  # of a model for another engine
ExportOf = Literal["auto", "picture", "denoiser"]  # what a model is to be of
MIN_PSNR_TO_PICTURE = 40.0  # dB, how near its render must come to the kept picture to be of that
