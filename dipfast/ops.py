"""Operations on tensors that rooms share, in plain PyTorch, and the two that a fit may run as Triton kernels.

They know neither networks nor tasks. Plain operations run anywhere and are the default. The kernels are in
`dipfast.kernels`, which is imported where one is called: nothing here needs Triton.
Shapes: B batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# Quintic iteration of Jordan (2024), https://kellerjordan.github.io/posts/muon/
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
NATIVE_PIXELS = 128 * 128  # up to here a CPU pads by PyTorch's own operation
SMALL_PRODUCTS, SMALL_INPUT = 2_500_000, 2**16  # up to both a CPU convolves in float32: `conv_dtype`


def pad(
    x: Tensor,  # [B, C, H, W]
    amount: int,
    mode: str,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Pad all four sides by ``amount``. ``mode``: reflection, replication or zero."""
    if not amount:
        return x
    if mode == "zero":
        return F.pad(x, (amount,) * 4)
    if x.device.type == "cpu" and x.shape[2] * x.shape[3] <= NATIVE_PIXELS and not torch.compiler.is_compiling():
        return F.pad(x, (amount,) * 4, {"reflection": "reflect", "replication": "replicate"}[mode])
    return _Pad.apply(x, amount, mode)


class _Pad(torch.autograd.Function):
    """Borders as copies of slices, and their gradients as sums over slices: channels last and deterministic.

    PyTorch's own padding on CUDA gives another layout and adds gradients atomically; on a CPU it is as good, and up to
    five times as fast for a small tensor, but its backward runs on one thread (LOG.md).
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


def inside(
    x: Tensor,  # [B, C, H + 2 margin, W + 2 margin]
    margin: int,
) -> Tensor:  # [B, C, H, W]
    """The part of ``x`` without its padding, as a view."""
    return x[..., margin:-margin, margin:-margin] if margin else x


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


def conv_dtype(
    dtype: torch.dtype,
    x: Tensor,  # [B, I, H, W]
    products: int,
) -> torch.dtype:
    """``dtype``, or float32 on a CPU where a convolution of ``x`` has so few ``products`` that float32 is faster.

    oneDNN's calls in bf16 cost 150 to 250 microseconds whatever they do, four times those in float32 (LOG.md).
    """
    small = products <= SMALL_PRODUCTS and x.numel() <= SMALL_INPUT
    return torch.float32 if small and x.device.type == "cpu" and dtype.itemsize < 4 else dtype


def nearest_conv(
    x: Tensor,  # [B, C, H, W], the coarse scale
    kept: Tensor | None,  # [B, S, 2 H, 2 W], the skip branch
    weight: Tensor,  # [O, S + C, 3, 3]
    gain: Tensor,  # [S + C], the scale of the normalisation
    mode: str,
    taps: Tensor,  # [80, 9], `phase_taps`
    dtype: torch.dtype,  # of the convolution
    eps: float = 1e-5,
    margin: int = 0,  # rows and columns that ``kept`` is padded by already: none, or all that `kept_margin` asks for
) -> Tensor:  # [4 B, O, H, W], the four phases: even rows and columns, even and odd, odd and even, odd
    """Upsample ``x`` to twice the size, nearest; put ``kept`` before it; normalise, pad, convolve.

    Up to a constant for each output channel, which a normalisation after it removes, this is exact for ``mode``
    reflection or replication, at 4/9 of the products, and neither the upsampled, the joined, nor the normalised
    tensor comes into being: a nearest-upsampled tensor has the statistics of the small one; a channel's scale moves
    into the weights, for padding commutes with it, and its shift adds a constant; and of nine neighbours of a fine
    pixel only four differ, so that each phase is a 2x2 convolution of the small tensor with replicated borders. The
    four run as one convolution of 4 O channels on a grid that is one row and column larger than a phase.
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
    """Whether `nearest_conv` takes four fine pixels of the skip branch as channels of one coarse pixel."""
    return 4 * skips <= coarse


def kept_margin(skips: int, coarse: int) -> int:
    """How far `nearest_conv` pads a skip branch of ``skips`` channels beside a coarse scale of ``coarse`` channels."""
    return 2 if in_cells(skips, coarse) else 1


