"""One row of a run, flat: what the spreadsheet, the summary and the page say of an item.

A record may be old or damaged: what is missing, or is no finite number, is None, and nothing here raises.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dipfast.text import decibels

if TYPE_CHECKING:
    from dipfast.store.rows import Row

Facts = dict[str, Any]

PHASES = (
    "load",
    "pose",
    "setup",
    "fit",
    "render",
    "refine",
    "distil",
    "save",
)  # of an item
DECIBELS, SIMILARITIES = ("psnr_before", "psnr"), ("ssim_before", "ssim")
METRICS = (*DECIBELS, *SIMILARITIES)
MAX_LISTED = 2000  # items in a table of a report; results.csv has all
COLUMNS = (
    *("path", "output", "status", "id", "task", "preset", "width", "height", "steps", "chosen_step", "why"),
    *("seconds", *METRICS, "device", "engine", "precision", "kind", "reason"),
    *(f"seconds_{phase}" for phase in PHASES),
    *("finished", "device_name", "host", "strength"),
)


def facts(row: Row, record: Mapping[str, Any] | None = None) -> Facts:
    """The columns of `results.csv`, in their order: pixels of the picture that came out, seconds, PSNR in dB, SSIM.

    The PSNR of a picture that equals its reference is infinite. ``record``: the row's, where it has been read.
    """
    record = record or row.record or {}
    settings, ran = section(record, "settings"), section(record, "ran")
    width, height = output_size(record)
    metrics, seconds = section(record, "metrics"), section(record, "seconds")
    return {
        "path": row.path,
        "output": row.output,
        "status": row.status,
        "id": row.id,
        "task": word(section(settings, "task").get("type")),
        "preset": word(settings.get("preset")),
        "width": width,
        "height": height,
        "steps": finite(record.get("steps")),
        "chosen_step": finite(record.get("chosen_step")),
        "why": word(record.get("why")),
        "seconds": finite(seconds.get("total")),
        **qualities(metrics),
        **{name: word(ran.get(name)) for name in ("device", "engine", "precision")},
        "kind": row.kind,
        "reason": row.reason,
        **{f"seconds_{phase}": finite(seconds.get(phase)) for phase in PHASES},
        "finished": word(record.get("finished")),
        **{name: word(ran.get(name)) for name in ("device_name", "host")},
        "strength": strength(record),
    }


def strength(record: Mapping[str, Any]) -> float | None:
    """Return the share of the change that was applied; None where that is not known."""
    output = section(record, "output")
    return finite(output.get("strength", 1.0 if output else None))


def qualities(metrics: Mapping[str, Any]) -> Facts:
    """The metrics of a record by name: infinite for a PSNR of equal pictures, None for what was not measured."""
    measured = {name: decibels(metrics, name) for name in DECIBELS}
    return measured | {name: finite(metrics.get(name)) for name in SIMILARITIES}


def section(tree: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """The mapping ``tree[name]``, or an empty one."""
    inner = tree.get(name)
    return inner if isinstance(inner, dict) else {}


def finite(value: object) -> Any:
    """``value`` if it is a finite number, else None."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def word(value: object) -> str | None:
    """``value`` if it is text, else None."""
    return value if isinstance(value, str) else None


def output_size(record: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Width and height of the picture that came out: the input, cropped and enlarged as the settings say."""
    given, settings = section(record, "input"), section(record, "settings")
    damage, scale = section(settings, "degrade"), finite(section(settings, "task").get("scale")) or 1
    sides = [_side(given.get(name), damage, scale) for name in ("width", "height")]
    return sides[0], sides[1]


def _side(side: object, damage: Mapping[str, Any], scale: int) -> int | None:
    """Of a damaged item, the truth was cut to a multiple of the scale and the result is as large as that."""
    length = finite(side)
    if length is None:
        return None
    length = finite(damage.get("crop")) or length
    return length // scale * scale if damage else length * scale


def words(value: object) -> list[str]:
    """The texts of ``value`` if it is a list, else none."""
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
