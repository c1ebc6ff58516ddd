"""Networks: settings in, a module and its latent out. A generator never sees the task.

What needs torch is imported when it is first asked for, so that plans count costs without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dipfast.settings.shapes import latent_channels as latent_channels
from dipfast.settings.shapes import multiple as multiple
from dipfast.settings.shapes import smallest_side as smallest_side

if TYPE_CHECKING:
    from dipfast.generators.latent import make_latent as make_latent
    from dipfast.generators.skip import SkipNet as SkipNet
    from dipfast.generators.skip import build as build
    from dipfast.generators.skip import joined as joined
    from dipfast.generators.store import Card as Card
    from dipfast.generators.store import card_of as card_of
    from dipfast.generators.store import from_bytes as from_bytes
    from dipfast.generators.store import from_file as from_file
    from dipfast.generators.store import latent_of as latent_of
    from dipfast.generators.store import to_bytes as to_bytes
    from dipfast.generators.store import twin as twin

_OF_STORE = ("Card", "card_of", "from_bytes", "from_file", "latent_of", "to_bytes", "twin")
_MODULES = {"make_latent": "latent", "SkipNet": "skip", "build": "skip", "joined": "skip"}
_MODULES |= dict.fromkeys(_OF_STORE, "store")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"dipfast.generators.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'dipfast.generators' has no attribute {name!r}")
