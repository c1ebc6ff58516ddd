"""The frontier as one drawing, an SVG: PSNR of what is returned against operations, a panel for each damage.

Methods that are no fits have no operations here: they are lines across the panel. Bars are deviations over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 560, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 48, 130, 28, 36  # margins, for labels
LINES = ".faint{stroke:#ddd} .line{stroke:#999;stroke-dasharray:4 3} .spread{stroke:#1f6f8b}"
STYLE = "text{font:12px sans-serif;fill:#333} " + LINES


def frontier_svg(summary: Sequence[dict[str, Any]]) -> str:
    """The drawing of the `summary` that `bench frontier` gives."""
    damages = list(dict.fromkeys(row["damage"] for row in summary))
    panels = [_panel([row for row in summary if row["damage"] == damage], damage) for damage in damages]
    body = "".join(f'<g transform="translate(0 {i * HEIGHT})">{panel}</g>' for i, panel in enumerate(panels))
    size = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{body}</svg>\n'


def _panel(rows: Sequence[dict[str, Any]], damage: str) -> str:
    fits = [row for row in rows if row.get("flops")]
    logs = [math.log10(row["flops"] / 1e12) for row in fits] or [0.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs) + 1e-9)
    bottom = math.floor(2 * min(row["psnr"] for row in rows)) / 2 - 0.5
    top = math.ceil(2 * max(row["psnr"] for row in rows)) / 2 + 0.5

    def x(log: float) -> float:
        return round(LEFT + (log - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def y(psnr: float) -> float:
        return round(HEIGHT - BOTTOM - (psnr - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM), 1)

    parts = [_text(LEFT, 16, f"{damage}: PSNR (dB) against TFLOP")]
    for decade in range(low, high + 1):
        parts.append(_line(x(decade), TOP, x(decade), HEIGHT - BOTTOM, "faint"))
        parts.append(_text(x(decade), HEIGHT - BOTTOM + 16, f"{10.0**decade:g}", "middle"))
    for level in range(math.ceil(bottom), math.floor(top) + 1):
        parts.append(_line(LEFT, y(level), WIDTH - RIGHT, y(level), "faint"))
        parts.append(_text(LEFT - 6, y(level) + 4, str(level), "end"))
    for row in rows:
        height = y(row["psnr"])
        if row.get("flops"):
            place = x(math.log10(row["flops"] / 1e12))
            parts.extend(_spread(place, row["psnr"], row.get("spread"), y))
            parts.append(f'<circle cx="{place}" cy="{height}" r="4" fill="#1f6f8b"/>')
            parts.append(_text(place + 7, height - 5, row["contender"]))
        else:
            parts.append(_line(LEFT, height, WIDTH - RIGHT, height, "line"))
            parts.append(_text(WIDTH - RIGHT + 6, height + 4, row["contender"]))
    return "".join(parts)


def _spread(x: float, psnr: float, spread: float | None, y: Callable[[float], float]) -> Iterator[str]:
    """A bar over the deviation that seeds make."""
    if spread is not None:
        yield _line(x, y(psnr - spread), x, y(psnr + spread), "spread")


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'
