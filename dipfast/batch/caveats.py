"""What may have made a picture worse than need be, though nothing failed: for the record, the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dipfast.tasks.denoise import LEAST_WHITE


def caveats(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Of an item with ``settings`` (every default filled in) and its problem's ``facts``, one sentence each."""
    if facts.get("quality_source") == "assumed":
        return [
            f"no JPEG quantisation was found in the pixels, so quality {facts['quality']} was assumed; "
            "task.quality says another"
        ]
    latent, white = settings["generator"]["input"], facts.get("whiteness")
    if latent.get("blind") is None or white is None or white >= LEAST_WHITE:
        return []
    sigma, share = f"task.noise.sigma is {facts['sigma']:g}", f"{100 * white:.0f} %"
    less = f"{sigma}, but the finest details hold {share} of such noise: it is less"
    if latent.get("reach") != "auto":
        return [
            f"{less}, or neighbouring pixels share it, which blind spots keep; generator.input.reach: auto hides them"
        ]
    if str(facts.get("noise_shared_by")).startswith("neighbours"):
        return []
    return [f"{less}; sigma: auto estimates it"]
