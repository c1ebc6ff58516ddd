"""`variants.html`: every variant of a generator as a picture over its row of numbers. One file, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dipfast.report.html import TEMPLATES, environment


def sheet(title: str, subjects: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> str:
    """The page for ``subjects``: the name of each, its id, and its rows.

    Rows are as `Variant.as_json` has them, with `png`, the picture's bytes.
    """
    style = (TEMPLATES / "report.css").read_text("utf-8")
    return environment().get_template("variants.html.j2").render(title=title, style=style, subjects=subjects)
