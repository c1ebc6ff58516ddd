"""The fixed input z of a generator: noise, a mesh grid, an image, or Fourier features. Drawn on the CPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dipfast.settings.generator import FourierInput, ImageInput, Latent, NoiseInput


def make_latent(
    latent: Latent,
    height: int,
    width: int,
    seed: int,
    guide: Tensor,  # [1, C, H, W], what a latent of type `image` shows
) -> Tensor:  # [1, D, H, W] float32
    """Return the latent that ``latent`` (a generator's `input`) and ``seed`` determine, the same on every machine."""
    if isinstance(latent, NoiseInput):
        return _noise(latent, height, width, seed)
    if isinstance(latent, ImageInput):
        picture, beside = guide.detach().float().cpu(), latent.noise
        return torch.cat((picture, _noise(beside, height, width, seed)), 1) if beside else picture.clone()
    grid = _meshgrid(height, width)
    return _fourier(grid, latent.frequencies) if isinstance(latent, FourierInput) else grid


def _noise(latent: NoiseInput, height: int, width: int, seed: int) -> Tensor:
    """Draw from U(0, 1) or N(0, 1), times `scale` (0.1 in Ulyanov et al.)."""
    rng = torch.Generator().manual_seed(seed)
    shape = (1, latent.depth, height, width)
    draw = torch.rand if latent.distribution == "uniform" else torch.randn
    return draw(shape, generator=rng) * latent.scale


def _meshgrid(height: int, width: int) -> Tensor:
    """Return x and y, each from 0 to 1. [1, 2, H, W]"""
    y, x = torch.meshgrid(_ramp(height), _ramp(width), indexing="ij")
    return torch.stack((x, y))[None]


def _ramp(length: int) -> Tensor:
    return torch.arange(length, dtype=torch.float32) / max(length - 1, 1)


def _fourier(grid: Tensor, frequencies: int) -> Tensor:
    """Return sin and cos of 2^k pi x and 2^k pi y, k < frequencies (Shabtay et al., 2022). [1, 4 frequencies, H, W]"""
    octaves = 2.0 ** torch.arange(frequencies, dtype=torch.float32) * math.pi
    angles = (octaves.view(1, -1, 1, 1, 1) * grid[:, None]).flatten(1, 2)
    return torch.cat((angles.sin(), angles.cos()), dim=1)
