"""The command line: parse, call, print. Results go to standard output, progress and errors to standard error."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from dipfast.cli.bench import bench
from dipfast.cli.ending import Terminated, amiss, other, shown, terminable, unwritten
from dipfast.cli.export import bench_render, export, render, variants
from dipfast.cli.group import EXPERT, SPEED, Commands, Verb, examples
from dipfast.cli.options import (
    AsJson,
    Asked,
    Cohort,
    Devices,
    Executor,
    Progress,
    ProgressChoice,
    ResumeChoice,
    Run,
    Threads,
    Workers,
    ask,
    cohort_of,
    console,
    finite,
    print_json,
    show,
    taking,
)
from dipfast.cli.picture import open_result, write_file
from dipfast.errors import DipfastError, ItemError, UsageError
from dipfast.streams import enduring
from dipfast.threads import wait_briefly

if TYPE_CHECKING:
    from dipfast.batch.run import RunResult
    from dipfast.manifest import Manifest
    from dipfast.workers.options import Executor as LocalOrRay
    from dipfast.workers.options import Resume

app = typer.Typer(
    name="dipfast",
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Restore images with Deep Image Prior: no training data, one small network fitted to each image.",
    epilog=examples("dipfast photo.jpg", "dipfast scans/ -o restored"),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
bench.command(
    "render", cls=Verb, epilog=examples("dipfast bench render", "dipfast bench render --size 512 --threads 1")
)(bench_render)


@app.command(cls=Verb, epilog=examples("dipfast photo.jpg", "dipfast run *.tif -o restored --preset fast"))
@taking(ask)
def run(
    asked: Asked,
    executor: Annotated[Executor, typer.Option(help="what workers run on", rich_help_panel=SPEED)] = Executor.LOCAL,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the plan, write nothing")] = False,
    resume: Annotated[
        ResumeChoice,
        typer.Option(help="auto, failed: do what is not done; never: do all again", rich_help_panel=EXPERT),
    ] = ResumeChoice.AUTO,
    max_failures: Annotated[
        str | None,
        typer.Option(
            "--max-failures", metavar="N|P%", help="give up after more failed items than this", rich_help_panel=EXPERT
        ),
    ] = None,
    progress: Progress = ProgressChoice.AUTO,
) -> None:
    """Restore every image of SOURCE. The same command again does only what is not done."""
    if dry_run:
        _print_plan(asked, as_json=False)
        return
    if executor == "slurm":
        _max_failures(max_failures, 1)  # what is wrong is said here
        allowed = [] if max_failures is None else ["--max-failures", max_failures]
        _submit(asked, resume.value, allowed)
        return
    result = _run(asked, resume.value, max_failures, progress, executor)
    raise typer.Exit(result.exit_code)


@app.command(
    cls=Verb, epilog=examples("dipfast plan scans/", "dipfast plan photo.png --preset best --set fit.steps=500")
)
@taking(ask)
def plan(asked: Asked, as_json: AsJson = False) -> None:
    """Show what a run would do: buckets, predicted seconds and memory, output names. Writes nothing.

    Exits with 3 where files or the memory show that items will fail.
    """
    _print_plan(asked, as_json)


@app.command(cls=Verb, epilog=examples("dipfast status runs/scans-1a2b3c", "dipfast status restored --json"))
def status(run: Run, as_json: AsJson = False) -> None:
    """Show how a run stands: counts, failures with reasons, seconds per image, time left."""
    from dipfast.report import print_summary, summary_of
    from dipfast.store.folder import RunFolder
    from dipfast.store.rows import row_as_json, rows_of

    folder = RunFolder(run)
    rows = rows_of(folder)
    summary = summary_of(folder, rows)
    if as_json:
        print_json(summary | {"rows": [row_as_json(row) for row in rows]})
    else:
        print_summary(summary, console())


@app.command(cls=Verb, epilog=examples("dipfast retry runs/scans-1a2b3c", "dipfast retry restored --workers 1"))
def retry(
    run: Run,
    devices: Devices = "auto",
    workers: Workers = None,
    threads: Threads = None,
    cohort: Cohort = "auto",
    progress: Progress = ProgressChoice.AUTO,
) -> None:
    """Do again what failed in a run, and what it left undone."""
    from dipfast.manifest import load
    from dipfast.workers.options import RunOptions

    resolved = run / "manifest.resolved.yaml"
    if not resolved.is_file():
        raise UsageError(f"{run}: holds no run (it has no manifest.resolved.yaml)")
    asked = Asked(load(str(resolved)), run, RunOptions(devices, workers, threads, cohort_of(cohort)))
    result = _run(asked, "failed", None, progress)
    raise typer.Exit(result.exit_code)


@app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples("dipfast merge part1 part2 -o whole", "dipfast merge runs/part* -o runs/whole"),
)
def merge(
    runs: Annotated[list[Path], typer.Argument(help="folders of runs", metavar="RUN...")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT", help="a new folder, or one merged before")],
) -> None:
    """Make one run out of the runs of shards."""
    from dipfast.report import print_summary, write_report, write_summary
    from dipfast.store.folder import RunFolder
    from dipfast.store.lock import writing
    from dipfast.store.merge import merge as join
    from dipfast.store.rows import rows_of

    folder = join([RunFolder(run) for run in runs], RunFolder(output))
    rows = rows_of(folder)
    with writing(folder):
        summary = write_summary(folder, rows)
        write_report(folder, rows, summary)
    print_summary(summary, console())


@app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples(
        "dipfast evaluate restored --reference clean/", "dipfast evaluate restored --reference clean/ --fail-under 30"
    ),
)
def evaluate(
    run: Run,
    reference: Annotated[Path, typer.Option("--reference", metavar="DIR", help="true images of the same names")],
    as_json: AsJson = False,
    fail_under: Annotated[
        float | None,
        typer.Option("--fail-under", metavar="DB", callback=finite, help="exit 6 if the mean PSNR is lower"),
    ] = None,
) -> None:
    """Measure a run's images against true ones: PSNR and SSIM."""
    from dipfast.report.evaluate import evaluate as measure
    from dipfast.report.evaluate import print_scores
    from dipfast.store.folder import RunFolder

    scores = measure(RunFolder(run), reference)
    show(scores, as_json, print_scores)
    if fail_under is not None:
        from dipfast.report.evaluate import check

        check(scores, fail_under)


