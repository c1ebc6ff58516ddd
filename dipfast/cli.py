"""The command line: parse, call, print. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dipfast.errors import DipfastError, ItemError, MachineError, NothingMatchedError, UsageError

if TYPE_CHECKING:
    from dipfast.batch.run import RunResult
    from dipfast.manifest import Manifest

app = typer.Typer(
    name="dipfast",
    help="Restore images with Deep Image Prior: no training data, one small network fitted to each image.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


bench = typer.Typer(help="Measure: every number with its machine, versions and raw samples.", no_args_is_help=True)
app.add_typer(bench, name="bench")


class BenchOptimizer(StrEnum):
    """What updates the weights."""

    ADAM = "adam"
    MUON = "muon"


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


Source = Annotated[str, typer.Argument(help="manifest.yaml, a folder, a glob, or one image", metavar="SOURCE")]
Run = Annotated[Path, typer.Argument(help="a run's folder", metavar="RUN")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of a table")]
TaskOption = Annotated[str | None, typer.Option("--task", metavar="T", help="denoise, jpeg, inpaint or superres")]
PresetOption = Annotated[Preset | None, typer.Option("--preset", help="what all settings start from")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="any manifest key, dotted: fit.steps=500")
]
SeedOption = Annotated[int | None, typer.Option("--seed", metavar="N", help="short for --set fit.seed=N")]
LimitOption = Annotated[int | None, typer.Option("--limit", metavar="N", min=1, help="only the first N items")]
ShardOption = Annotated[str | None, typer.Option("--shard", metavar="I/N", help="part I of N of the items, I from 1")]
DevicesOption = Annotated[str, typer.Option("--devices", metavar="auto|cpu|cuda:0,1", help="where workers run")]
WorkersOption = Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="processes on the CPU")]
EngineOption = Annotated[Engine | None, typer.Option("--engine", help="how a step is run")]
PrecisionOption = Annotated[Precision | None, typer.Option("--precision", help="of the convolutions")]


@app.command()
def run(
    source: Source,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="RUN", help="the run's folder")] = None,
    task: TaskOption = None,
    preset: PresetOption = None,
    sets: SetOption = None,
    devices: DevicesOption = "auto",
    workers: WorkersOption = None,
    engine: EngineOption = None,
    precision: PrecisionOption = None,
    seed: SeedOption = None,
    executor: Annotated[Executor, typer.Option(help="what workers run on")] = Executor.LOCAL,
    shard: ShardOption = None,
    limit: LimitOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, write nothing")] = False,
    resume: Annotated[ResumeChoice, typer.Option(help="what to do again")] = ResumeChoice.AUTO,
    max_failures: Annotated[
        str | None, typer.Option("--max-failures", metavar="N|P%", help="give up after so many failed items")
    ] = None,
    progress: Annotated[ProgressChoice, typer.Option(help="how to show progress")] = ProgressChoice.AUTO,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="DIR", help="true images of the same names, for metrics")
    ] = None,
) -> None:
    """Restore every image of SOURCE. The same command again does only what is not done."""
    manifest = _manifest(
        source, task, preset, sets, seed, limit, shard, engine, precision, None if reference is None else str(reference)
    )
    if executor != "local":
        raise MachineError(f"--executor {executor}: this version runs on one machine only; use local")
    if dry_run:
        _print_plan(manifest, output, devices, workers, as_json=False)
        return
    result = _run(manifest, output, devices, workers, str(resume), max_failures, str(progress))
    raise typer.Exit(result.exit_code)


@app.command()
def plan(
    source: Source,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="RUN", help="the run's folder")] = None,
    task: TaskOption = None,
    preset: PresetOption = None,
    sets: SetOption = None,
    devices: DevicesOption = "auto",
    workers: WorkersOption = None,
    seed: SeedOption = None,
    shard: ShardOption = None,
    limit: LimitOption = None,
    as_json: AsJson = False,
) -> None:
    """Show what a run would do: buckets, predicted seconds and memory, output names. Writes nothing."""
    _print_plan(_manifest(source, task, preset, sets, seed, limit, shard), output, devices, workers, as_json)


@app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Show how a run stands: counts, failures with reasons, seconds per image, time left."""
    from dipfast.batch.ledger import RunFolder
    from dipfast.batch.run import row_as_json, rows_of
    from dipfast.report import print_summary, summarize

    rows = rows_of(RunFolder(run))
    summary = summarize(rows)
    if as_json:
        _print_json(summary | {"rows": [row_as_json(row) for row in rows]})
    else:
        print_summary(summary, _console())


