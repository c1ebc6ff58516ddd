"""What an exported model is of: the kept picture, or a denoiser; and the gate on the first.

A model is a network alone. It is of the picture where its own render is the picture that the run kept, within a limit.
Otherwise it is the denoiser that the picture was refined after; or, of a fit to the whole picture, a network that is
neither. How near the render comes was measured after the fit, and stands in the record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dipfast.errors import GateError, UsageError
from dipfast.generators import Card

UNKNOWN = "unknown"
ARTICLES = {"picture": "of the kept picture", "denoiser": "a denoiser", "network": "a network of one picture"}
REMEDY = "export the network as what it is with --of denoiser, or accept less with --min-psnr-to-picture"
REMEDY_WHOLE = "accept less with --min-psnr-to-picture or --of auto, or fit again with more fit.steps"


@dataclass(frozen=True)
class Kind:
    """What a model is of, and why."""

    of: str  # picture, denoiser, or network: that of one picture, which it does not render nearly enough
    kept_picture_db: float | str | None  # PSNR of its render to the kept picture; None: equal; or `UNKNOWN`
    reason: str  # a clause for people

    def to_json(self) -> dict[str, Any]:
        """Return what the parity report says."""
        return asdict(self)


def unknown_kind(card: Card) -> Kind:
    """Return what a network is of whose distance to the kept picture nobody measured."""
    return Kind(_otherwise(card), UNKNOWN, "how near its render is to the kept picture is unknown")


def kind_of(
    card: Card,
    record: Mapping[str, Any] | None,
    sha256: str,  # of the generator's file
    asked: str,  # auto, picture or denoiser
    least: float,  # dB
    name: str,  # of the model, for messages
) -> Kind:
    """Return what the model of a generator is of.

    Raises GateError where ``asked`` is picture and the render is not known to come within ``least`` of the kept one,
    UsageError where a denoiser is asked for and the network is none.
    """
    distance = kept_picture_db(record, sha256)
    if asked == "denoiser":
        if not card.frozen:
            raise UsageError(
                f"{name}: --of denoiser: the network was fitted to one whole picture and denoises no other"
            )
        return Kind("denoiser", distance, "asked for")
    told = _told(distance)
    if distance != UNKNOWN and (distance is None or float(distance) >= least):
        return Kind("picture", distance, told)
    if distance != UNKNOWN:
        told += f", where {least:g} dB are asked for"
    if asked == "picture":
        raise GateError(f"{name}: {told}; {REMEDY if card.frozen else REMEDY_WHOLE}")
    return Kind(_otherwise(card), distance, told)


def kept_picture_db(record: Mapping[str, Any] | None, sha256: str) -> float | str | None:
    """Return the PSNR of a generator's render to the kept picture: None where they are equal, or `UNKNOWN`.

    ``record`` counts where it is of the generator with the hash ``sha256`` and has the figure, which is that of a
    picture at strength 1.
    """
    stored, output = ((record or {}).get(part) or {} for part in ("generator", "output"))
    if stored.get("sha256") != sha256 or "parity_db" not in stored or output.get("strength", 1) != 1:
        return UNKNOWN
    value = stored["parity_db"]
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else UNKNOWN


def _otherwise(card: Card) -> str:
    return "denoiser" if card.frozen else "network"


def _told(distance: float | str | None) -> str:
    if distance == UNKNOWN:
        return "how near its render is to the kept picture is unknown"
    if distance is None:
        return "its render equals the kept picture"
    return f"its render is {float(distance):.1f} dB from the kept picture"


def in_words(reports: Sequence[Mapping[str, Any]]) -> str:
    """Return one line that says what the models of parity reports are of."""
    if len(reports) == 1:
        (one,) = reports
        return f"{one['model']} is {ARTICLES[one['of']]}: {one['reason']}"
    counts = sorted(Counter(report["of"] for report in reports).items())
    far = [one["kept_picture_db"] for one in reports if isinstance(one["kept_picture_db"], float)]
    least = f"; the farthest render is {min(far):.1f} dB from its kept picture" if far else ""
    unknown = sum(one["kept_picture_db"] == UNKNOWN for one in reports)
    unmeasured = f"; {unknown} were not measured" if unknown else ""
    return f"models: {', '.join(f'{count} {ARTICLES[kind]}' for kind, count in counts)}{least}{unmeasured}"
