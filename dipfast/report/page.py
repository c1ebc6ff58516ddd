"""`report.html` and `report.md`: what a run did, for a person to look at.

The HTML is one file that needs no network and allows itself none: pictures, style and script are in it. The
pictures make it large, so only the first items get a card; the rest is listed. All paths and reasons are text
from outside: jinja2 escapes them, and `printable` takes out what is not for the eye.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipfast.files import write_atomic
from dipfast.report.comparison import Comparison, compare_rows
from dipfast.report.curve import HEIGHT, WIDTH, Curve, curve
from dipfast.report.facts import MAX_LISTED, Facts, facts, finite, section, word, words
from dipfast.report.html import TEMPLATES, environment
from dipfast.report.markdown import as_markdown
from dipfast.report.pictures import Pictures, pictures
from dipfast.report.summary import Summary, beside_the_mean, headlines, quality
from dipfast.store.folder import RunFolder
from dipfast.text import change, duration

if TYPE_CHECKING:
    from dipfast.store.rows import Row

MAX_CARDS = 60


@dataclass(frozen=True)
class Card:
    """One restored image on the page."""

    facts: Facts
    pictures: Pictures
    lines: list[tuple[str, str]]  # what, and how much
    curve: Curve | None


def write_report(
    folder: RunFolder,
    rows: Sequence[Row],
    summary: Summary,
    *,
    html: bool = True,
    title: str | None = None,
    compare: tuple[RunFolder, Sequence[Row]] | None = None,
) -> list[Path]:
    """Write `report.md` and, with ``html``, `report.html` into the run's folder. Returns what was written.

    ``compare``: another run, set beside this one item by item, matched by output name. Images that are missing or
    cannot be read are said to be so. Raises OSError where the folder cannot be written.
    """
    title = title or f"dipfast: {folder.root.resolve().name}"
    other = None if compare is None else compare_rows(folder, rows, *compare)
    written = [folder.root / "report.md"]
    write_atomic(written[0], as_markdown(title, rows, summary, other).encode())
    if html:
        written.append(folder.root / "report.html")
        write_atomic(written[1], as_html(folder, title, rows, summary, other).encode())
    return written


def as_html(folder: RunFolder, title: str, rows: Sequence[Row], summary: Summary, comparison: Comparison | None) -> str:
    """The page, pictures and all."""
    done = [row for row in rows if row.status == "done" and row.known is not None]
    script = (TEMPLATES / "report.js").read_text("utf-8")
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            summary=summary,
            headlines=headlines(summary),
            quality=quality,
            beside_the_mean=beside_the_mean,
            failed=[row for row in rows if row.status == "failed"],
            pending=[row for row in rows if row.status == "pending"],
            cards=[card(folder, row) for row in done[:MAX_CARDS]],
            rest=[facts(row) for row in done[MAX_CARDS : MAX_CARDS + MAX_LISTED]],
            without_card=max(0, len(done) - MAX_CARDS),
            listed=MAX_LISTED,
            comparison=comparison,
            versions=", ".join(summary["software"]),
            style=(TEMPLATES / "report.css").read_text("utf-8"),
            script=script,
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
            curve_width=WIDTH,
            curve_height=HEIGHT,
        )
    )


def card(folder: RunFolder, row: Row) -> Card:
    """All that the page says of one done item. Reads its pictures and, for the row's own is brief, its whole record."""
    whole = folder.record(row.id) if row.id else None
    row = row if whole is None else replace(row, known=whole)
    record, known = row.record or {}, facts(row)
    drawing = curve(record.get("losses"), known["steps"], known["chosen_step"])
    return Card(known, pictures(folder, row), lines_of(row), drawing)


def lines_of(row: Row) -> list[tuple[str, str]]:
    """The facts of a done item in words. What is not known is left out."""
    record, known = row.record or {}, facts(row)
    lines = [
        ("Task", task_words(record)),
        ("Preset", known["preset"]),
        ("Strength", _strength(known)),
        ("Size", known["width"] and f"{known['width']} × {known['height']} px"),
        ("Steps", _steps(record, known)),
        ("Stopped", known["why"]),
        ("Time", known["seconds"] is not None and _seconds(record, known["seconds"])),
        ("PSNR", known["psnr"] is not None and change(known["psnr_before"], known["psnr"], 2, " dB")),
        ("SSIM", known["ssim"] is not None and change(known["ssim_before"], known["ssim"], 3)),
        ("Beware", "; ".join(words(record.get("warnings")))),
        ("Ran on", ", ".join(known[name] for name in ("device", "engine", "precision") if known[name])),
    ]
    return [(name, value) for name, value in lines if value]


def _strength(known: Facts) -> str | None:
    """Where not the whole change was applied."""
    share = known["strength"]
    return None if share in (None, 1) else f"{100 * share:.3g} % of the change is applied"


def task_words(record: Mapping[str, Any]) -> str | None:
    """``denoise (gaussian, sigma 24.5 estimated)``, ``superres (scale 4)``, ``inpaint (12 % unknown)``."""
    task, found = section(section(record, "settings"), "task"), section(record, "facts")
    noise = section(task, "noise")
    sigma, unknown = finite(found.get("sigma", noise.get("sigma"))), finite(found.get("unknown_fraction"))
    parts = [
        word(noise.get("type")),
        None if sigma is None else f"sigma {sigma:.3g}{_estimated(found)}",
        _shared(found),
        None if unknown is None else f"{100 * unknown:.3g} % unknown",
        *(f"{name} {tree[name]}" for tree, name in ((noise, "peak"), (task, "scale")) if name in tree),
    ]
    known = ", ".join(part for part in parts if part)
    name = word(task.get("type"))
    return f"{name} ({known})" if name and known else name


def _shared(found: Mapping[str, Any]) -> str | None:
    """Of noise that is not each value's own."""
    by = word(found.get("noise_shared_by"))
    return None if by in (None, "none") else f"shared by {by}"


def _estimated(found: Mapping[str, Any]) -> str:
    return " estimated" if found.get("sigma_source") == "estimated" else ""


def _steps(record: Facts, known: Facts) -> str | None:
    if known["steps"] is None:
        return None
    asked = section(section(record, "settings"), "fit").get("steps")
    taken = f"{known['steps']} of {asked}" if asked else f"{known['steps']}"
    smaller = section(record, "ran").get("coarse")
    if isinstance(smaller, list) and smaller:
        taken += f", behind those at {len(smaller)} smaller {'size' if len(smaller) == 1 else 'sizes'}"
    return taken if known["chosen_step"] is None else f"{taken}, the answer from step {known['chosen_step']}"


def _seconds(record: Facts, total: float) -> str:
    fit = finite(section(record, "seconds").get("fit"))
    return duration(total) if fit is None else f"{duration(total)} (fit {duration(fit)})"
