"""Words and numbers as a person reads them, made of hostile text: file names and reasons.

Nothing here escapes for HTML (jinja2 does that) or for a spreadsheet (`summary` does).
"""

from __future__ import annotations

import math
import os
import re
import unicodedata
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#!|~$&])")


def printable(text: object) -> str:
    r"""``text`` on one line, with nothing that moves a cursor or turns the writing round.

    Control and format characters, lone surrogates and line ends become ``\x1b``, ``\udce9`` and so on.
    """
    text = str(text)
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def markdown(text: object) -> str:
    """``text`` as Markdown that shows just it, in a paragraph or in a cell of a table."""
    return _MARKDOWN.sub(r"\\\1", printable(text))


def image_link(output: str) -> str:
    """The link from a file in the run's folder to a restored image."""
    return "images/" + quote(os.fsencode(output))


def reason_of(reason: object, path: object) -> str:
    """Why an item failed, without its path where that begins the reason: it stands beside it anyway."""
    return printable(str(reason or "no reason was given").removeprefix(f"{path}: "))


def duration(seconds: float | None) -> str:
    """``0.042 s``, ``23.4 s``, ``4 min 12 s`` or ``2 h 05 min``; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def number(value: float | None, digits: int, unit: str = "", *, sign: bool = False) -> str:
    """``28.13 dB``, with ``sign`` ``+28.13 dB``; ``∞`` for a PSNR of equal pictures; a dash for None."""
    if value is None:
        return "–"
    if math.isinf(value):
        return f"{'−' if value < 0 else '+' if sign else ''}∞"
    return f"{value:{'+' if sign else ''}.{digits}f}{unit}".replace("-", "−")


def rate(value: float) -> str:
    """``99.9`` or ``1234``: something per hour or per second."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def change(before: float | None, after: float | None, digits: int, unit: str = "") -> str:
    """``20.2 → 28.1 dB``; only the later one where there is no earlier one; a dash for neither."""
    if before is None or after is None:
        return number(after, digits, unit)
    return f"{number(before, digits)} → {number(after, digits, unit)}"


def gain(before: float | None, after: float | None) -> float | None:
    """How much more ``after`` is than ``before``: nothing where both are infinite, None where one is not known."""
    if before is None or after is None:
        return None
    return 0.0 if before == after else after - before


def decibels(metrics: Mapping[str, Any], name: str) -> float | None:
    """The PSNR ``name`` of a record's metrics: infinite where it is null there, None where it was not measured."""
    value = metrics.get(name, math.nan)
    if value is None:
        return math.inf
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return value if usable else None


def count(many: int, one: str, several: str | None = None) -> str:
    """``1 image``, ``3 images``."""
    return f"{many} {one if many == 1 else several or one + 's'}"
