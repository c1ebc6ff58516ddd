"""What a `generator` section says of its network's shapes, as plain numbers: for the network, the plan and the ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

GRID_STEPS = 4  # sizes of the grid from one power of two to the next
PER_SCALE = ("channels", "up_channels", "skip_channels", "kernel_down", "kernel_up", "upsample")


def per_scale(config: Mapping[str, Any]) -> tuple[tuple[Any, ...], ...]:
    """The settings of `PER_SCALE`, each as one entry for each scale, finest first. None means as `channels`."""
    channels = tuple(config["channels"])
    values = (channels if config.get(name) is None else config[name] for name in PER_SCALE)
    return tuple(tuple(v) if isinstance(v, list | tuple) else (v,) * len(channels) for v in values)


def latent_channels(config: Mapping[str, Any], image_channels: int) -> int:
    """How many channels the latent of ``config`` (the section's `input`) has."""
    kind = config["type"]
    if kind == "noise":
        return int(config["depth"])
    if kind == "image":
        beside = config.get("noise")
        return image_channels + (int(beside["depth"]) if beside else 0)
    return {"meshgrid": 2, "fourier": 4 * int(config.get("frequencies", 0))}[kind]


def trunks(config: Mapping[str, Any]) -> int:
    """How many trunks the generator of ``config`` has under its head: one, unless it was made of several."""
    return int(config.get("trunks", 1))


def on_grid(fit: Mapping[str, Any]) -> bool:
    """Whether pictures are padded to a grid of sizes: asked for, or the engine builds a program for each size."""
    return fit["shapes"] == "grid" or (fit["shapes"] == "auto" and fit["engine"] in ("compile", "cudagraph"))


def padded_side(side: int, multiple: int, grid: bool) -> int:
    """``side`` grown to a multiple of ``multiple``; on the ``grid`` to one of 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, …

    From four on the grid has four sizes to a power of two, so that it adds less than a quarter to a side.
    """
    count = -(-side // multiple)
    if grid and count > GRID_STEPS:
        step = 2 ** ((count - 1).bit_length() - GRID_STEPS.bit_length())
        count = -(-count // step) * step
    return count * multiple