@app.command()
def retry(
    run: Run,
    devices: DevicesOption = "auto",
    workers: WorkersOption = None,
    progress: Annotated[ProgressChoice, typer.Option(help="how to show progress")] = ProgressChoice.AUTO,
) -> None:
    """Do again what failed in a run, and only that."""
    from dipfast.manifest import load

    resolved = run / "manifest.resolved.yaml"
    if not resolved.is_file():
        raise UsageError(f"{run}: holds no run (it has no manifest.resolved.yaml)")
    result = _run(load(str(resolved)), run, devices, workers, "failed", None, str(progress))
    raise typer.Exit(result.exit_code)


@app.command()
def evaluate(
    run: Run,
    reference: Annotated[Path, typer.Option("--reference", metavar="DIR", help="true images of the same names")],
    as_json: AsJson = False,
    fail_under: Annotated[
        float | None, typer.Option("--fail-under", metavar="DB", help="exit 6 if the mean PSNR is lower")
    ] = None,
) -> None:
    """Measure a run's images against true ones: PSNR and SSIM."""
    from dipfast.batch.ledger import RunFolder
    from dipfast.report.evaluate import evaluate as measure
    from dipfast.report.evaluate import print_scores

    scores = measure(RunFolder(run), reference)
    if as_json:
        _print_json(scores)
    else:
        print_scores(scores, _console())
    if fail_under is not None:
        from dipfast.report.evaluate import check

        check(scores, fail_under)


@app.command()
def report(
    run: Run,
    compare: Annotated[Path | None, typer.Option("--compare", metavar="RUN2", help="another run, beside it")] = None,
) -> None:
    """Write a run's report.html, report.md, summary.json and results.csv again."""
    from dipfast.batch.ledger import RunFolder
    from dipfast.batch.run import rows_of
    from dipfast.report import write_report, write_summary

    folder = RunFolder(run)
    rows = rows_of(folder)
    other = None if compare is None else (RunFolder(compare), rows_of(RunFolder(compare)))
    summary = write_summary(folder, rows)
    write_report(folder, rows, summary, compare=other)
    typer.echo(run / "report.html")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write them")] = Path("dipfast-demo"),
) -> None:
    """Write a few damaged sample images (scikit-image's own) and a manifest for them."""
    from dipfast.demo import write_demo

    manifest = write_demo(folder)
    typer.echo(f"dipfast run {manifest}")


@app.command()
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run, and why not the rest."""
    from dipfast.doctor import examine, print_findings

    findings = examine()
    if as_json:
        _print_json(findings)
    else:
        print_findings(findings, _console())


@bench.command("step")
def bench_step(
    size: Annotated[int, typer.Option(metavar="N", min=64, help="height and width of the picture")] = 256,
    engine: Annotated[list[Engine] | None, typer.Option("--engine", help="again for each; auto unless given")] = None,
    precision: Annotated[
        list[Precision] | None, typer.Option("--precision", help="again for each; auto unless given")
    ] = None,
    optimizer: Annotated[BenchOptimizer, typer.Option(help="what updates the weights")] = BenchOptimizer.ADAM,
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda:N")] = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="samples of each variant")] = 5,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="steps a sample")] = 3,
    peer: Annotated[Path | None, typer.Option(metavar="PATH", help="a checkout of the original code")] = None,
    as_json: AsJson = False,
) -> None:
    """Time one fit step of the standard generator, by engine and precision, interleaved."""
    import torch

    from dipfast.bench.step import bench_step as measure
    from dipfast.bench.step import print_bench
    from dipfast.fit import keep_freed_memory

    if size % 32:
        raise UsageError(f"--size should be a multiple of 32, is {size}")
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()  # as a worker does
    engines, precisions = engine or [Engine.AUTO], precision or [Precision.AUTO]
    result = measure(
        size,
        engines,
        precisions,
        device=device,
        optimizer=optimizer,
        rounds=rounds,
        steps=steps,
        peer=peer,
    )
    if as_json:
        _print_json(result)
    else:
        print_bench(result, _console())


@app.command()
def schema() -> None:
    """Print the manifest's JSON Schema, for editors."""
    from dipfast.manifest import json_schema

    _print_json(json_schema())


