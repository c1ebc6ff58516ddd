"""What a `generator` section says of its network's shapes, as plain numbers: for the network, the plan and the ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
    return {"meshgrid": 2, "image": image_channels, "fourier": 4 * int(config.get("frequencies", 0))}[kind]
