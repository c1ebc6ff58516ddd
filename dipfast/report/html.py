"""The templates of the pages, and how they are filled.

Everything that comes from outside is escaped, and a template that names a value which is not given is an error. Each
page is one file that loads nothing from a network.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dipfast.text import change, count, duration, gain, image_link, number, printable, rate, reason_of

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """Return the environment of jinja2 over `TEMPLATES`, with the functions of `dipfast.text`."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    made.filters |= {"duration": duration, "number": number, "image_link": image_link, "rate": rate, "png_uri": png_uri}
    made.globals |= {"change": change, "count": count, "gain": gain, "reason_of": reason_of}
    return made


def png_uri(png: bytes) -> str:
    """Return a data URI that holds the bytes of a PNG file."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def variants_page(title: str, subjects: Sequence[tuple[str, str, Sequence[Mapping[str, Any]]]]) -> str:
    """Return the page `variants.html`, with each variant of each generator as a picture over its row of numbers.

    ``subjects`` has a name, an id and rows for each generator. A row is what `Variant.as_json` returns, with the bytes
    of the picture as `png`.
    """
    style = (TEMPLATES / "report.css").read_text("utf-8")
    return environment().get_template("variants.html.j2").render(title=title, style=style, subjects=subjects)
