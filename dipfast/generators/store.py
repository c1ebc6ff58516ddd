"""A fitted generator as bytes and back: safetensors, with all that rendering needs in its metadata. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dipfast.errors import UsageError
from dipfast.generators.latent import make_latent
from dipfast.generators.skip import SkipNet
from dipfast.shapes import latent_channels

FORMAT = "dipfast-generator/1"


@dataclass(frozen=True)
class Card:
    """What the weights alone do not say. In pixels, ``padded`` is what the network gives and ``size`` what is kept."""

    id: str
    generator: dict[str, Any]  # the manifest's section
    task: dict[str, Any]
    seed: int
    latent_seed: int
    channels: int
    padded: tuple[int, int]
    size: tuple[int, int]
    precision: str


def twin(module: nn.Module) -> nn.Module:
    """A copy of ``module`` with weights of its own. `copy.deepcopy` does the same in many times the time (LOG.md)."""
    copy = object.__new__(type(module))
    own = {name: value.copy() if isinstance(value, dict) else value for name, value in vars(module).items()}
    own["_parameters"] = {
        name: None if value is None else nn.Parameter(value.detach().clone(), value.requires_grad)
        for name, value in own["_parameters"].items()
    }
    own["_buffers"] = {name: None if value is None else value.clone() for name, value in own["_buffers"].items()}
    own["_modules"] = {name: None if child is None else twin(child) for name, child in own["_modules"].items()}
    vars(copy).update(own)
    return copy


def to_bytes(module: nn.Module, latent: Tensor, card: Card) -> bytes:
    """``module``'s weights and ``card``. The latent is stored only where its seed does not give it (type `image`)."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    if card.generator["input"]["type"] == "image":
        tensors["latent"] = latent.detach().float().cpu().contiguous()
    return _ordered(safetensors.torch.save(tensors, {"format": FORMAT, "card": json.dumps(asdict(card))}))


def _ordered(data: bytes) -> bytes:
    """The same file with its metadata in order: safetensors writes them in another one each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def from_file(path: Path | str) -> tuple[SkipNet, Tensor, Card]:
    """The module, its latent [1, D, H, W] and its card, on the CPU. Raises UsageError for a file that is not one."""
    try:
        return from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def from_bytes(data: bytes, name: str = "generator") -> tuple[SkipNet, Tensor, Card]:
    """What `to_bytes` wrote. ``name`` stands in the messages. Raises UsageError for bytes that are not a generator."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise UsageError(f"{name}: should be a generator of format {FORMAT}, is {metadata.get('format')}")
        card = _card(metadata["card"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{name}: is not a generator that can be read ({error})") from None
    return _assemble(tensors, card, name)


def _card(text: str) -> Card:
    fields = json.loads(text)
    return Card(**{**fields, "padded": tuple(fields["padded"]), "size": tuple(fields["size"])})


def _assemble(tensors: dict[str, Tensor], card: Card, name: str) -> tuple[SkipNet, Tensor, Card]:
    guide = tensors.pop("latent", torch.empty(0))
    latent_config = card.generator["input"]
    module = SkipNet(card.generator, latent_channels(latent_config, card.channels), card.channels, seed=0)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"{name}: its weights do not fit its own description: {reason}") from None
    latent = make_latent(latent_config, *card.padded, card.latent_seed, guide)
    layout = torch.channels_last  # as in the fit: another order of the same sums gives other bits
    module.to(memory_format=layout)  # type: ignore[call-overload]
    return module, latent.contiguous(memory_format=layout), card
