"""Networks: settings in, a module and its latent out. A generator never sees the task.

What needs torch is imported when it is first asked for, so that plans can count costs without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dipfast.shapes import latent_channels, multiple, smallest_side

if TYPE_CHECKING:
    from dipfast.generators.latent import make_latent
    from dipfast.generators.skip import SkipNet, build, joined, latent_parts
    from dipfast.generators.store import Card, card_of, from_bytes, from_file, latent_of, to_bytes, twin

_HOME = {
    "latent": ("make_latent",),
    "skip": ("SkipNet", "build", "joined", "latent_parts"),
    "store": ("Card", "card_of", "from_bytes", "from_file", "latent_of", "to_bytes", "twin"),
}
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
    "latent_parts",
    "make_latent",
    "multiple",
    "smallest_side",
    "to_bytes",
    "twin",
]


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f"dipfast.generators.{module}"), name)
    raise AttributeError(f"module 'dipfast.generators' has no attribute {name!r}")
