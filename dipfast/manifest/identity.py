"""Content ids: one picture's bytes and all settings that change the restored pixels → 16 hexadecimal digits.

Not in it: where the file lies, its order, the time, the package's version, and settings that only say how fast or
where (`engine`, `kernels`, `device`, `memory`, limits on inputs, names, the reference, the preset's name). Precision is
in it, for it changes pixels. Settings that are null are left out, so that a later optional one keeps all ids.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from dipfast.settings.document import Settings
from dipfast.settings.files import EXTENSIONS
from dipfast.settings.shapes import PER_SCALE, coarse_steps, on_grid, per_scale

NOTHING: Mapping[str, str] = MappingProxyType({})
OTHERWISE = {"engine", "kernels", "device", "shapes", "memory", "store", "coarse"}  # of the fit; not as spelled
SPELLINGS = {ending: several[0] for several in EXTENSIONS.values() for ending in several}  # of one format, one


def content_id(
    input_sha256: str, settings: Settings, extra: Mapping[str, str] = NOTHING, output: str | None = None
) -> str:
    """Return the id of one result. ``extra`` holds the hashes of further inputs by their role: ``{"mask": …}``.

    ``output`` is the file to write, whose format a template that ends in ``.{ext}`` leaves open.
    """
    return identified(input_sha256, settings_text(settings, output), extra)


def identified(input_sha256: str, text: str, extra: Mapping[str, str] = NOTHING) -> str:
    """Return `content_id` for settings whose ``text`` is known: a million items may share them."""
    parts = (input_sha256.lower(), _compact(dict(extra)) if extra else "{}", text)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def settings_text(settings: Settings, output: str | None = None) -> str:
    """Return the settings as they go into an id, with the format of ``output``."""
    return _settings_text(settings, (output or settings.output.template).rpartition(".")[2].lower())


def _compact(tree: dict[str, Any]) -> str:
    return json.dumps(tree, sort_keys=True, separators=(",", ":"), allow_nan=False)


@lru_cache(maxsize=1024)
def _settings_text(settings: Settings, ending: str) -> str:
    return _compact(pixel_settings(settings, ending))


def _fit(settings: Settings) -> dict[str, Any]:
    """Return the fit's settings: shapes, memory, smaller sizes and what is stored only where they change pixels."""
    tree = settings.fit.model_dump(mode="json", exclude=OTHERWISE, exclude_none=True)
    if on_grid(settings.fit):
        tree["shapes"] = "grid"
    if settings.fit.memory.lower_precision:
        tree["memory"] = {"lower_precision": True}
    if settings.fit.store == "one" and settings.fit.seeds > 1:
        tree["store"] = "one"
    if coarse_steps(settings.generator, settings.fit):
        tree["coarse"] = settings.fit.coarse
    return tree


def pixel_settings(settings: Settings, ending: str) -> dict[str, Any]:
    """Return the settings that change pixels, each spelled in one way only."""
    tree = {
        "task": settings.task.model_dump(mode="json", exclude={"mask"}, exclude_none=True),
        "fit": _fit(settings),
        "generator": settings.generator.model_dump(mode="json", exclude_none=True),
        "output": {"bit_depth": settings.output.bit_depth, "ending": SPELLINGS.get(ending, ending)},
    }
    if settings.output.strength != 1:
        tree["output"]["strength"] = settings.output.strength + 0.0  # no negative zero
    if tree["task"].get("known") == "auto":
        tree["task"]["known"] = "white"
    tree["generator"] |= dict(zip(PER_SCALE, per_scale(settings.generator), strict=True))
    if settings.degrade is not None:
        tree["degrade"] = settings.degrade.model_dump(mode="json", exclude_none=True)
    return tree
