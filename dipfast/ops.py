"""Operations on tensors that several rooms share, in plain PyTorch, and the two that a fit may run as Triton kernels.

They know nothing of networks or tasks. The plain operations run anywhere and are the default. The kernels are in
`dipfast.kernels`, which is imported only inside the functions that call one, so that this module does not need Triton.
In shapes, B is the batch, C the channels, H the height and W the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The coefficients of the quintic iteration of Jordan (2024), https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NATIVE_PIXELS = 128 * 128  # up to here a CPU pads by PyTorch's own operation
SMALL_PRODUCTS, SMALL_INPUT = 2_500_000, 2**16  # up to both a CPU convolves in float32: `conv_dtype`


def pad(
    x: Tensor,  # [B, C, H, W]
    amount: int,
    mode: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Pad all four sides by ``amount`` pixels; ``mode`` is reflection, replication or zero."""
    if not amount:
        return x
    if mode == "zero":
        return F.pad(x, (amount,) * 4)
    if x.device.type == "cpu" and x.shape[2] * x.shape[3] <= NATIVE_PIXELS and not torch.compiler.is_compiling():
        return F.pad(x, (amount,) * 4, {"reflection": "reflect", "replication": "replicate"}[mode])
    return _Pad.apply(x, amount, mode)


class _Pad(torch.autograd.Function):
    """Padding that copies slices and sums gradients over slices: channels last and deterministic.

    PyTorch's own padding on CUDA gives another layout and adds gradients atomically. On a CPU it is deterministic, and
    up to five times as fast for a small tensor, but its backward uses a single thread (LOG.md, 2026-11-24).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, amount: int, mode: str) -> Tensor:
        ctx.amount, ctx.mode = amount, mode
        batch, channels, height, width = x.shape
        rows, columns = height + 2 * amount, width + 2 * amount
        y = x.new_empty(batch, rows, columns, channels).permute(0, 3, 1, 2)
        y[:, :, amount:-amount, amount:-amount] = x
        for border, source in _border_sources(amount, columns, mode):
            y[:, :, amount:-amount, border] = y[:, :, amount:-amount, source]
        for border, source in _border_sources(amount, rows, mode):
            y[:, :, border] = y[:, :, source]
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        amount = ctx.amount
        rows, columns = grad.shape[2:]
        tall = grad[:, :, amount:-amount].clone()
        for border, source in _border_sources(amount, rows, ctx.mode):
            tall[:, :, source - amount] += grad[:, :, border]
        inner = tall[..., amount:-amount].clone(memory_format=torch.channels_last)
        for border, source in _border_sources(amount, columns, ctx.mode):
            inner[..., source - amount] += tall[..., border]
        return inner, None, None


def _border_sources(amount: int, length: int, mode: str) -> list[tuple[int, int]]:
    """Return pairs of indices along a padded axis of ``length``: that of a padded line, and that of its source."""
    last = length - 1
    if mode == "replication":
        near = [(i, amount) for i in range(amount)]
    else:
        near = [(amount - i, amount + i) for i in range(1, amount + 1)]
    return near + [(last - border, last - source) for border, source in near]


def inside(
    x: Tensor,  # [B, C, H + 2 margin, W + 2 margin]
    margin: int,
) -> Tensor:  # [B, C, H, W]
    """Return a view of ``x`` without ``margin`` rows and columns of padding on each side."""
    return x[..., margin:-margin, margin:-margin] if margin else x


def upsample2x(
    x: Tensor,  # [B, C, H, W]
    mode: str,
) -> Tensor:  # [B, C, 2 H, 2 W]
    """Upsample to twice the size; ``mode`` is nearest, or bilinear with half-pixel centres (align_corners=False)."""
    if mode == "nearest":
        return F.interpolate(x, scale_factor=2, mode="nearest")
    return _Bilinear2x.apply(x)


class _Bilinear2x(torch.autograd.Function):
    """PyTorch's bilinear upsampling with a backward that is deterministic, and three times as fast on a CPU.

    The adjoint of upsampling by 2 with clamped borders is a convolution of the gradient, padded by replication, with
    (1, 3, 3, 1) / 4 along each axis and a stride of 2, so that each pixel gathers its gradients.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        taps = grad.new_full((4,), 0.75)  # made on the device, because a captured graph allows no copy from the host
        taps[::3] = 0.25
        kernel = torch.outer(taps, taps).expand(grad.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(grad, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=grad.shape[1])


def conv_dtype(
    dtype: torch.dtype,
    x: Tensor,  # [B, I, H, W]
    products: int,
) -> torch.dtype:
    """Return ``dtype``, or float32 on a CPU if a convolution of ``x`` has so few ``products`` that that is faster.

    A call of oneDNN in bf16 takes at least 150 to 250 microseconds, up to four times one in float32 (LOG.md,
    2026-11-24).
    """
    small = products <= SMALL_PRODUCTS and x.numel() <= SMALL_INPUT
    return torch.float32 if small and x.device.type == "cpu" and dtype.itemsize < 4 else dtype


def nearest_conv(
    x: Tensor,  # [B, C, H, W], the coarse scale
    kept: Tensor | None,  # [B, S, 2 H, 2 W], the skip branch, if there is one
    weight: Tensor,  # [O, S + C, 3, 3]
    gain: Tensor,  # [S + C], the scales of the normalisation
    mode: str,
    taps: Tensor,  # [80, 9], `phase_taps`
    dtype: torch.dtype,  # of the convolution
    eps: float = 1e-5,
    margin: int = 0,  # rows and columns by which ``kept`` is padded already: 0, or the result of `kept_margin`
) -> Tensor:  # [4 B, O, H, W], the phases (even, even), (even, odd), (odd, even), (odd, odd) of rows and columns
    """Upsample ``x`` by 2 with nearest neighbours, concatenate it to ``kept``, normalise, pad, and convolve.

    The result is that of the separate operations for ``mode`` reflection or replication, except for a constant in each
    output channel, which a following normalisation removes. It needs 4/9 of the products, and no upsampled,
    concatenated or normalised tensor, for three reasons. An upsampled tensor has the statistics of the small one. A
    channel's scale can be moved into the weights, because padding commutes with it, and its shift adds a constant. And
    of the nine neighbours of a fine pixel only four differ, so that each phase is a 2x2 convolution of the small tensor
    with replicated borders. All four run as one convolution of 4 O channels, on a grid of one more row and column.
    """
    skips = 0 if kept is None else kept.shape[1]
    inner = None if kept is None else inside(kept, margin)
    inverse = [_InverseDeviation.apply(t, eps) for t in (inner, x) if t is not None]
    rows = weight.permute(0, 2, 3, 1).flatten(1, 2) * (gain * torch.cat(inverse))  # [O, 9, S + C]
    dtype = conv_dtype(dtype, x, 4 * weight.numel() * x.shape[2] * x.shape[3] * 4 // 9)
    small = pad(x.to(dtype), 1, "replication")
    kernels = taps[:16] @ rows[..., skips:]  # [O, 16, C]
    if kept is None:
        return _in_phases(small, kernels)
    around = pad(kept.to(dtype), kept_margin(skips, x.shape[1]) - margin, mode)
    if in_cells(skips, x.shape[1]):
        cells = F.pixel_unshuffle(around, 2)
        beside = (taps[16:] @ rows[..., :skips]).unflatten(1, (16, 4)).transpose(2, 3).flatten(2)  # [O, 16, 4 S]
        return _in_phases(torch.cat((cells, small), dim=1), torch.cat((beside, kernels), dim=2))
    fine = rows[..., :skips].unflatten(1, (3, 3)).permute(0, 3, 1, 2).to(dtype)
    return _in_phases(small, kernels) + _every_second(around, fine)


def in_cells(skips: int, coarse: int) -> bool:
    """Return whether `nearest_conv` takes four fine pixels of the skip branch as the channels of one coarse pixel."""
    return 4 * skips <= coarse


def kept_margin(skips: int, coarse: int) -> int:
    """Return how far `nearest_conv` pads a skip branch of ``skips`` channels for an ``x`` of ``coarse`` channels."""
    return 2 if in_cells(skips, coarse) else 1


def phase_taps() -> Tensor:  # [80, 9] float32, zeros and ones
    """Return which of the nine taps of a 3x3 kernel are added to which tap of the 2x2 kernels of `nearest_conv`.

    The first 16 rows are for an upsampled tensor, by phase and tap. The other 64 are for a tensor in cells of 2x2
    pixels (`pixel_unshuffle`), by phase, tap and place in the cell. Along an axis, the last two of three taps fall on
    the same coarse pixel for an even fine pixel, and the first two for an odd one. In cells, each falls on its own.
    """
    phase, tap, place, source = (torch.arange(n).view(shape) for n, shape in _AXES)
    coarse = ((source >= 1 + phase) == (tap == 1))[:, :, 0].float()
    cells = (source == 2 * tap + place - 1 + phase).float()
    over_coarse = torch.einsum("aiu,bjv->abijuv", coarse, coarse).reshape(16, 9)
    return torch.cat((over_coarse, torch.einsum("aiyu,bjxv->abijyxuv", cells, cells).reshape(64, 9)))


# Length and shape of phase, tap, place in the cell and tap of the 3x3 kernel, as axes of one tensor.
_AXES = ((2, (2, 1, 1, 1)), (2, (1, 2, 1, 1)), (2, (1, 1, 2, 1)), (3, (1, 1, 1, 3)))


def _in_phases(
    x: Tensor,  # [B, I, H + 2, W + 2]
    kernels: Tensor,  # [O, 16, I], by phase and tap in the middle
) -> Tensor:  # [4 B, O, H, W]
    """Convolve ``x`` with the 2x2 kernels of all four phases."""
    outputs, _, inputs = kernels.shape
    kernels = kernels.to(x.dtype).unflatten(1, (4, 2, 2)).transpose(0, 1).reshape(4 * outputs, 2, 2, inputs)
    return _Phases.apply(F.conv2d(x, kernels.permute(0, 3, 1, 2)))


class _Phases(torch.autograd.Function):
    """Move the four phases from the channels to the batch, each cut to the pixels at which it lies."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # [B, 4 O, H + 1, W + 1] -> [4 B, O, H, W]
        batch, channels, rows, columns = x.shape
        phases = x.new_empty(4 * batch, rows - 1, columns - 1, channels // 4).permute(0, 3, 1, 2)
        for mine, theirs in _phase_views(phases, x):
            mine.copy_(theirs)
        return phases

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        batch, channels, height, width = grad.shape
        whole = grad.new_zeros(batch // 4, height + 1, width + 1, 4 * channels).permute(0, 3, 1, 2)
        for theirs, mine in _phase_views(grad, whole):
            mine.copy_(theirs)
        return whole


def _phase_views(phases: Tensor, whole: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return for each phase its view in ``phases`` [4 B, O, H, W] and in ``whole`` [B, 4 O, H + 1, W + 1]."""
    height, width = phases.shape[2:]
    parts = zip(phases.chunk(4), whole.chunk(4, dim=1), strict=True)
    return [(p, w[:, :, i // 2 : i // 2 + height, i % 2 : i % 2 + width]) for i, (p, w) in enumerate(parts)]


def _every_second(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve ``x`` with a stride of 2 from each of the four places of a cell, and join the results in the batch."""
    height, width = x.shape[2] - 1, x.shape[3] - 1
    starts = [x[:, :, i // 2 : i // 2 + height, i % 2 : i % 2 + width] for i in range(4)]
    return torch.cat([F.conv2d(start, kernel, stride=2) for start in starts])


class _InverseDeviation(torch.autograd.Function):
    """Map [B, C, H, W] to 1 / sqrt(variance + eps) of each channel, [C] in at least float32.

    It uses PyTorch's kernel of batch normalisation, because `torch.var` rounds the result for a bf16 tensor to bf16,
    and a conversion of the tensor takes three more passes over it.
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


def interleave(
    phases: Tensor,  # [4 B, C, H, W]
) -> Tensor:  # [B, C, 2 H, 2 W]
    """Return the picture whose four phases `nearest_conv` has returned."""
    _, channels, height, width = phases.shape
    grid = phases.permute(0, 2, 3, 1).reshape(2, 2, -1, height, width, channels)
    return grid.permute(2, 3, 0, 4, 1, 5).reshape(-1, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def batch_norm(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    eps: float = 1e-5,
) -> Tensor:  # [B, C, H, W]
    """Normalise each channel by its own mean and biased variance, without running averages, then scale and shift."""
    return F.batch_norm(x, None, None, weight, bias, training=True, eps=eps)


def newton_schulz(
    matrices: Tensor,  # [N, rows, columns]
    steps: int,
) -> Tensor:  # [N, rows, columns]
    """Return approximations of the nearest semi-orthogonal matrices, with singular values of about 0.7 to 1.2.

    This is the iteration of Jordan (2024), https://kellerjordan.github.io/posts/muon/, over matrices of one shape. The
    kernel (`newton_schulz_batched`) takes all shapes in one batch and differs in rounding, so it gives other bits.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def newton_schulz_batched(
    groups: Sequence[Tensor],  # of [N, rows, columns] each, float32
    steps: int,
    dtype: torch.dtype,  # of the products
) -> list[Tensor]:  # as the groups, in ``dtype``
    """Apply `newton_schulz` to all groups in one batch, by the kernel of `dipfast.kernels`.

    Matrices that are taller than wide are transposed, and all are padded to one size with zeros, which changes only
    rounding. Raises RuntimeError where the kernel cannot run.
    """
    from dipfast.kernels.newton_schulz import newton_schulz as kernel

    wide = [group.mT if group.shape[1] > group.shape[2] else group for group in groups]
    rows, columns = (max(matrices.shape[axis] for matrices in wide) for axis in (1, 2))
    batch = wide[0].new_zeros(sum(map(len, wide)), rows, columns)
    for place, matrices in zip(_parts(batch, wide), wide, strict=True):
        place.copy_(matrices)
    batch = batch / (batch.norm(dim=(1, 2), keepdim=True) + 1e-20)  # before the cast, where small numbers would vanish
    done = _parts(kernel(batch.to(dtype), steps), wide)
    return [one.mT if one.shape != group.shape else one for one, group in zip(done, groups, strict=True)]


def _parts(batch: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    """Return views of the parts of ``batch`` that hold ``groups``."""
    parts = batch.split([len(group) for group in groups])
    return [part[:, : group.shape[1], : group.shape[2]] for part, group in zip(parts, groups, strict=True)]


def activate(x: Tensor, name: str) -> Tensor:
    """Apply the activation ``name``: leaky_relu (slope 0.2), relu, elu, swish or none."""
    if name == "leaky_relu":
        return F.leaky_relu(x, 0.2)
    if name == "none":
        return x
    if name == "swish":
        return F.silu(x)
    return F.relu(x) if name == "relu" else F.elu(x)


def norm_pad(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C] float32
    bias: Tensor,  # [C] float32
    activation: str,
    amount: int,
    mode: str,
    eps: float = 1e-5,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Apply `batch_norm`, `activate` and `pad` in one kernel of `dipfast.kernels`.

    ``mode`` is reflection or replication. Raises RuntimeError where the kernel cannot run.
    """
    from dipfast.kernels.norm_pad import norm_pad as kernel

    padded: Tensor = kernel(x, weight, bias, activation, amount, mode, eps)[0]
    return padded


def missing_for_kernels(device: torch.device) -> str | None:
    """Return in words what Triton's kernels lack on ``device``; None where they run."""
    from dipfast.kernels.checks import missing

    found: str | None = missing(device)
    return found


def resampling_taps(kernel: str, scale: int) -> Tensor:  # [K] float64, sums to 1
    """Return the taps of a low-pass for a reduction by the integer ``scale`` with aligned pixel centres.

    ``kernel`` is lanczos2, lanczos3 or bicubic (Keys 1981, a = -1/2), widened by ``scale``. For even scales the taps
    are those of the downsampler in the code of Ulyanov et al. (2018) at a phase of 0.5.
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
    """Return the cubic convolution kernel of Keys (1981) with a = -1/2 at distances ``t`` of 0 to 2."""
    return torch.where(t <= 1, (1.5 * t - 2.5) * t * t + 1, ((2.5 - 0.5 * t) * t - 4) * t + 2)


def downsample(
    x: Tensor,  # [B, C, H, W]
    taps: Tensor,  # [K], symmetric, sums to 1
    scale: int,
) -> Tensor:  # [B, C, H / scale, W / scale]
    """Reduce by ``scale``, a divisor of H and W: a separable low-pass with replicated borders, then subsampling."""
    return decimate(pad(x, (taps.numel() - scale) // 2, "replication"), taps, scale)


def decimate(
    x: Tensor,  # [B, C, H + K - scale, W + K - scale], with its borders
    taps: Tensor,  # [K]
    scale: int,
) -> Tensor:  # [B, C, H / scale, W / scale]
    """Reduce a padded image as `downsample` does after its padding."""
    channels, taps = x.shape[1], taps.to(x.dtype)
    row = taps.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    column = taps.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    x = F.conv2d(x, row, stride=(1, scale), groups=channels)
    return F.conv2d(x, column, stride=(scale, 1), groups=channels)