def _version(value: bool) -> None:
    if value:
        from dipfast import __version__

        typer.echo(f"dipfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def _manifest(
    source: str,
    task: str | None,
    preset: str | None,
    sets: list[str] | None,
    seed: int | None,
    limit: int | None,
    shard: str | None,
    engine: str | None = None,
    precision: str | None = None,
    reference: str | None = None,
) -> Manifest:
    from dataclasses import replace

    from dipfast.batch.plan import shard as part
    from dipfast.manifest import load

    manifest = load(
        source,
        sets=sets or (),
        task=task,
        preset=preset,
        seed=seed,
        engine=engine,
        precision=precision,
        reference=reference,
    )
    items = manifest.items
    if shard is not None:
        items = tuple(part(items, *_shard(shard)))
    items = items[:limit]
    if not items:
        raise NothingMatchedError(f"{source}: no item is left by --shard {shard}")
    return replace(manifest, items=items)


def _shard(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--shard should be I/N with I from 1 to N, is {text!r}")
    return int(index), int(count)


def _run(
    manifest: Manifest,
    output: Path | None,
    devices: str,
    workers: int | None,
    resume: str,
    max_failures: str | None,
    progress: str,
) -> RunResult:
    from dipfast import api
    from dipfast.progress import make_progress
    from dipfast.report import print_summary, summarize

    folder = api.output_folder(manifest, output)
    _say(progress, _opening(manifest, folder))
    if manifest.export.formats:
        _say(progress, "export: this version exports nothing; the fitted generators are kept in generators/")
    with make_progress(progress) as show:
        result = api.run(
            manifest,
            folder,
            devices=devices,
            workers=workers,
            resume=resume,  # type: ignore[arg-type]
            max_failures=_max_failures(max_failures, len(manifest.items)),
            on_event=show,
        )
    print_summary(summarize(result.rows, result.seconds, already_done=result.already_done), _console())
    _say(progress, _closing(result))
    return result


def _opening(manifest: Manifest, folder: Path) -> str:
    tasks = sorted({item.settings.task.type for item in manifest.items})
    count = len(manifest.items)
    return f"{count} image{'s' if count > 1 else ''} ({', '.join(tasks)}) → {folder}"


def _closing(result: RunResult) -> str:
    root = result.folder.root
    if result.signal is not None:
        return f"interrupted; the same command goes on where it stopped: {root}"
    if result.gave_up:
        return f"gave up: {result.gave_up}; see {root / 'report.html'}"
    return f"images: {result.folder.images}  report: {root / 'report.html'}"


def _max_failures(text: str | None, items: int) -> int | None:
    if text is None:
        return None
    number = text.removesuffix("%")
    if not number.isdigit() or (text.endswith("%") and int(number) > 100):
        raise UsageError(f"--max-failures should be a number or a percentage like 10%, is {text!r}")
    return int(number) * items // 100 if text.endswith("%") else int(number)


def _print_plan(manifest: Manifest, output: Path | None, devices: str, workers: int | None, as_json: bool) -> None:
    from dipfast import api
    from dipfast.batch.forecast import forecast, print_forecast

    prediction = forecast(manifest, api.output_folder(manifest, output), devices, workers)
    if as_json:
        _print_json(prediction)
    else:
        print_forecast(prediction, _console())


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def _console() -> Any:
    from rich.console import Console

    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _say(progress: str, text: str) -> None:
    if progress not in ("none", "json"):
        print(text, file=sys.stderr, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """The `dipfast` command. Returns the exit code; no traceback for a user's mistake."""
    try:
        status = app(arguments, standalone_mode=False)
    except DipfastError as error:
        code = 2 if isinstance(error, ItemError) else error.exit_code
        print(f"dipfast: error: {error}", file=sys.stderr)
        return code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        return 0
    except Exception as error:
        return _other(error)
    return status if isinstance(status, int) else 0


def _other(error: Exception) -> int:
    """A wrong option is typer's to word; anything else is a bug, and shows where."""
    show: Callable[[], None] | None = getattr(error, "show", None)
    if show is not None:
        show()
        return int(getattr(error, "exit_code", 2))
    traceback.print_exc()
    print("dipfast: internal error; the lines above say where", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
