"""What the scripts of this folder share: how threads wait, options, and a command line around one function.

A script imports this before anything else, since how threads wait must be said before torch is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from dipfast.cli import main
from dipfast.threads import wait_briefly

wait_briefly()

Pictures = Annotated[list[str] | None, typer.Argument(help="pictures; scikit-image's own unless given")]
Damages = Annotated[
    list[str] | None, typer.Option("--damage", metavar="KIND:VALUE", help="again for each; gaussian:25 unless given")
]
Crop = Annotated[int, typer.Option(metavar="N", min=32, help="side of the square cut from the middle")]
Threads = Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")]


def command_line(verb: Callable[..., None]) -> typer.Typer:
    """A command line with the parameters of ``verb`` for options and its docstring for help."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(verb)
    return app


def run(app: typer.Typer) -> None:
    """End this process with what ``app`` comes to, as the `dipfast` command does: a mistake is one line and a code."""
    sys.exit(main(commands=app))


def prepare(threads: int | None) -> None:
    """Set the number of threads, and keep freed memory as a worker does."""
    import torch

    from dipfast.fit import keep_freed_memory

    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()


def say(line: str) -> None:
    """Tell of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
