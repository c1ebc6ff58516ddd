"""The command `dipfast` itself, where what is no command is something to restore, and the help of all commands.

The help has panels, plain text that is wrapped to the terminal and never cut. What is given no panel is in Basics.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WHOLE = 1000  # characters of a command's first sentence, of which none is cut
BASICS, SPEED, EXPERT = PANELS = ("Basics", "Speed", "Expert")

IS_PATH = re.compile(r"[./\\:*?\[]").search  # a word with one of these is meant as a path, a pattern or an address


def examples(*commands: str) -> str:
    """Return the end of a verb's help: commands that can be typed as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {command}" for command in commands)])


def write_panels(formatter: Any, rows: Iterable[tuple[str | None, tuple[str, str]]], alone: str) -> None:
    """Write ``rows``, each with its panel, panel by panel; ``alone`` is the title where there is but one."""
    found: dict[str, list[tuple[str, str]]] = {panel: [] for panel in PANELS}
    for panel, row in rows:
        found[panel or BASICS].append(row)
    shown = {panel: several for panel, several in found.items() if several}
    for panel, several in shown.items():
        with formatter.section(panel if len(shown) > 1 else alone):
            formatter.write_dl(several)


def _write_options(command: Any, context: Any, formatter: Any) -> None:
    rows = [(each, each.get_help_record(context)) for each in command.get_params(context)]
    arguments = [row for each, row in rows if row and each.param_type_name == "argument"]
    if arguments:
        with formatter.section("Arguments"):
            formatter.write_dl(arguments)
    options = [(each, row) for each, row in rows if row and each.param_type_name == "option"]
    write_panels(formatter, ((getattr(each, "rich_help_panel", None), row) for each, row in options), "Options")


class Verb(TyperCommand):
    """A command whose help has panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of its arguments and options."""
        _write_options(self, ctx, formatter)


class Group(TyperGroup):
    """A group of commands whose help has panels."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the help of its options and commands."""
        _write_options(self, ctx, formatter)
        commands = [(name, self.commands[name]) for name in self.list_commands(ctx)]
        rows = [
            (getattr(command, "rich_help_panel", None), (name, command.get_short_help_str(WHOLE)))
            for name, command in commands
            if not command.hidden
        ]
        write_panels(formatter, rows, "Commands")


class Commands(Group):
    """The group of all commands, in which `dipfast PICTURE` stands for `dipfast run PICTURE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words after `dipfast`, with `run` in front of those that name no command."""
        return super().parse_args(ctx, self._with_command(ctx, args))

    def _with_command(self, ctx: typer.Context, words: list[str]) -> list[str]:
        first = words[0] if words else None
        if first is None or first in self.commands:
            return words
        if first.startswith("-"):
            own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
            return words if first in own else ["run", *words]
        if not first or ctx.resilient_parsing or IS_PATH(first) or os.path.lexists(first):
            return ["run", *words]
        near = difflib.get_close_matches(first, self.commands, n=1)
        question = f"; did you mean '{near[0]}'?" if near else ""
        ctx.fail(f"No such command {first!r}, and no such file or folder{question}")
