"""A fitted generator as bytes and back: safetensors, with all that rendering needs in its metadata. No pickle."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dipfast.errors import UsageError
from dipfast.generators.architecture import Architecture, architecture_of
from dipfast.generators.folded import FoldedNet, fold
from dipfast.generators.frozen import freeze, render
from dipfast.generators.latent import make_latent
from dipfast.generators.skip import SkipNet
from dipfast.settings.generator import ImageInput, SkipGenerator

FORMAT = "dipfast-generator/1"
MAX_PIXELS = 1 << 30  # of a latent: a few bytes in a file must not become terabytes
MAX_TRUNKS = 64  # as many as a fit may have seeds
Net = TypeVar("Net", bound=nn.Module)
NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")  # models and pictures are named after the id


@dataclass(frozen=True)
class Card:
    """What a stored generator says beside its weights.

    In pixels, height first, ``padded`` is the size that the network gives and ``size`` the part of it that is kept.
    """

    id: str
    generator: SkipGenerator
    task: dict[str, Any]  # the manifest's section as JSON: nothing here depends on it
    seed: int
    latent_seed: int | list[int]  # a list where each trunk has a latent of its own
    channels: int
    padded: tuple[int, int]
    size: tuple[int, int]
    precision: str
    trunks: int = 1
    ranged: bool = False  # whether the picture was fitted in a range of its own
    frozen: bool = False  # whether it is rendered with frozen statistics (`generators.frozen`)
    refine: dict[str, Any] | None = None  # what makes the kept picture of its own, as JSON

    @property
    def architecture(self) -> Architecture:
        return architecture_of(self.generator, self.channels, trunks=self.trunks, ranged=self.ranged)

    @property
    def generator_json(self) -> dict[str, Any]:
        """Return the generator's section as JSON, with `trunks` where it has several, and `ranged` where it is."""
        trunks = {"trunks": self.trunks} if self.trunks > 1 else {}
        return self.generator.model_dump(mode="json") | trunks | ({"ranged": True} if self.ranged else {})

    def to_json(self) -> dict[str, Any]:
        """Return what stands in the file."""
        names = ("id", "generator", "task", "seed", "latent_seed", "channels", "padded", "size", "precision")
        more = ({"frozen": True} if self.frozen else {}) | ({"refine": self.refine} if self.refine else {})
        return {name: getattr(self, name) for name in names} | {"generator": self.generator_json} | more

    def output(self, module: SkipNet, latent: Tensor, dtype: torch.dtype, shown: Tensor | None = None) -> Tensor:
        """Return what ``module`` renders at ``shown``, [1, C, H', W'], by default its own ``latent``.

        Frozen statistics are those at ``latent``, and are used in float32 whatever ``dtype`` says.
        """
        shown = latent if shown is None else shown
        with torch.no_grad():
            if self.frozen:
                return render(self.folded(module.state_dict(), latent), self.architecture, shown)
            found: Tensor = module(shown, dtype)
            return found

    def folded(self, state: Mapping[str, Tensor], latent: Tensor) -> FoldedNet:
        """Return the plain network that the weights in ``state`` are at ``latent``, on the CPU, in float32."""
        architecture = self.architecture
        return freeze(architecture, state, latent) if self.frozen else fold(architecture, state, latent)


def twin(module: Net) -> Net:
    """Return a copy of ``module`` with weights of its own, in an eighth of the time of `copy.deepcopy`."""
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


