"""The frontier as one drawing, an SVG: PSNR of what is returned against operations, a panel for each damage.

Methods that are no fits have no operations here: they are lines across the panel. Bars are deviations over seeds. A
ring is what a fit has at its best step, which nobody knows who has no truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from tables import grouped

Box = tuple[float, float, float]  # left, right and baseline of a label

WIDTH, HEIGHT = 560, 300  # of a panel
LEFT, RIGHT, TOP, BOTTOM = 48, 150, 28, 36  # margins, for labels
LETTER, ROW = 6.5, 13  # width and height of a letter, for labels that are out of each other's way
STYLE = (
    "text{font:12px sans-serif;fill:#333} .ring{fill:none;stroke:#1f6f8b} "
    ".faint{stroke:#ddd} .line{stroke:#999;stroke-dasharray:4 3} .spread{stroke:#1f6f8b}"
)


def frontier_svg(summary: Sequence[dict[str, Any]]) -> str:
    """The drawing of a frontier's `summary`."""
    panels = [_panel(rows, damage) for (damage,), rows in grouped(summary, "damage").items()]
    body = "".join(f'<g transform="translate(0 {i * HEIGHT})">{panel}</g>' for i, panel in enumerate(panels))
    size = f'width="{WIDTH}" height="{HEIGHT * len(panels)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{STYLE}</style>{body}</svg>\n'


def _panel(rows: Sequence[dict[str, Any]], damage: str) -> str:
    logs = [math.log10(row["flops"] / 1e12) for row in rows if row.get("flops")] or [0.0]
    low, high = math.floor(min(logs)), math.ceil(max(logs) + 1e-9)
    bottom = math.floor(2 * min(row["psnr"] for row in rows)) / 2 - 0.5
    top = math.ceil(2 * max(row.get("peak", row["psnr"]) for row in rows)) / 2 + 0.5

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
    taken: list[Box] = []
    for row in sorted(rows, key=lambda row: -row["psnr"]):
        height = y(row["psnr"])
        if row.get("flops"):
            place, spread, peak = x(math.log10(row["flops"] / 1e12)), row.get("spread"), row.get("peak")
            if spread is not None:
                parts.append(_line(place, y(row["psnr"] - spread), place, y(row["psnr"] + spread), "spread"))
            if peak is not None and height - y(peak) > 4:  # the best step is not the one that was returned
                parts.append(_line(place, height, place, y(peak) + 4, "faint"))
                parts.append(f'<circle cx="{place}" cy="{y(peak)}" r="4" class="ring"/>')
            parts.append(f'<circle cx="{place}" cy="{height}" r="4" fill="#1f6f8b"/>')
            parts.append(_label(place + 7, height - 5, row["contender"], taken))
        else:
            parts.append(_line(LEFT, height, WIDTH - RIGHT, height, "line"))
            parts.append(_label(WIDTH - RIGHT + 6, height + 4, row["contender"], taken))
    return "".join(parts)


def _label(x: float, y: float, text: str, taken: list[Box]) -> str:
    """``text`` there, or so far below that it covers none of the labels that are ``taken``; it is one of them then."""
    width = LETTER * len(text)
    while any(x < right and left < x + width and abs(y - other) < ROW for left, right, other in taken):
        y += ROW / 2
    taken.append((x, x + width, y))
    return _text(x, y, text)


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" class="{kind}"/>'
