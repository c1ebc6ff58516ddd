"""The plain twin of each fused kernel: the same contract in PyTorch, in whatever precision its arguments have.

It is what runs unless a fused kernel is asked for, what the compiler is given, and what a kernel is held against.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .reference import activate, batch_norm, pad, upsample2x

PHILOX_ROUNDS = 10
LOW = 0xFFFFFFFF


def adam_(
    values: Tensor,  # [P]
    grads: Tensor,  # [P], zero afterwards
    first: Tensor,  # [P]
    second: Tensor,  # [P]
    step: Tensor,  # 0-D, counts from 1
    shadow: Tensor | None,  # [P]
    seed: Tensor | None,  # 0-D int64
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    noise: float,
) -> None:
    """Algorithm 1 of Kingma and Ba (2015), weight decay added to the gradient, then normal noise on the weights.

    With ``seed``, ``noise`` is the deviation of what is added (stochastic gradient Langevin dynamics, Cheng et al.
    2019). ``shadow`` becomes a copy of the weights in its own precision.
    """
    grad = grads.add(values, alpha=weight_decay) if weight_decay else grads
    first.lerp_(grad, 1 - beta1)
    second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    denominator = second.sqrt().div_((1 - beta2**step).sqrt()).add_(eps)
    values.sub_(first.div(denominator).mul_(lr / (1 - beta1**step)))
    if seed is not None:
        values.add_(philox_normal(seed, step, values.numel(), values.dtype), alpha=noise)
    grads.zero_()
    if shadow is not None:
        shadow.copy_(values)


def philox_normal(
    seed: Tensor,  # 0-D int64
    step: Tensor,  # 0-D
    size: int,
    dtype: torch.dtype,
) -> Tensor:  # [size], standard normal
    """Element i of a step's noise is a function of (seed, step, i) alone.

    Philox-4x32-10 (Salmon et al. 2011) of counter (i, step, 0, 0), then Box and Muller on its first two words.
    """
    i = torch.arange(size, dtype=torch.int64, device=seed.device)
    zero = torch.zeros_like(i)
    c0, c1, c2, c3 = i, zero + step.to(torch.int64), zero, zero
    k0, k1 = seed & LOW, (seed >> 32) & LOW
    for _ in range(PHILOX_ROUNDS):
        high0, low0 = _product(0xD2511F53, c0)
        high2, low2 = _product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & LOW, (k1 + 0xBB67AE85) & LOW
    radius = (-2 * _uniform(c0, dtype).clamp_min(1e-7).log()).sqrt()
    return radius * (2 * math.pi * _uniform(c1, dtype)).cos()


def _product(factor: int, x: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of two 32-bit numbers, without leaving int64."""
    low = factor * (x & 0xFFFF)
    middle = factor * (x >> 16) + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)


def _uniform(word: Tensor, dtype: torch.dtype) -> Tensor:  # in [0, 1)
    signed = torch.where(word > 0x7FFFFFFF, LOW - word, word)
    return signed.to(dtype) * 4.6566127342e-10


def head(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K, C]
    bias: Tensor,  # [K]
    target: Tensor,  # [B, K, H, W]
    mask: Tensor | None,  # [B, 1, H, W]
    average: Tensor,  # [B, K, H, W]
    count: Tensor,  # 0-D, values averaged so far
    decay: float,
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # loss 0-D; output and new average [B, K, H, W], without gradients
    """A 1x1 convolution, the sigmoid, the mean of (mask * output - target)^2, and the average of outputs.

    The average is decay * average + (1 - decay) * output, and the first output as it is.
    """
    output = F.linear(x.to(weight.dtype).permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)
    output = output.sigmoid() if sigmoid else output
    loss = ((output if mask is None else output * mask) - target).square().mean()
    output = output.detach()
    return loss, output, torch.where(count == 0, output, average.lerp(output, 1 - decay))


def head_backward(
    grad: Tensor,  # 0-D
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [K, C]
    output: Tensor,  # [B, K, H, W]
    target: Tensor,  # [B, K, H, W]
    mask: Tensor | None,  # [B, 1, H, W]
    sigmoid: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # of x, weight, bias
    """The gradients of the loss of `head`."""
    error = output - target if mask is None else (output * mask - target) * mask
    g = error * (grad * (2 / output.numel()))
    g = g * output * (1 - output) if sigmoid else g
    rows = g.permute(0, 2, 3, 1).flatten(0, 2)  # [B H W, K]
    wide = x.to(weight.dtype).permute(0, 2, 3, 1).flatten(0, 2)  # [B H W, C]
    grad_x = (rows @ weight).view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)
    return grad_x.to(x.dtype), rows.T @ wide, rows.sum(0)


