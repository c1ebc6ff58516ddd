"""What a `generator` section says of its network's shapes, as plain numbers: for the network, the plan and the ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GRID_STEPS = 4  # sizes of the grid from one power of two to the next
COARSEST = 64  # pixels, the least side of a picture that is fitted at half of its size first (LOG.md)
COARSE_SHARE = 0.1  # of a fit's steps at most, those at each smaller size (LOG.md)
PER_SCALE = ("channels", "up_channels", "skip_channels", "kernel_down", "kernel_up", "upsample")


def per_scale(config: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """Return the settings of `PER_SCALE`, each as one entry for each scale, finest first. None means as `channels`."""
    channels = tuple(config["channels"])
    values = (channels if config.get(name) is None else config[name] for name in PER_SCALE)
    return tuple(tuple(v) if isinstance(v, list | tuple) else (v,) * len(channels) for v in values)


def latent_channels(config: Mapping[str, Any], image_channels: int) -> int:
    """Return how many channels the latent of ``config`` (the section's `input`) has."""
    kind = config["type"]
    if kind == "noise":
        return int(config["depth"])
    if kind == "image":
        beside = config.get("noise")
        return image_channels + (int(beside["depth"]) if beside else 0)
    return {"meshgrid": 2, "fourier": 4 * int(config.get("frequencies", 0))}[kind]


def trunks(config: Mapping[str, Any]) -> int:
    """Return how many trunks the generator of ``config`` has under its head: one, unless it was made of several."""
    return int(config.get("trunks", 1))


def on_grid(fit: Mapping[str, Any]) -> bool:
    """Return whether pictures are padded to a grid of sizes: as asked, or for an engine with a program a size."""
    return fit["shapes"] == "grid" or (fit["shapes"] == "auto" and fit["engine"] in ("compile", "cudagraph"))


def padded_side(side: int, multiple: int, grid: bool) -> int:
    """Return ``side`` grown to a multiple of ``multiple``; on the ``grid`` to 1 to 8, 10, 12, 14, 16, 20, … times it.

    From four on the grid has four sizes to a power of two, so that it adds less than a quarter to a side.
    """
    count = -(-side // multiple)
    if grid and count > GRID_STEPS:
        step = 2 ** ((count - 1).bit_length() - GRID_STEPS.bit_length())
        count = -(-count // step) * step
    return count * multiple


def multiple(config: Mapping[str, Any]) -> int:
    """Return what height and width must be multiples of: two to the number of scales."""
    return 2 ** len(config["channels"])


def smallest_side(config: Mapping[str, Any]) -> int:
    """Return the least height and width: the coarsest scale must exceed its padding, and have two pixels a side."""
    kernels: list[int] = []
    for name in ("kernel_down", "kernel_up", "kernel_skip"):
        value = config[name]
        kernels += value if isinstance(value, list | tuple) else [value]
    return multiple(config) * max(2, (max(kernels) - 1) // 2 + 1)


def coarse_steps(config: Mapping[str, Any], fit: Mapping[str, Any]) -> int:
    """Return the steps at each smaller size that the picture is fitted at first: what `fit.coarse` comes to."""
    if fit["coarse"] != "auto":
        return int(fit["coarse"])
    if fit["engine"] == "compile":  # it takes half a minute for each size
        return 0
    paired = config["input"].get("recorrupt") is not None and fit["optimizer"]["type"] != "sgld"
    return int(COARSE_SHARE * fit["steps"]) if paired else 0


def halves(config: Mapping[str, Any], sides: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the smaller sizes at which a picture of ``sides`` can be fitted first, each about half the one before."""
    found, least = [], max(COARSEST, smallest_side(config))
    while min(sides) >= 2 * least:
        sides = (
            padded_side(-(-sides[0] // 2), multiple(config), False),
            padded_side(-(-sides[1] // 2), multiple(config), False),
        )
        found.append(sides)
    return found
