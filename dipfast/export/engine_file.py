"""What an engine's file does not say, in a file beside it: the latent, the sizes, and what the engine was built for.

It knows nothing of TensorRT. Safetensors, no pickle.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.export.engine_build import Key
from dipfast.generators import Card, card_of

FORMAT = "dipfast-engine/1"


@dataclass(frozen=True)
class StoredEngine:
    """An engine as it was exported, with all that rendering it takes."""

    plan: bytes
    latent: Tensor  # [1, D, H, W] float32
    card: Card
    key: Key


def beside(engine: Path) -> Path:
    """Where the latent and the sizes of an engine lie."""
    return engine.with_name(f"{engine.name}.safetensors")


def pack(stored: StoredEngine) -> bytes:
    """The file beside the engine: it names the engine's hash."""
    facts = {"format": FORMAT, "card": json.dumps(asdict(stored.card)), "key": json.dumps(asdict(stored.key))}
    facts["sha256"] = hashlib.sha256(stored.plan).hexdigest()
    latent = stored.latent.detach().float().cpu().contiguous()
    return safetensors.torch.save({"latent": latent}, facts)


def load_engine(path: Path) -> StoredEngine:
    """An engine that `dipfast export --format tensorrt` wrote.

    Raises UsageError where it or the file beside it is missing, or one of them is not what was written.
    """
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    other = beside(path)
    if not other.is_file():
        raise UsageError(f"{path}: {other.name} should lie beside it, with its latent and sizes; export it again")
    try:
        with safetensors.safe_open(other, "pt") as file:
            facts, latent = file.metadata() or {}, file.get_tensor("latent")
        if facts.get("format") != FORMAT:
            raise UsageError(f"{other}: should be of format {FORMAT}, is {facts.get('format')}")
        card, digest = card_of(facts["card"]), facts["sha256"]
        key = _key(facts["key"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{other}: cannot be read ({error})") from None
    if digest != hashlib.sha256(plan).hexdigest():
        raise UsageError(f"{path}: refused, it is not the engine that {other.name} was written for")
    if tuple(latent.shape) != (1, *key.latent):
        raise UsageError(f"{other}: refused, its latent is {list(latent.shape)} where the engine takes {key.latent}")
    return StoredEngine(plan, latent, card, key)


def _key(text: str) -> Key:
    fields = json.loads(text)
    return Key(**{**fields, "capability": tuple(fields["capability"]), "latent": tuple(fields["latent"])})
