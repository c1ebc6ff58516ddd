"""dipfast: Deep Image Prior for folders of images.

`restore` one image, `run` a manifest, `load` a fitted generator. Nothing heavy is imported before it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["__version__", "load", "restore", "run"]

if TYPE_CHECKING:
    from dipfast.api import load as load
    from dipfast.api import restore as restore
    from dipfast.api import run as run


def __getattr__(name: str) -> Any:
    if name in __all__:
        from dipfast import api

        return getattr(api, name)
    raise AttributeError(f"module 'dipfast' has no attribute {name!r}")
