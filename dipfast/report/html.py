"""The pages' templates, and how they are filled: everything from outside is escaped, and nothing may be missing."""

from __future__ import annotations

import base64
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dipfast.text import change, count, duration, gain, image_link, number, printable, rate, reason_of

TEMPLATES = Path(__file__).parent / "templates"


@cache
def environment() -> Environment:
    """jinja2 over `TEMPLATES`, with the words of `dipfast.text`."""
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
    """A PNG file's bytes as an address that holds them."""
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
