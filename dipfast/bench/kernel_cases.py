"""What each Triton kernel is called with, for its tests, for `dipfast bench kernels` and for the check of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dipfast.kernels import newton_schulz as iteration
from dipfast.kernels import norm_pad as padding

KERNELS = ("newton_schulz", "norm_pad")
Function = Callable[..., tuple[Tensor, ...]]
Shape = tuple[int, int, int, int]  # B, C, H, W


@dataclass(frozen=True)
class Case:
    """``fused``, the kernel, and ``plain``, its twin, take ``tensors`` by name."""

    kernel: str
    label: str
    tensors: dict[str, Tensor]
    fused: Function
    plain: Function
    gradients: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the case, for people."""
        return f"{self.kernel} {self.label}"


def norm_pad(
    shape: Shape,
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    amount: int = 1,
    mode: str = "reflection",
    activation: str = "leaky_relu",
    mean: float = 0.0,
) -> Case:
    """Normalisation, activation and padding of seeded normal numbers around ``mean``, channels last."""
    normal, channels = _normal(seed, device), shape[1]
    tensors = {
        "x": normal(*shape).to(dtype).contiguous(memory_format=torch.channels_last) + mean,
        "weight": 1 + 0.3 * normal(channels),
        "bias": 0.3 * normal(channels),
    }

    def fused(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return padding.norm_pad(x, weight, bias, activation, amount, mode, 1e-5)[:1]

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return (padding.plain(x, weight, bias, activation, amount, mode, 1e-5),)

    label = f"{'x'.join(map(str, shape))} {activation} {mode} {amount}"
    return Case("norm_pad", label, tensors, fused, plain, ("x", "weight", "bias"))


def newton_schulz(
    shape: tuple[int, int, int],  # N, rows, columns
    dtype: torch.dtype,
    device: torch.device,
    *,
    seed: int = 0,
    steps: int = 3,
) -> Case:
    """Newton-Schulz steps of seeded normal numbers."""

    def fused(matrices: Tensor) -> tuple[Tensor, ...]:
        return (iteration.newton_schulz(matrices, steps),)

    def plain(matrices: Tensor) -> tuple[Tensor, ...]:
        return (iteration.plain(matrices, steps),)

    tensors = {"matrices": _normal(seed, device)(*shape).to(dtype)}
    return Case("newton_schulz", f"{'x'.join(map(str, shape))} {steps} steps", tensors, fused, plain)


def _normal(seed: int, device: torch.device) -> Callable[..., Tensor]:
    """Draws normal numbers on the CPU, so that all devices have the same."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(shape, generator=generator).to(device)


def odd_cases(device: torch.device) -> list[partial[Case]]:
    """Shapes that divide by nothing, in float32 and bfloat16, to be made for any `seed`: for `judge`."""
    precisions: list[dict[str, Any]] = [{"dtype": d, "device": device} for d in (torch.float32, torch.bfloat16)]
    makers: list[tuple[Callable[..., Case], dict[str, Any]]] = [
        (norm_pad, {"shape": (1, 20, 67, 129), "amount": 2, "activation": "swish"}),
        (norm_pad, {"shape": (4, 132, 31, 45), "mode": "replication"}),
        (norm_pad, {"shape": (1, 4, 31, 67), "amount": 2, "mode": "replication", "activation": "elu"}),
        (norm_pad, {"shape": (1, 3, 130, 31), "amount": 0, "activation": "none", "mean": 1000.0}),
        (newton_schulz, {"shape": (3, 9, 27)}),
        (newton_schulz, {"shape": (5, 31, 325), "steps": 5}),
        (newton_schulz, {"shape": (2, 100, 1001)}),
    ]
    return [partial(maker, **options, **which) for maker, options in makers for which in precisions]


def all_cases(device: torch.device, side: int) -> list[Case]:
    """Both kernels as fits at ``side``×``side`` in bfloat16 call them: the narrow net of the presets, and 128 channels.

    Muon's matrices are those of five scales, all in one batch.
    """
    low, half = torch.bfloat16, side // 2
    return [
        norm_pad((1, 32, half, half), low, device),
        norm_pad((1, 4, side, side), low, device, amount=2),
        norm_pad((4, 32, half, half), low, device, amount=0),
        norm_pad((1, 128, side, side), low, device),
        newton_schulz((20, 32, 324), low, device),
        newton_schulz((20, 128, 1188), low, device),
    ]
