"""`variants.html`: every variant of a generator as a picture over its row of numbers. One file, no network."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dipfast.text import number, printable

TEMPLATES = Path(__file__).parent / "templates"


def sheet(title: str, subjects: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> str:
    """The page for ``subjects``: the name of each, its id, and its rows.

    Rows are as `Variant.as_json` has them, with `png`, the picture's bytes.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {"number": number, "uri": _uri}
    style = (TEMPLATES / "report.css").read_text()
    return environment.get_template("variants.html.j2").render(title=title, style=style, subjects=subjects)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
