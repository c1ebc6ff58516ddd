"""What the verbs of the command line share: their options, and how they print."""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipfast.cli.group import EXPERT, SPEED
from dipfast.errors import UsageError
from dipfast.threads import MOST

if TYPE_CHECKING:
    from dipfast.manifest import Manifest
    from dipfast.workers.options import RunOptions


class Preset(StrEnum):
    """Named settings."""

    FAST = "fast"
    BALANCED = "balanced"
    BEST = "best"
    PAPER = "paper"


class Engine(StrEnum):
    """How a step is run."""

    AUTO = "auto"
    EAGER = "eager"
    COMPILE = "compile"
    CUDAGRAPH = "cudagraph"


class Precision(StrEnum):
    """What convolutions compute in."""

    AUTO = "auto"
    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


class Executor(StrEnum):
    """What workers run on."""

    LOCAL = "local"
    RAY = "ray"
    SLURM = "slurm"


class ResumeChoice(StrEnum):
    """What to do again."""

    AUTO = "auto"
    NEVER = "never"
    FAILED = "failed"


class ProgressChoice(StrEnum):
    """How progress is shown."""

    AUTO = "auto"
    RICH = "rich"
    PLAIN = "plain"
    JSON = "json"
    NONE = "none"


def finite(value: float | None) -> float | None:
    """``value``; NaN, below which nothing is, would let everything through a gate."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"should be a finite number, is {value}")
    return value


def decibels(value: float | None) -> float | None:
    """Return ``value``, a gate's limit in dB, which a number of 0 or less would switch off."""
    value = finite(value)
    if value is not None and value <= 0:
        raise typer.BadParameter(f"should be a number above 0, is {value:g}")
    return value


def _checked_threads(count: int | None) -> int | None:
    if count is not None and not 1 <= count <= MOST:
        raise typer.BadParameter(f"should be a number from 1 to {MOST}, is {count}")
    return count


Run = Annotated[Path, typer.Argument(help="a run's folder", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
Devices = Annotated[
    str, typer.Option("--devices", metavar="auto|cpu|cuda:0,1", help="where workers run", rich_help_panel=SPEED)
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", metavar="N", min=1, help="processes on the CPU; one a core unless given", rich_help_panel=SPEED
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        "--threads",
        metavar="N",
        callback=_checked_threads,
        help="of each worker; as OMP_NUM_THREADS says unless given",
        rich_help_panel=SPEED,
    ),
]
Cohort = Annotated[
    str,
    typer.Option(
        "--cohort", metavar="auto|N", help="pictures of one size fitted side by side on a device", rich_help_panel=SPEED
    ),
]
Progress = Annotated[ProgressChoice, typer.Option(help="how to show progress", rich_help_panel=EXPERT)]


@dataclass(frozen=True)
class Asked:
    """What `run` and `plan` are about: the run's folder in ``output``, and the ``file`` of its one picture."""

    manifest: Manifest
    output: str | Path | None
    options: RunOptions
    file: Path | None = None
    open_it: bool = False


def ask(
    sources: Annotated[
        list[str], typer.Argument(help="images, folders and globs, or one manifest.yaml", metavar="SOURCE")
    ],
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="RUN|FILE",
            help="the run's folder, or an address: s3://...; in runs/ unless given; FILE.png: the one picture's file",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            "--task", metavar="T", help="auto, denoise, jpeg, inpaint or superres; auto without a manifest: by the file"
        ),
    ] = None,
    sigma: Annotated[
        str | None, typer.Option("--sigma", metavar="S", help="denoise noise of this sigma, in 8-bit units, or auto")
    ] = None,
    scale: Annotated[int | None, typer.Option("--scale", metavar="N", help="enlarge each side N times")] = None,
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", metavar="PATH", help="fill what it leaves out; {name}_mask.png for several pictures; or alpha"
        ),
    ] = None,
    quality: Annotated[
        str | None, typer.Option("--quality", metavar="Q", help="remove the blocks of a JPEG of this quality, or auto")
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option("--strength", metavar="S", help="share of the change to apply, 0 to 1; not for superres"),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="denoise even where no noise is found, and do not limit the change")
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="open the picture or the report after the run")] = False,
    preset: Annotated[Preset | None, typer.Option("--preset", help="what all settings start from")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="any manifest key, dotted: fit.steps=500", rich_help_panel=EXPERT
        ),
    ] = None,
    devices: Devices = "auto",
    workers: Workers = None,
    threads: Threads = None,
    cohort: Cohort = "auto",
    engine: Annotated[Engine | None, typer.Option("--engine", help="how a step is run", rich_help_panel=SPEED)] = None,
    precision: Annotated[
        Precision | None, typer.Option("--precision", help="of the convolutions", rich_help_panel=SPEED)
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="short for --set fit.seed=N", rich_help_panel=EXPERT)
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="part I of N of the items, I from 1", rich_help_panel=EXPERT),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", min=1, help="only the first N items", rich_help_panel=EXPERT)
    ] = None,
    reference: Annotated[
        str | None,
        typer.Option(
            "--reference", metavar="DIR", help="true images of the same names, for metrics", rich_help_panel=EXPERT
        ),
    ] = None,
) -> Asked:
    """The manifest behind SOURCE with all options in it. Raises what `dipfast.manifest.load` raises."""
    from dataclasses import replace

    from dipfast.batch.choose import choose_task
    from dipfast.cli.picture import check_file, file_of
    from dipfast.manifest import load
    from dipfast.workers.options import RunOptions

    if reference is not None:
        _check_reference(reference)
    if mask is not None:
        _check_mask(mask)
    file = file_of(output)
    ending = [] if file is None else [f"output.template={{relpath}}/{{name}}{file.suffix.lower()}"]
    manifest = load(
        sources,
        sets=[*(sets or ()), *ending],
        task=task,
        preset=preset,
        seed=seed,
        engine=engine,
        precision=precision,
        strength=strength,
        reference=reference,
        short={"sigma": sigma, "scale": scale, "mask": mask, "quality": quality, "force": force or None},
        choose=choose_task,
    )
    part = None if shard is None else _shard(shard)
    limited = replace(manifest, items=manifest.items[:limit])
    options = RunOptions(devices, workers, threads, cohort_of(cohort), shard=part)
    if file is not None:
        check_file(file, limited)
    return Asked(limited, output if file is None else None, options, file, open_it)


