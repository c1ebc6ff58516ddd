"""What may have made a picture worse than need be, though nothing failed: for the record, the terminal and the page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dipfast.tasks import OTHERWISE_CLEAN
from dipfast.tasks.denoise import LEAST_WHITE


def caveats(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """Of an item with ``settings`` (every default filled in) and its problem's ``facts``, one sentence each."""
    return [*_of_noise(settings, facts), *_of_answer(facts)]


def _of_answer(facts: Mapping[str, Any]) -> list[str]:
    """What the picture returned has that no picture should have."""
    if "outside" not in facts:
        return []
    return [
        f"{facts['outside']} pixels of the answer lie outside the range of what is around them, by up to "
        f"{255 * facts['outside_by']:.3g} of 255, the most at row {facts['outside_row']}, column "
        f"{facts['outside_column']}: look at them"
    ]


def _of_noise(settings: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    """What was found of the noise, or of JPEG's quantisation, that differs from what was told or assumed."""
    if "impulses" in facts:
        return [
            f"{100 * facts['impulses']:.2g} % of the pixels are specks of the lightest or darkest value: taken for "
            f"salt-and-pepper noise, {'the only noise' if facts['sigma'] < OTHERWISE_CLEAN else 'beside other noise'}, "
            "and filled from their neighbours; task.noise.type: salt-pepper fits such noise by itself, "
            "task.noise.sigma: NUMBER takes the pixels as they are"
        ]
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
