"""What the scripts of this folder share: how threads wait, their options, and a command line around one function.

A script imports this before anything else, since how threads wait must be said before torch is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from inspect import Signature, signature
from typing import Annotated, Any

import typer

from dipfast.cli.app import main
from dipfast.cli.options import AsJson, show
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


def benchmark(bench: Callable[..., Any], table: Callable[[Any, Any], object]) -> typer.Typer:
    """The same for a ``bench`` of whole fits, with `--threads` and `--json`. ``table`` prints its result for people."""

    def verb(threads: Threads = None, as_json: AsJson = False, **given: Any) -> None:
        import torch

        from dipfast.fit import keep_freed_memory

        if threads is not None:
            torch.set_num_threads(threads)
        keep_freed_memory()  # as a worker does
        show(bench(**given), as_json, table)

    *own, _ = signature(verb, eval_str=True).parameters.values()
    parameters = [*signature(bench, eval_str=True).parameters.values(), *own]
    verb.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {one.name: one.annotation for one in parameters}
    verb.__doc__ = (bench.__doc__ or "").partition("\n\n")[0]
    return command_line(verb)


def run(app: typer.Typer) -> None:
    """End this process with what ``app`` comes to, as `dipfast` does: a mistake is one line and an exit code."""
    sys.exit(main(commands=app))


def say(line: str) -> None:
    """Tell of progress on standard error."""
    print(line, file=sys.stderr, flush=True)
