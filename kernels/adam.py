"""Adam over one flat buffer in one pass: moments, weights, noise, a low-precision copy, and gradients set to zero.

It knows nothing of layers. A parameter costs 16 bytes read and 16 written, 2 more with the copy; the plain version
takes about ten passes. Bias corrections are computed in float64, once a program. No GPU has measured it yet.
"""

from __future__ import annotations

import math

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def _adam(
    values,
    grads,
    first,
    second,
    shadow,
    step,
    seed,
    lr,
    eps,
    weight_decay,
    noise,
    size,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    HAS_SHADOW: tl.constexpr,
    HAS_NOISE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    whole = size // BLOCK
    if tl.program_id(0) < whole:  # a bound that 16 divides lets a thread move 16 bytes at once
        _update(
            values,
            grads,
            first,
            second,
            shadow,
            step,
            seed,
            lr,
            eps,
            weight_decay,
            noise,
            index,
            index < whole * BLOCK,
            BETA1,
            BETA2,
            LOG_BETA1,
            LOG_BETA2,
            HAS_SHADOW,
            HAS_NOISE,
        )
    else:
        _update(
            values,
            grads,
            first,
            second,
            shadow,
            step,
            seed,
            lr,
            eps,
            weight_decay,
            noise,
            index,
            index < size,
            BETA1,
            BETA2,
            LOG_BETA1,
            LOG_BETA2,
            HAS_SHADOW,
            HAS_NOISE,
        )


@triton.jit
def _update(
    values,
    grads,
    first,
    second,
    shadow,
    step,
    seed,
    lr,
    eps,
    weight_decay,
    noise,
    index,
    inside,
    BETA1: tl.constexpr,
    BETA2: tl.constexpr,
    LOG_BETA1: tl.constexpr,
    LOG_BETA2: tl.constexpr,
    HAS_SHADOW: tl.constexpr,
    HAS_NOISE: tl.constexpr,
):
    count = tl.load(step)
    correction1 = (1.0 - tl.exp(count.to(tl.float64) * LOG_BETA1)).to(tl.float32)
    correction2 = (1.0 - tl.exp(count.to(tl.float64) * LOG_BETA2)).to(tl.float32)

    w = tl.load(values + index, inside, other=0.0)
    g = tl.load(grads + index, inside, other=0.0) + weight_decay * w
    m = tl.load(first + index, inside, other=0.0)
    v = tl.load(second + index, inside, other=0.0)
    m += (1.0 - BETA1) * (g - m)
    v = BETA2 * v + (1.0 - BETA2) * g * g
    root = tl.sqrt_rn(v) / tl.sqrt_rn(correction2) + eps
    w -= (lr / correction1) * tl.div_rn(m, root)
    if HAS_NOISE:
        zero = index * 0
        a, b, _, _ = tl.philox(tl.load(seed), index, zero + count.to(tl.int32), zero, zero)
        normal, _ = tl.pair_uniform_to_normal(tl.uint_to_uniform_float(a), tl.uint_to_uniform_float(b))
        w += noise * normal

    tl.store(values + index, w, inside)
    tl.store(first + index, m, inside)
    tl.store(second + index, v, inside)
    tl.store(grads + index, tl.zeros_like(w), inside)
    if HAS_SHADOW:
        tl.store(shadow + index, w.to(shadow.dtype.element_ty), inside)


def adam_(
    values: Tensor,  # [P] float32
    grads: Tensor,  # [P] float32, zero afterwards
    first: Tensor,  # [P] float32
    second: Tensor,  # [P] float32
    step: Tensor,  # 0-D float32, counts from 1
    shadow: Tensor | None,  # [P] low precision
    seed: Tensor | None,  # 0-D int64
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    noise: float,
) -> None:
    """One launch; every tensor contiguous."""
    size = values.numel()
    _adam[(triton.cdiv(size, BLOCK),)](
        values,
        grads,
        first,
        second,
        values if shadow is None else shadow,
        step,
        step if seed is None else seed,
        lr,
        eps,
        weight_decay,
        noise,
        size,
        BETA1=beta1,
        BETA2=beta2,
        LOG_BETA1=math.log(max(beta1, 1e-300)),
        LOG_BETA2=math.log(max(beta2, 1e-300)),
        HAS_SHADOW=shadow is not None,
        HAS_NOISE=seed is not None,
        BLOCK=BLOCK,
        num_warps=4,
    )
