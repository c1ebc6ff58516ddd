"""Rows of results: grouped, by column, and as a table for a person."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

Row = dict[str, Any]

SEEDS = {"noise_seed": 0, "weight_seed": 0}  # of rows that do not name them


def key_of(row: Row, keys: Iterable[str]) -> tuple[Any, ...]:
    """What ``row`` has under ``keys``."""
    return tuple((SEEDS | row)[key] for key in keys)


def grouped(rows: Iterable[Row], *keys: str) -> dict[tuple[Any, ...], list[Row]]:
    """The rows that have the same under ``keys``, by that, in the order of the first ones."""
    groups = defaultdict(list)
    for row in rows:
        groups[key_of(row, keys)].append(row)
    return groups


def column(rows: Iterable[Row], key: str) -> list[Any]:
    """What the rows have under ``key``, where they have it."""
    return [row[key] for row in rows if row.get(key) is not None]


def fill(table: Table, rows: Iterable[Row], forms: Iterable[str]) -> Table:
    """``table`` with a cell for each of ``forms`` (`{psnr:.2f} dB`); it is empty where a row has not what is named."""
    for row in rows:
        table.add_row(*(_cell(row, form) for form in forms))
    return table


def _cell(row: Mapping[str, Any], form: str) -> str:
    try:
        return form.format(**row)
    except KeyError:
        return ""
