"""Plain PyTorch of every operation. It runs anywhere and is what a fused kernel is held against.

It knows neither networks nor tasks. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

PAD_MODES = {"reflection": "reflect", "replication": "replicate", "zero": "constant"}
# Quintic iteration of Jordan (2024), https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def pad(
    x: Tensor,  # [B, C, H, W]
    amount: int,
    mode: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Pad all four sides by ``amount``. ``mode``: reflection, replication or zero."""
    return F.pad(x, (amount,) * 4, mode=PAD_MODES[mode]) if amount else x


def upsample2x(
    x: Tensor,  # [B, C, H, W]
    mode: str,
) -> Tensor:  # [B, C, 2 H, 2 W]
    """Twice the size. ``mode``: nearest, or bilinear with half-pixel centres."""
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return _Bilinear2x.apply(x)


class _Bilinear2x(torch.autograd.Function):
    """PyTorch's bilinear upsampling with a backward that gathers: deterministic, and three times as fast on a CPU.

    The adjoint of upsampling with clamped borders is the low-pass (1, 3, 3, 1) / 4 along each axis of the gradient
    with its borders replicated, at every second pixel.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        taps = grad.new_full((4,), 0.75)  # made on the device: a copy from the host cannot be captured
        taps[::3] = 0.25
        kernel = torch.outer(taps, taps).expand(grad.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(grad, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=grad.shape[1])


def batch_norm(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float = 1e-5,
) -> Tensor:  # [B, C, H, W]
    """Normalise by the statistics of ``x`` itself (biased variance), then scale and shift. No running averages."""
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def newton_schulz(
    matrices: Tensor,  # [N, rows, columns]
    steps: int,
) -> Tensor:  # [N, rows, columns]
    """The nearest semi-orthogonal matrices, roughly: singular values end between about 0.7 and 1.2."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def activate(x: Tensor, name: str) -> Tensor:
    """``name``: leaky_relu (slope 0.2), relu, elu, swish or none."""
    if name == "leaky_relu":
        return F.leaky_relu(x, 0.2)
    if name == "none":
        return x
    if name == "swish":
        return F.silu(x)
    return F.relu(x) if name == "relu" else F.elu(x)


def resampling_taps(kernel: str, scale: int) -> Tensor:  # [K] float64, sums to 1
    """A low-pass for an integer reduction by ``scale``, pixel centres aligned: lanczos2, lanczos3 or bicubic.

    Equals the kernel of the first paper's downsampler (phase 0.5) for even scales. Bicubic is Keys' with a = -1/2.
    """
    support = 3 if kernel == "lanczos3" else 2
    margin = (support - 1) * scale + (scale - 1) // 2 + 1
    offsets = torch.arange(-margin, scale + margin, dtype=torch.float64) - (scale - 1) / 2
    t = (offsets / scale).abs()
    taps = _bicubic(t) if kernel == "bicubic" else torch.sinc(t) * torch.sinc(t / support)
    taps = torch.where(t < support, taps, 0.0)
    used = taps.abs() > 1e-12
    return taps[used] / taps.sum()


def _bicubic(t: Tensor) -> Tensor:
    return torch.where(t <= 1, (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2)


def downsample(
    x: Tensor,  # [B, C, H, W]
    taps: Tensor,  # [K], symmetric, sums to 1
    scale: int,
) -> Tensor:  # [B, C, H / scale, W / scale]
    """A fixed separable low-pass, then every ``scale``-th pixel; borders replicated. H and W divide by ``scale``."""
    channels, margin = x.shape[1], (taps.numel() - scale) // 2
    taps = taps.to(x.dtype)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    x = F.conv2d(F.pad(x, (margin, margin, 0, 0), mode="replicate"), row, stride=(1, scale), groups=channels)
    return F.conv2d(F.pad(x, (0, 0, margin, margin), mode="replicate"), column, stride=(scale, 1), groups=channels)
