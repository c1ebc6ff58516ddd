"""What each fused kernel is called with, for its tests, for `dipfast bench kernels` and for the check of a GPU.

A case holds the same inputs for the kernel and for its plain twin, and how many bytes must move at least.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dipfast.kernels import twins
from dipfast.kernels.fused_adam import adam_ as fused_adam
from dipfast.kernels.fused_head import head as fused_head
from dipfast.kernels.fused_norm_pad import norm_pad as fused_norm_pad
from dipfast.kernels.fused_upsample_concat import upsample_concat as fused_upsample_concat

STANDARD_PARAMETERS = 2_215_251  # of the standard denoising generator
Function = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Case:
    """``fused`` and ``plain`` take ``tensors`` by name. ``bytes`` counts every input and output once, both ways."""

    kernel: str
    label: str
    tensors: dict[str, Tensor]
    fused: Function
    plain: Function
    bytes: int
    gradients: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the case, for people."""
        return f"{self.kernel} {self.label}"


class Source:
    """Seeded normal tensors on one device, whatever the device."""

    def __init__(self, device: torch.device, seed: int = 0) -> None:
        self.device, self.generator = device, torch.Generator().manual_seed(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(shape, generator=self.generator).to(self.device, dtype)

    def picture(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:  # [B, C, H, W], channels last
        return self.normal(*shape, dtype=dtype).contiguous(memory_format=torch.channels_last)


def adam(
    size: int, dtype: torch.dtype, device: torch.device, *, seed: int = 0, noise: float = 0.0, decay: float = 0.0
) -> Case:
    """Adam on ``size`` parameters with a copy of the weights in ``dtype``."""
    source = Source(device, seed)
    names = ("values", "grads", "first", "second")
    tensors = {name: source.normal(size) for name in names} | {
        "step": torch.tensor(3.0, device=device),
        "seed": torch.tensor(2**40 + 7, device=device),
        "shadow": torch.empty(size, dtype=dtype, device=device),
    }
    tensors["second"] = tensors["second"].square() * 0.1

    def call(step_: Callable[..., None]) -> Function:
        def run(values: Tensor, grads: Tensor, first: Tensor, second: Tensor, **t: Tensor) -> tuple[Tensor, ...]:
            seed = t["seed"] if noise else None
            state = values, grads, first, second
            step_(*state, t["step"], t["shadow"], seed, 0.01, 0.9, 0.999, 1e-8, decay, noise)
            return *state, t["shadow"]

        return run

    moved = size * (8 * 4 + dtype.itemsize)
    label = f"{size}" + (" noise" if noise else "")
    return Case("adam", label, tensors, call(fused_adam), call(twins.adam_), moved)


def head(
    shape: tuple[int, int, int, int],  # B, C, H, W
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    outputs: int = 3,
    masked: bool = False,
    count: int = 5,
    sigmoid: bool = True,
) -> Case:
    """The head on an activation of ``shape``."""
    source, (batch, channels, height, width) = Source(device, seed), shape
    picture = (batch, outputs, height, width)
    tensors = {
        "x": source.picture(*shape, dtype=dtype),
        "weight": source.normal(outputs, channels) / channels**0.5,
        "bias": source.normal(outputs),
        "target": source.normal(*picture).sigmoid(),
        "average": source.picture(*picture).sigmoid(),
        "count": torch.tensor(count, device=device),
    }
    if masked:
        tensors["mask"] = (source.normal(batch, 1, height, width) > 0).float()

    def call(head_: Function) -> Function:
        def run(x: Tensor, weight: Tensor, bias: Tensor, target: Tensor, average: Tensor, **t: Any) -> tuple:
            return head_(x, weight, bias, target, t.get("mask"), average, t["count"], 0.99, sigmoid)

        return run

    moved = 3 * _bytes(tensors["x"]) + 6 * _bytes(tensors["target"])
    label = _label(shape) + (" masked" if masked else "")
    gradients = ("x", "weight", "bias")
    return Case("head", label, tensors, call(fused_head), call(twins.head), moved, gradients)


def norm_pad(
    shape: tuple[int, int, int, int],  # B, C, H, W
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    amount: int = 1,
    activation: str = "leaky_relu",
    mean: float = 0.0,
) -> Case:
    """Normalisation, activation and padding of an activation of ``shape`` around ``mean``."""
    source, channels = Source(device, seed), shape[1]
    tensors = {
        "x": source.picture(*shape, dtype=dtype) + mean,
        "weight": 1 + 0.3 * source.normal(channels),
        "bias": 0.3 * source.normal(channels),
    }

    def fused(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return fused_norm_pad(x, weight, bias, amount, activation, 1e-5)[:1]

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (twins.norm_pad(x, weight, bias, amount, activation, 1e-5),)

    label = f"{_label(shape)} {activation} pad {amount}"
    # Statistics need all of x before the first output; sums need all of the gradient before the first of x's.
    return Case("norm_pad", label, tensors, fused, plain, 8 * _bytes(tensors["x"]), ("x", "weight", "bias"))


def upsample_concat(
    shape: tuple[int, int, int, int],  # B, C, H, W of the coarse tensor
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    skips: int = 4,
    mode: str = "bilinear",
) -> Case:
    """Upsampling of an activation of ``shape``, behind a skip branch of ``skips`` channels (or without one)."""
    source, (batch, channels, height, width) = Source(device, seed), shape
    tensors = {
        "x": source.picture(*shape, dtype=dtype),
        "weight": 1 + 0.3 * source.normal(skips + channels),
        "bias": 0.3 * source.normal(skips + channels),
    }
    if skips:
        tensors["kept"] = source.picture(batch, skips, 2 * height, 2 * width, dtype=dtype)

    def fused(x: Tensor, weight: Tensor, bias: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        return fused_upsample_concat(kept, x, weight, bias, mode, 1e-5)[:1]

    def plain(x: Tensor, weight: Tensor, bias: Tensor, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        return (twins.upsample_concat(kept, x, weight, bias, mode, 1e-5),)

    coarse, fine = _bytes(tensors["x"]), 4 * _bytes(tensors["x"]) * (skips + channels) // channels
    moved = 5 * coarse + 3 * fine + (5 * _bytes(tensors["kept"]) if skips else 0)
    label = f"{skips}+{_label(shape)} {mode}"
    return Case("upsample_concat", label, tensors, fused, plain, moved, tuple(tensors))


def odd_cases(device: torch.device) -> list[partial[Case]]:
    """Shapes that divide by nothing, in both precisions, to be made for any `seed`: for `judge`."""
    precisions: list[dict[str, Any]] = [{"dtype": d, "device": device} for d in (torch.float32, torch.bfloat16)]
    makers: list[tuple[Callable[..., Case], dict[str, Any]]] = [
        (adam, {"size": 1_000_003, "noise": 0.1, "decay": 0.01}),
        (head, {"shape": (1, 20, 67, 129), "masked": True, "outputs": 1, "count": 0, "sigmoid": False}),
        (head, {"shape": (2, 128, 31, 45)}),
        (norm_pad, {"shape": (1, 20, 67, 129), "amount": 2, "activation": "swish"}),
        (norm_pad, {"shape": (4, 132, 31, 45), "amount": 1}),
        (norm_pad, {"shape": (1, 3, 130, 31), "amount": 0, "activation": "none", "mean": 1000.0}),
        (upsample_concat, {"shape": (1, 20, 67, 129)}),
        (upsample_concat, {"shape": (2, 132, 31, 45), "skips": 0}),
        (upsample_concat, {"shape": (1, 130, 31, 1), "skips": 5, "mode": "nearest"}),
    ]
    return [partial(maker, **options, **which) for maker, options in makers for which in precisions]


def all_cases(device: torch.device, side: int) -> list[Case]:
    """Every kernel as a fit at ``side``×``side`` in bfloat16 would call it."""
    low = torch.bfloat16
    wide = (1, 128, side, side)
    return [
        adam(STANDARD_PARAMETERS if device.type == "cuda" else 10_007, low, device),
        adam(STANDARD_PARAMETERS if device.type == "cuda" else 10_007, low, device, noise=1e-4),
        head(wide, low, device),
        head(wide, low, device, masked=True),
        norm_pad(wide, low, device),
        norm_pad((1, 4, side, side), low, device, amount=0),
        upsample_concat((1, 128, side // 2, side // 2), low, device),
        upsample_concat((1, 128, side // 2, side // 2), low, device, mode="nearest"),
    ]


def _label(shape: tuple[int, int, int, int]) -> str:
    batch, channels, height, width = shape
    return (f"{batch}x" if batch > 1 else "") + f"{channels}x{height}x{width}"


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