def phase_taps() -> Tensor:  # [80, 9] float32, zeros and ones
    """Which of nine taps fall on which tap of a 2x2 kernel: for a tensor upsampled by two, then for one in cells.

    Rows are phase, then tap; for cells then the place in the cell. Along an axis, an even pixel's last two of three
    taps fall on one coarse pixel, an odd pixel's first two; in cells (`pixel_unshuffle`), each falls on its own.
    """
    phase, tap, place, source = (torch.arange(n).view(shape) for n, shape in _AXES)
    coarse = ((source >= 1 + phase) == (tap == 1))[:, :, 0].float()
    cells = (source == 2 * tap + place - 1 + phase).float()
    over_coarse = torch.einsum("aiu,bjv->abijuv", coarse, coarse).reshape(16, 9)
    return torch.cat((over_coarse, torch.einsum("aiyu,bjxv->abijyxuv", cells, cells).reshape(64, 9)))


_AXES = ((2, (2, 1, 1, 1)), (2, (1, 2, 1, 1)), (2, (1, 1, 2, 1)), (3, (1, 1, 1, 3)))


def _in_phases(
    x: Tensor,  # [B, I, H + 2, W + 2]
    kernels: Tensor,  # [O, 16, I], phase and tap in the middle
) -> Tensor:  # [4 B, O, H, W]
    outputs, _, inputs = kernels.shape
    kernels = kernels.to(x.dtype).unflatten(1, (4, 2, 2)).transpose(0, 1).reshape(4 * outputs, 2, 2, inputs)
    return _Phases.apply(F.conv2d(x, kernels.permute(0, 3, 1, 2)))


class _Phases(torch.autograd.Function):
    """Four results of one convolution, as channels, each from where its phase begins, put one after the other."""

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
    height, width = phases.shape[2:]
    parts = zip(phases.chunk(4), whole.chunk(4, dim=1), strict=True)
    return [(p, w[:, :, i // 2 : i // 2 + height, i % 2 : i % 2 + width]) for i, (p, w) in enumerate(parts)]


def _every_second(x: Tensor, kernel: Tensor) -> Tensor:
    """``x`` convolved with stride 2 from each of the four places of a cell, one after the other."""
    height, width = x.shape[2] - 1, x.shape[3] - 1
    starts = [x[:, :, i // 2 : i // 2 + height, i % 2 : i % 2 + width] for i in range(4)]
    return torch.cat([F.conv2d(start, kernel, stride=2) for start in starts])


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
    """The nearest semi-orthogonal matrices, roughly: singular values end between about 0.7 and 1.2.

    These products, over matrices of one shape, are what every fit so far has run. All shapes in one batch, and sums
    inside the products (`newton_schulz_together`), are the same but for rounding, and so give other bits.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def newton_schulz_together(
    groups: Sequence[Tensor],  # of [N, rows, columns] each, float32
    steps: int,
    dtype: torch.dtype,  # of the products
) -> list[Tensor]:  # as the groups, in ``dtype``
    """`newton_schulz` of all groups in one batch, by the kernel of `dipfast.kernels`.

    Matrices taller than wide lie on their side and zeros pad all to one size, which changes nothing but rounding.
    Raises RuntimeError where the kernel cannot run.
    """
    from dipfast.kernels.newton_schulz import newton_schulz as kernel

    wide = [group.mT if group.shape[1] > group.shape[2] else group for group in groups]
    rows, columns = (max(matrices.shape[axis] for matrices in wide) for axis in (1, 2))
    batch = wide[0].new_zeros(sum(map(len, wide)), rows, columns)
    for place, matrices in zip(_places(batch, wide), wide, strict=True):
        place.copy_(matrices)
    batch = batch / (batch.norm(dim=(1, 2), keepdim=True) + 1e-20)  # before the cast, in which small ones would vanish
    done = _places(kernel(batch.to(dtype), steps), wide)
    return [one.mT if one.shape != group.shape else one for one, group in zip(done, groups, strict=True)]


def _places(batch: Tensor, groups: Sequence[Tensor]) -> list[Tensor]:
    """The parts of ``batch`` that hold ``groups``, as views."""
    parts = batch.split([len(group) for group in groups])
    return [part[:, : group.shape[1], : group.shape[2]] for part, group in zip(parts, groups, strict=True)]


def activate(x: Tensor, name: str) -> Tensor:
    """``name``: leaky_relu (slope 0.2), relu, elu, swish or none."""
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
    """`batch_norm`, `activate` and `pad` by one kernel of `dipfast.kernels`. ``mode``: reflection or replication.

    Raises RuntimeError where the kernel cannot run.
    """
    from dipfast.kernels.norm_pad import norm_pad as kernel

    padded: Tensor = kernel(x, weight, bias, activation, amount, mode, eps)[0]
    return padded


def missing_for_kernels(device: torch.device) -> str | None:
    """What Triton's kernels need and have not on ``device``; None where they run."""
    from dipfast.kernels.checks import missing

    found: str | None = missing(device)
    return found


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