def to_bytes(module: nn.Module, latent: Tensor, card: Card, range: tuple[Tensor, Tensor] | None = None) -> bytes:
    """Return ``module``'s weights and ``card`` as the bytes of a file.

    The latent is stored only where its seed does not give it (type `image`).

    ``range``: low and width, [1, C or 1, 1, 1], of the range that the picture was fitted in, where it had its own.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    if range is not None:
        card = replace(card, ranged=True)
        for name, part in zip(("low", "width"), range, strict=True):
            tensors[name] = part.cpu().expand(1, card.channels, 1, 1).contiguous()
    if isinstance(card.generator.input, ImageInput):
        tensors["latent"] = latent.detach().float().cpu().contiguous()
    return _ordered(safetensors.torch.save(tensors, {"format": FORMAT, "card": json.dumps(card.to_json())}))


def _ordered(data: bytes) -> bytes:
    """Return the same file with its metadata in order: safetensors writes them in another one each time."""
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[end:]


def from_file(path: Path | str) -> tuple[SkipNet, Tensor, Card]:
    """Return the module, its latent (`latent_of`) and its card, on the CPU.

    Raises UsageError for a file that cannot be read or is not a generator.
    """
    try:
        return from_bytes(Path(path).read_bytes(), str(path))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def from_bytes(data: bytes, name: str = "generator") -> tuple[SkipNet, Tensor, Card]:
    """Return what `to_bytes` wrote: module, latent and card. ``name`` stands in the messages.

    Raises UsageError for bytes that are not a generator.
    """
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
        if metadata.get("format") != FORMAT:
            raise UsageError(f"{name}: should be a generator of format {FORMAT}, is {metadata.get('format')}")
        card = card_of(metadata["card"])
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"{name}: is not a generator that can be read ({_line(error)})") from None
    try:
        return _assemble(tensors, card, name)
    except UsageError:
        raise
    except Exception as error:  # a description of anything, and PyTorch says what it likes to that
        raise UsageError(f"{name}: its description is of no generator ({_line(error)})") from None


def latent_of(card: Card, guide: Tensor) -> Tensor:  # [1, D, H, W] or [1, K D, H, W]
    """Return the latent that ``card`` and ``guide`` determine; where trunks have one each, concatenated as channels."""
    seeds = card.latent_seed if isinstance(card.latent_seed, list) else [card.latent_seed]
    return torch.cat([make_latent(card.generator.input, *card.padded, seed, guide) for seed in seeds], dim=1)


def _line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


def card_of(text: str) -> Card:
    """Return the card in ``text``. Raises TypeError, KeyError or ValueError for what no fit writes."""
    fields = json.loads(text)
    described = fields["generator"]
    typed = {
        "generator": SkipGenerator.from_json(described),
        "padded": tuple(fields["padded"]),
        "size": tuple(fields["size"]),
    }
    card = Card(**{**fields, **typed}, trunks=int(described.get("trunks", 1)), ranged=bool(described.get("ranged")))
    sides = [*card.padded, *card.size]
    if len(sides) != 4 or not all(type(side) is int and side > 0 for side in sides):
        raise ValueError(f"padded and size should be two lengths each, are {card.padded} and {card.size}")
    if sides[0] * sides[1] > MAX_PIXELS or sides[2] > sides[0] or sides[3] > sides[1]:
        raise ValueError(f"its size is {card.size} of {card.padded}")
    if not (isinstance(card.id, str) and NAME.fullmatch(card.id)):
        raise ValueError("its id is no plain name")
    if card.channels not in (1, 3):
        raise ValueError(f"it has {card.channels} channels")
    count, latents = card.trunks, card.latent_seed
    if not 1 <= count <= MAX_TRUNKS or (isinstance(latents, list) and len(latents) != count):
        raise ValueError(f"it has {count} trunks, and {latents} for seeds of its latents")
    return card


def _assemble(tensors: dict[str, Tensor], card: Card, name: str) -> tuple[SkipNet, Tensor, Card]:
    guide = tensors.pop("latent", torch.empty(0))
    module = SkipNet(card.architecture, seed=0)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UsageError(f"{name}: its weights do not fit its own description: {reason}") from None
    latent = latent_of(card, guide)
    layout = torch.channels_last  # as in the fit: another order of the same sums gives other bits
    module.to(memory_format=layout)  # type: ignore[call-overload]
    return module, latent.contiguous(memory_format=layout), card