def _check_reference(reference: str) -> None:
    """Raises UsageError for a path that is neither a folder nor an image; an address is looked at item by item."""
    from dipfast.manifest import SUFFIXES
    from dipfast.remote import is_remote

    path = Path(reference)
    if is_remote(reference):
        return
    if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--reference {reference}: should be a folder, or the one true image")
    if not path.exists():
        raise UsageError(f"--reference {reference}: is not there")


def _check_mask(mask: str) -> None:
    """Raise UsageError for a mask that is no file and has no placeholder."""
    from dipfast.remote import is_remote
    from dipfast.settings.task import ALPHA

    path = Path(mask)
    if mask == ALPHA or is_remote(mask) or mask.startswith("file://") or ("{" in mask and not path.exists()):
        return
    if path.is_dir():
        raise UsageError(f"--mask {mask}: is a folder; name the masks in it, like {path / '{name}.png'}")
    if not path.exists():
        raise UsageError(f"--mask {mask}: is not there")


def cohort_of(text: str) -> int | None:
    """The number that --cohort gives; None for auto. Raises UsageError."""
    if text == "auto":
        return None
    if not re.fullmatch(r"[1-9][0-9]{0,2}", text):
        raise UsageError(f"--cohort should be auto or a number from 1 to 999, is {text!r}")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= count:
        raise UsageError(f"--shard should be I/N with I from 1 to N, is {text!r}")
    return index, count


def taking(first: Callable[..., Any]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorate a verb so that it has the options of ``first`` too, and gets its result as its first argument."""
    shared = inspect.signature(first, eval_str=True).parameters

    def decorate(verb: Callable[..., Any]) -> Callable[..., Any]:
        own = list(inspect.signature(verb, eval_str=True).parameters.values())[1:]

        def run(**given: Any) -> Any:
            result = first(**{name: given.pop(name) for name in shared})
            return verb(result, **given)

        signature = inspect.Signature([*shared.values(), *own])
        run.__signature__ = signature  # type: ignore[attr-defined]
        run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
        run.__name__, run.__doc__ = verb.__name__, verb.__doc__
        return run

    return decorate


def show(result: Any, as_json: bool, table: Callable[[Any, Any], object]) -> None:
    """A result for machines, or as ``table`` prints it onto a console for people."""
    if as_json:
        print_json(result)
    else:
        table(result, console())


def print_json(value: Any) -> None:
    """A result for machines, in ASCII: names of files may be no UTF-8, or move a terminal's cursor."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """What `print_json` prints."""
    return json.dumps(value, indent=2, default=str)


def console() -> Any:
    """Where tables for people go: standard output."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())
