"""Plain PyTorch of every operation. It runs anywhere and is what a fused kernel is held against.

It knows neither networks nor tasks. Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Quintic iteration of Jordan (2024), https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def pad(
    x: Tensor,  # [B, C, H, W]
    amount: int,
    mode: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Pad all four sides by ``amount``. ``mode``: reflection, replication or zero."""
    if not amount:
        return x
    return F.pad(x, (amount,) * 4) if mode == "zero" else _Pad.apply(x, amount, mode)


class _Pad(torch.autograd.Function):
    """Borders as copies of slices, and their gradients as sums over slices: channels last and deterministic.

    PyTorch's own padding on CUDA gives another layout and adds gradients atomically.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, amount: int, mode: str) -> Tensor:
        ctx.amount, ctx.mode = amount, mode
        batch, channels, height, width = x.shape
        rows, columns = height + 2 * amount, width + 2 * amount
        y = x.new_empty(batch, rows, columns, channels).permute(0, 3, 1, 2)
        y[:, :, amount:-amount, amount:-amount] = x
        for border, source in _mirrored(amount, columns, mode):
            y[:, :, amount:-amount, border] = y[:, :, amount:-amount, source]
        for border, source in _mirrored(amount, rows, mode):
            y[:, :, border] = y[:, :, source]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        amount = ctx.amount
        rows, columns = grad.shape[2:]
        tall = grad[:, :, amount:-amount].clone()
        for border, source in _mirrored(amount, rows, ctx.mode):
            tall[:, :, source - amount] += grad[:, :, border]
        inner = tall[..., amount:-amount].clone(memory_format=torch.channels_last)
        for border, source in _mirrored(amount, columns, ctx.mode):
            inner[..., source - amount] += tall[..., border]
        return inner, None, None


def _mirrored(amount: int, length: int, mode: str) -> list[tuple[int, int]]:
    """Along an axis that is ``length`` long with its borders: each border's place, and that of its source."""
    last = length - 1
    if mode == "replication":
        near = [(i, amount) for i in range(amount)]
    else:
        near = [(amount - i, amount + i) for i in range(1, amount + 1)]
    return near + [(last - border, last - source) for border, source in near]


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


def nearest_conv(
    x: Tensor,  # [B, C, H, W], the coarse scale
    kept: Tensor | None,  # [B, S, 2 H, 2 W], the skip branch
    weight: Tensor,  # [O, S + C, 3, 3]
    gain: Tensor,  # [S + C], the scale of the normalisation
    mode: str,
    eps: float = 1e-5,
) -> Tensor:  # [4 B, O, H, W], the four phases: even rows and columns, even and odd, odd and even, odd
    """Upsample ``x`` to twice the size, nearest; put ``kept`` before it; normalise, pad, convolve.

    Up to a constant for each output channel, which a normalisation behind it removes, this is exact for ``mode``
    reflection or replication, at 4/9 of the products, and neither the upsampled, the joined, nor the normalised
    tensor comes into being: a nearest-upsampled tensor has the statistics of the small one; a channel's scale moves
    into the weights, for padding commutes with it, and its shift adds a constant; and of nine neighbours of a fine
    pixel only four differ, so that each phase is a 2x2 convolution of the small tensor with replicated borders.
    """
    skips = 0 if kept is None else kept.shape[1]
    inverse = [_InverseDeviation.apply(t, eps) for t in (kept, x) if t is not None]
    weight = weight * (gain * torch.cat(inverse)).view(1, -1, 1, 1)
    small = pad(x, 1, "replication")
    kernels = _phase_kernels(weight[:, skips:])
    if kept is None:
        return torch.cat(_per_phase(small, kernels))
    if 4 * skips <= x.shape[1]:  # four fine pixels as channels of one coarse pixel
        cells = F.pixel_unshuffle(pad(kept, 2, mode), 2)
        joined = [torch.cat(pair, dim=1) for pair in zip(_cell_kernels(weight[:, :skips]), kernels, strict=True)]
        return torch.cat(_per_phase(torch.cat((cells, small), dim=1), joined))
    fine = pad(kept, 1, mode)
    both = _per_phase(small, kernels), _per_phase(fine, [weight[:, :skips]] * 4, stride=2)
    return torch.cat([one + other for one, other in zip(*both, strict=True)])


