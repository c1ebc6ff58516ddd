"""Network families behind one face: a config in, a module and its latent out. A generator never sees the task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from dipfast.generators.latent import make_latent
from dipfast.generators.skip import SkipNet, parted
from dipfast.generators.store import Card, card_of, from_bytes, from_file, latent_of, to_bytes, twin
from dipfast.settings.shapes import latent_channels, multiple, smallest_side

__all__ = [
    "Card",
    "SkipNet",
    "build",
    "card_of",
    "from_bytes",
    "from_file",
    "joined",
    "latent_channels",
    "latent_of",
    "make_latent",
    "multiple",
    "parted",
    "smallest_side",
    "to_bytes",
    "twin",
]


def build(config: Mapping[str, Any], image_channels: int, seed: int) -> SkipNet:
    """The generator that ``config`` (the manifest's `generator` section, every default filled in) describes.

    Weights are drawn on the CPU from ``seed`` alone, by PyTorch's default initialisation: the same seed gives the
    same weights on every device.
    """
    return SkipNet(config, latent_channels(config["input"], image_channels), image_channels, seed)


def joined(modules: Sequence[SkipNet], config: Mapping[str, Any]) -> SkipNet:
    """One generator with the trunks of all ``modules`` of ``config``, on their device, and the mean of their heads."""
    first, *others = (module.state_dict() for module in modules)
    state = dict(first)
    for number, other in enumerate(others):
        state |= {f"others.{number}.{name}": value for name, value in other.items() if name.startswith("scales.")}
    state["head.weight"] = torch.cat([one["head.weight"] for one in (first, *others)], dim=1) / len(modules)
    state["head.bias"] = torch.stack([one["head.bias"] for one in (first, *others)]).mean(0)
    module = build({**config, "trunks": len(modules)}, len(state["head.bias"]), seed=0).to(state["head.bias"].device)
    module.load_state_dict(state)
    return module
