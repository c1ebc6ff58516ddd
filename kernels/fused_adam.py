"""The contract of the fused Adam: schema, what runs where, and what it refuses."""

from __future__ import annotations

import torch
from torch import Tensor

from . import twins
from .choice import FLOATS, on_triton, require, require_shape


@torch.library.custom_op("dipfast::adam_", mutates_args=("values", "grads", "first", "second", "shadow"))
def adam_(
    values: Tensor,  # [P] float32
    grads: Tensor,  # [P] float32, zero afterwards
    first: Tensor,  # [P] float32
    second: Tensor,  # [P] float32
    step: Tensor,  # 0-D float32, counts from 1
    shadow: Tensor | None,  # [P] bfloat16 or float16, becomes a copy of the weights
    seed: Tensor | None,  # 0-D int64; with it, normal noise of deviation `noise` falls on the weights
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    noise: float,
) -> None:
    """`twins.adam_` in one launch. Raises RuntimeError for arguments of another kind than stated."""
    if not on_triton(values):
        twins.adam_(values, grads, first, second, step, shadow, seed, lr, beta1, beta2, eps, weight_decay, noise)
        return
    for name, flat in (("values", values), ("grads", grads), ("first", first), ("second", second)):
        _require_flat(f"adam_: {name}", flat, values, (torch.float32,))
    if shadow is not None:
        _require_flat("adam_: shadow", shadow, values, FLOATS)
    require("adam_: step", step, (torch.float32,))
    if seed is not None:
        require("adam_: seed", seed, (torch.int64,))
    from . import adam

    with torch.cuda.device_of(values):
        adam.adam_(values, grads, first, second, step, shadow, seed, lr, beta1, beta2, eps, weight_decay, noise)


def _require_flat(name: str, x: Tensor, values: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    require_shape(name, x, (values.numel(),), dtypes)
    if not x.is_contiguous():
        raise RuntimeError(f"{name} should be contiguous, has stride {x.stride(0)}")
