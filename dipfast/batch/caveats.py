"""What may have made a picture worse than need be, though nothing failed: for the record, the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

LEAST_WHITE = 0.75  # white noise has 0.87 and more on eight pictures; blurred by 0.6 pixels, 0.69 at most (LOG.md)


def caveats(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Of an item with ``settings`` (every default filled in) and its problem's ``facts``, one sentence each."""
    if facts.get("quality_source") == "assumed":
        return [
            f"no JPEG quantisation was found in the pixels, so quality {facts['quality']} was assumed; "
            "task.quality says another"
        ]
    white = facts.get("whiteness")
    if settings["generator"]["input"].get("blind") is None or white is None or white >= LEAST_WHITE:
        return []
    return [
        f"task.noise.sigma is {facts['sigma']:g}, but the finest details hold {100 * white:.0f} % of such noise: it is "
        "less, or neighbouring pixels share it, which blind spots keep; sigma: auto fits without them"
    ]
