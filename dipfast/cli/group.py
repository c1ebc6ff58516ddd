"""The command `dipfast` itself: what is no command is something to restore."""

from __future__ import annotations

import difflib
import os
import re
from typing import Any

import typer
from typer.core import TyperGroup

IS_PATH = re.compile(r"[./\\:*?\[]").search  # a word with one of these is meant as a path, a pattern or an address


class Commands(TyperGroup):
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
        if not first or IS_PATH(first) or os.path.lexists(first):
            return ["run", *words]
        near = difflib.get_close_matches(first, self.commands, n=1)
        question = f"; did you mean '{near[0]}'?" if near else ""
        ctx.fail(f"No such command {first!r}, and no such file or folder{question}")