@app.command(cls=Verb, epilog=examples("dipfast report restored", "dipfast report restored --compare runs/earlier"))
def report(
    run: Run,
    compare: Annotated[Path | None, typer.Option("--compare", metavar="RUN2", help="another run, beside it")] = None,
) -> None:
    """Write a run's report.html, report.md, summary.json and results.csv again."""
    from dipfast.report import write_report, write_summary
    from dipfast.store.folder import RunFolder
    from dipfast.store.lock import writing
    from dipfast.store.rows import rows_of

    folder = RunFolder(run)
    other = None if compare is None else (RunFolder(compare), rows_of(RunFolder(compare)))
    rows = rows_of(folder)
    with writing(folder):
        summary = write_summary(folder, rows)
        write_report(folder, rows, summary, compare=other)
    print(run / "report.html")


@app.command(cls=Verb, epilog=examples("dipfast demo", "dipfast demo examples/"))
def demo(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to write them")] = Path("dipfast-demo"),
) -> None:
    """Write a few damaged sample images (scikit-image's own) and a manifest for them."""
    from dipfast.demo import write_demo

    manifest = write_demo(folder)
    print(f"dipfast run {manifest}")


@app.command(cls=Verb, epilog=examples("dipfast doctor", "dipfast doctor --json"))
def doctor(as_json: AsJson = False) -> None:
    """Say what this machine can run, and why not the rest."""
    from dipfast.doctor import examine, print_findings

    findings = examine()
    show(findings, as_json, print_findings)


@app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples("dipfast schema > dipfast.schema.json", "dipfast schema --variants"),
)
def schema(
    variants: Annotated[bool, typer.Option("--variants", help="of variants.yaml, not of the manifest")] = False,
) -> None:
    """Print the manifest's JSON Schema, for editors."""
    if variants:
        from dipfast.render.variants import Spec

        print_json(Spec.model_json_schema())
        return
    from dipfast.manifest import json_schema

    print_json(json_schema())