def norm_pad(
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    amount: int,
    activation: str,
    eps: float,
) -> Tensor:  # [B, C, H + 2 amount, W + 2 amount]
    """Normalise by the statistics of ``x``, activate, pad by reflection."""
    return pad(activate(batch_norm(x, weight, bias, eps), activation), amount, "reflection")


def channel_statistics(
    x: Tensor,  # [B, C, H, W]
    eps: float,
) -> tuple[Tensor, Tensor]:  # [C] each: mean, and 1 / sqrt(biased variance + eps)
    """Over all pixels of all images, in float32 at least."""
    variance, mean = torch.var_mean(x.to(torch.promote_types(x.dtype, torch.float32)), (0, 2, 3), correction=0)
    return mean, torch.rsqrt(variance + eps)


def norm_pad_backward(
    grad: Tensor,  # [B, C, H + 2 amount, W + 2 amount]
    x: Tensor,  # [B, C, H, W]
    mean: Tensor,  # [C]
    rstd: Tensor,  # [C]
    weight: Tensor,  # [C]
    bias: Tensor,  # [C]
    amount: int,
    activation: str,
) -> tuple[Tensor, Tensor, Tensor]:  # of x, weight, bias
    """The gradients of `norm_pad`, through the statistics too."""
    normal = _normalised(x, mean, rstd)
    g = grad.to(normal.dtype)
    g = torch.ops.aten.reflection_pad2d_backward(g, normal, [amount] * 4) if amount else g
    g = g * _slope(normal * _wide(weight) + _wide(bias), activation)
    return _norm_backward(g, normal, rstd, weight, x.dtype)


def upsample_concat(
    kept: Tensor | None,  # [B, S, 2 H, 2 W]
    x: Tensor,  # [B, C, H, W]
    weight: Tensor,  # [S + C]
    bias: Tensor,  # [S + C]
    mode: str,
    eps: float,
) -> Tensor:  # [B, S + C, 2 H, 2 W]
    """``x`` at twice its size behind ``kept``, normalised. ``mode``: nearest or bilinear."""
    return batch_norm(_joined(kept, x, mode), weight, bias, eps)


def upsample_concat_statistics(kept: Tensor | None, x: Tensor, mode: str, eps: float) -> tuple[Tensor, Tensor]:
    """`channel_statistics` of the joined tensor."""
    return channel_statistics(_joined(kept, x, mode), eps)


def upsample_concat_backward(
    grad: Tensor,  # [B, S + C, 2 H, 2 W]
    kept: Tensor | None,  # [B, S, 2 H, 2 W]
    x: Tensor,  # [B, C, H, W]
    mean: Tensor,  # [S + C]
    rstd: Tensor,  # [S + C]
    weight: Tensor,  # [S + C]
    mode: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # of kept (without one, of no channels), x, weight, bias
    """The gradients of `upsample_concat`, through the statistics too."""
    normal = _normalised(_joined(kept, x, mode), mean, rstd)
    fine, grad_weight, grad_bias = _norm_backward(grad.to(normal.dtype), normal, rstd, weight, normal.dtype)
    skips = 0 if kept is None else kept.shape[1]
    inward = fine[:, skips:]
    if mode == "nearest":
        coarse = F.avg_pool2d(inward, 2, divisor_override=1)
    else:
        size, twice = list(x.shape), [2 * side for side in x.shape[2:]]
        coarse = torch.ops.aten.upsample_bilinear2d_backward(inward.contiguous(), twice, size, False)
    return fine[:, :skips].to(x.dtype), coarse.to(x.dtype), grad_weight, grad_bias


def _joined(kept: Tensor | None, x: Tensor, mode: str) -> Tensor:
    fine = upsample2x(x, mode)
    return fine if kept is None else torch.cat((kept, fine), 1)


def _norm_backward(
    g: Tensor, normal: Tensor, rstd: Tensor, weight: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    axes = (0, 2, 3)
    inward = g - g.mean(axes, keepdim=True) - normal * (g * normal).mean(axes, keepdim=True)
    return (inward * _wide(weight * rstd)).to(dtype), (g * normal).sum(axes), g.sum(axes)


def _normalised(x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    return (x.to(mean.dtype) - _wide(mean)) * _wide(rstd)


def _wide(x: Tensor) -> Tensor:  # [C] -> [1, C, 1, 1]
    return x.view(1, -1, 1, 1)


def _slope(u: Tensor, activation: str) -> Tensor:
    if activation == "swish":
        half = u.sigmoid()
        return half * (1 + u * (1 - half))
    below = {"leaky_relu": torch.full_like(u, 0.2), "relu": torch.zeros_like(u), "elu": u.exp()}
    return torch.ones_like(u) if activation == "none" else torch.where(u > 0, torch.ones_like(u), below[activation])