def _per_phase(x: Tensor, kernels: list[Tensor], stride: int = 1) -> list[Tensor]:
    """``x`` convolved with each phase's kernel, from where the phase begins."""
    height, width = x.shape[2] - 1, x.shape[3] - 1
    return [
        F.conv2d(x[:, :, i // 2 : i // 2 + height, i % 2 : i % 2 + width], kernel.to(x.dtype), stride=stride)
        for i, kernel in enumerate(kernels)
    ]


class _InverseDeviation(torch.autograd.Function):
    """[B, C, H, W] -> [C] in float32 or better, 1 / sqrt(variance + eps), by the kernel of the normalisation.

    PyTorch's own variance of a bf16 tensor is rounded to bf16, and that of a converted copy takes three passes more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        _, mean, inverse = torch.native_batch_norm(x, None, None, None, None, True, 0.0, eps)
        ctx.save_for_backward(x, mean, inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, mean, inverse = ctx.saved_tensors
        slope = -grad * inverse**3 / (x.numel() / x.shape[1])
        shift = -slope * mean
        return torch.addcmul(shift.to(x.dtype).view(1, -1, 1, 1), x, slope.to(x.dtype).view(1, -1, 1, 1)), None


def _phase_kernels(weight: Tensor) -> list[Tensor]:  # [O, C, 3, 3] -> four of [O, C, 2, 2]
    """Of three taps along an axis, an even pixel's last two fall on one coarse pixel, an odd pixel's first two."""
    top, middle, bottom = weight.unbind(2)
    rows = [torch.stack(pair, 2) for pair in ((top, middle + bottom), (top + middle, bottom))]
    return [torch.stack(pair, 3) for row in rows for pair in _pairs(*row.unbind(3))]


def _pairs(left: Tensor, middle: Tensor, right: Tensor) -> list[tuple[Tensor, Tensor]]:
    return [(left, middle + right), (left + middle, right)]


def _cell_kernels(weight: Tensor) -> list[Tensor]:  # [O, S, 3, 3] -> four of [O, 4 S, 2, 2]
    """The same nine taps, for a tensor whose 2x2 cells are stacked as channels (`pixel_unshuffle`)."""
    outputs = weight.shape[0]
    padded = [F.pad(weight, (1 - x, x, 1 - y, y)) for y in (0, 1) for x in (0, 1)]  # each [O, S, 4, 4]
    cells = [p.unflatten(3, (2, 2)).unflatten(2, (2, 2)) for p in padded]  # [O, S, cell y, y, cell x, x]
    return [c.permute(0, 1, 3, 5, 2, 4).reshape(outputs, -1, 2, 2) for c in cells]


def interleave(
    phases: Tensor,  # [4 B, C, H, W]
) -> Tensor:  # [B, C, 2 H, 2 W]
    """The picture whose four phases `nearest_conv` gave."""
    _, channels, height, width = phases.shape
    grid = phases.permute(0, 2, 3, 1).reshape(2, 2, -1, height, width, channels)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(-1, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


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
    return decimate(pad(x, (taps.numel() - scale) // 2, "replication"), taps, scale)


def decimate(
    x: Tensor,  # [B, C, H + K - scale, W + K - scale], with its borders
    taps: Tensor,  # [K]
    scale: int,
) -> Tensor:  # [B, C, H / scale, W / scale]
    """The low-pass of `downsample` where the borders are there already."""
    channels, taps = x.shape[1], taps.to(x.dtype)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    x = F.conv2d(x, row, stride=(1, scale), groups=channels)
    return F.conv2d(x, column, stride=(scale, 1), groups=channels)