def _version(value: bool) -> None:
    if value:
        from dipfast import __version__

        print(f"dipfast {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


def _run(
    asked: Asked, resume: Resume, max_failures: str | None, progress: str, executor: Executor = Executor.LOCAL
) -> RunResult:
    from dataclasses import replace

    from dipfast import api
    from dipfast.batch.choose import chosen_in_words
    from dipfast.batch.run import ready, shard_of
    from dipfast.progress import make_progress
    from dipfast.report import print_summary, summarize

    manifest = shard_of(asked.manifest, asked.options.shard)
    folder = api.output_folder(manifest, asked.output)
    allowed, on = _max_failures(max_failures, len(manifest.items)), cast("LocalOrRay", executor.value)
    options = replace(asked.options, resume=resume, max_failures=allowed, executor=on)
    ready(manifest, options)  # what is wrong is said alone
    if manifest.export.formats:
        from dipfast.export.save import ready as ready_to_export

        ready_to_export(manifest.export.formats, manifest.export.precision)
    _say(progress, chosen_in_words(manifest.items))
    _say(progress, _opening(manifest, folder))
    with make_progress(str(progress)) as show:
        result = api.run_and_report(asked.manifest, asked.output, options, show, export=False)
    summary = result.summary if options.shard is None else None
    summary = summary or summarize(result.rows, result.seconds, already_done=result.already_done)
    print_summary(summary, console())
    if manifest.left_out:
        print(f"left out: {manifest.left_out}", flush=True)
    _say(progress, _closing(result))
    if asked.file is not None and write_file(asked.file, result):
        _say(progress, f"picture: {asked.file}")
    if asked.open_it and result.signal is None:
        open_result(result, asked.file)
    if manifest.export.formats and result.signal is None:
        written = api.write_models(manifest, result, lambda line: _say(progress, line))
        _say(progress, f"models: {written} written to {result.folder.root / 'export'}")
    return result


def _submit(asked: Asked, resume: Resume, more: list[str]) -> None:
    from dataclasses import replace

    from dipfast import api
    from dipfast.workers.slurm import submit

    if asked.file is not None:
        raise UsageError(f"-o {asked.file}: should be a folder with --executor slurm, whose jobs run later")
    if asked.options.shard is not None:
        raise UsageError("--shard cannot be given with --executor slurm, which makes the shards")
    root = api.output_folder(asked.manifest, asked.output)
    options = replace(asked.options, resume=resume)
    job = submit(asked.manifest, api.run_folder(asked.manifest, asked.output), options, more)
    print(f"SLURM job {job}; how it stands: dipfast status {root}")


def _opening(manifest: Manifest, folder: Path) -> str:
    tasks = sorted({item.shared.task.type for item in manifest.items})
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
    match = re.fullmatch(r"([0-9]{1,9})(%?)", text)
    if match is None or (match[2] and int(match[1]) > 100):
        raise UsageError(f"--max-failures should be a number or a percentage like 10%, is {text!r}")
    return int(match[1]) * items // 100 if match[2] else int(match[1])


def _print_plan(asked: Asked, as_json: bool) -> None:
    from dipfast import api
    from dipfast.batch.choose import chosen_in_words
    from dipfast.batch.forecast import SHOWN, forecast, print_forecast
    from dipfast.batch.run import shard_of

    manifest = shard_of(asked.manifest, asked.options.shard)
    folder = api.output_folder(manifest, asked.output)
    listed = None if as_json else SHOWN
    prediction = forecast(manifest, folder, asked.options, listed)
    for text in (chosen_in_words(manifest.items), *manifest.doubts()):
        _say("plain", text)
    if asked.file is not None:
        prediction["file"] = str(asked.file)
    show(prediction, as_json, print_forecast)
    if asked.file is not None and not as_json:
        print(f"the picture is written to {asked.file}, too")
    if prediction["failed"]:
        raise typer.Exit(ItemError.exit_code)


def _say(progress: str, text: str) -> None:
    if text and progress not in ("none", "json"):
        print(text, file=sys.stderr, flush=True)


app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples("dipfast export restored", "dipfast export restored --format onnx --precision fp16"),
)(export)
app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples("dipfast render restored", "dipfast render denoiser.onnx photo.png -o out.png"),
)(render)
app.command(
    cls=Verb,
    rich_help_panel=EXPERT,
    epilog=examples("dipfast variants restored", "dipfast variants restored --reference clean/"),
)(variants)
app.add_typer(bench, name="bench", rich_help_panel=SPEED)


def main(arguments: list[str] | None = None, commands: typer.Typer = app) -> int:
    """Run the `dipfast` command, or other ``commands``. Returns the exit code; no traceback for a user's mistake."""
    wait_briefly()
    with enduring() as error_of_output:
        return _called(arguments, commands) or unwritten(error_of_output())


def _called(arguments: list[str] | None, commands: typer.Typer) -> int:
    try:
        with terminable():
            name = commands.info.name  # of a script's own commands it is not set
            status = commands(arguments, name if isinstance(name, str) else None, standalone_mode=False)
    except Terminated:
        return 143
    except DipfastError as error:
        code = 2 if isinstance(error, ItemError) else error.exit_code
        print(f"dipfast: error: {shown(error)}", file=sys.stderr)
        return code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except OSError as error:
        return amiss(error)
    except Exception as error:
        return other(error)
    return status if isinstance(status, int) else 0
