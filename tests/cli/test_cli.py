"""The command line: verbs and flags as the contract has them, exit codes, one line for a mistake."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import typer.main
from conftest import worker_processes

from dipfast.batch.prepare import prepare
from dipfast.cli.app import app, main
from dipfast.image import Source, write
from dipfast.manifest import load

TINY = [
    "--set",
    "generator.channels=[8, 8]",
    "--set",
    "generator.input.type=noise",
    "--set",
    "generator.input.depth=4",
    "--set",
    "fit.steps=3",
]
NOISY = ["--set", "task.noise.sigma=25"]
SELECTION = (
    "sources output task sigma scale mask quality strength force open_it preset sets devices workers threads cohort "
    "engine precision seed shard limit reference"
)
FLAGS = {
    "run": f"{SELECTION} executor dry_run resume max_failures progress",
    "plan": f"{SELECTION} as_json",
    "status": "run as_json",
    "retry": "run devices workers threads cohort progress",
    "merge": "runs output",
    "evaluate": "run reference as_json fail_under",
    "report": "run compare",
    "export": "target formats precision min_psnr of min_psnr_to_picture bake_latent output as_json",
    "render": "target picture backend output precision provider strength as_json",
    "variants": "target spec reference output as_json",
    "demo": "folder",
    "bench": "",
    "doctor": "as_json",
    "schema": "variants",
}


@pytest.fixture
def image(tmp_path: Path, picture: np.ndarray) -> Path:
    write(tmp_path / "in" / "dog.png", picture, Source("png", "rgb", 8))
    return tmp_path / "in" / "dog.png"


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of one command."""
    code = main(list(arguments))
    out, error = capsys.readouterr()
    return code, out, error


def test_verbs_and_flags_are_the_contracts() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {name: {parameter.name for parameter in command.params} for name, command in commands.items()}
    assert found == {name: set(flags.split()) for name, flags in FLAGS.items()}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["run", "nowhere"], 2, "nowhere"),
        (["run", "{dir}/empty/*.png"], 4, "empty"),
        (["run", "{image}", "--set", "fit.stepz=3"], 2, "did you mean 'steps'"),
        (["run", "{image}", "--set", "fit.steps=-3"], 2, "fit.steps"),
        (["run", "{image}", "--task", "denoize"], 2, "denoise"),
        (["run", "{image}", "--threads", "0"], 2, "--threads': should be a number from 1 to 1024, is 0"),
        (["plan", "{image}", "--threads", "2000"], 2, "should be a number from 1 to 1024, is 2000"),
        (["retry", "{dir}", "--threads", "two"], 2, "--threads"),
        (["run", "{image}", "--devices", "gpu"], 2, "--devices should be auto, cpu, or cuda:0,1"),
        (["run", "{image}", "--devices", "cuda:77"], 5, "--devices cuda:77: this machine has"),
        (["run", "{image}", "--executor", "slurm"], 2, "--executor slurm"),
        (["run", "{image}", "--devices", "cpu", "--engine", "cudagraph"], 5, "fit.engine is cudagraph"),
        (
            ["run", "{image}", "--devices", "cpu", "--set", "fit.kernels=triton"],
            5,
            "fit.kernels is triton, which needs",
        ),
        (["plan", "{image}", "--devices", "cpu", "--set", "fit.kernels=triton"], 5, "fit.kernels is triton"),
        (
            ["run", "{image}", "--set", "fit.kernels=fused"],
            2,
            "fit.kernels: should be auto, plain or triton, is 'fused'",
        ),
        (["run", "{image}", "--precision", "fp16"], 5, "fit.precision is fp16"),
        (["run", "{image}", "--set", "fit.device=cuda:77"], 5, "fit.device is cuda:77"),
        (["run", "{image}", "--precision", "fp16", "--dry-run"], 5, "fit.precision is fp16"),
        (["plan", "{image}", "--precision", "fp16"], 5, "fit.precision is fp16"),
        (["run", "{image}", "--shard", "3/2"], 2, "--shard should be I/N"),
        (["run", "{image}", "--shard", "²/²"], 2, "--shard should be I/N"),
        (["run", "{image}", "--shard", "2/2"], 4, "no item is left by --shard 2/2"),
        (["run", "{image}", "--max-failures", "many"], 2, "--max-failures should be a number"),
        (["run", "{image}", "--max-failures", "²"], 2, "--max-failures should be a number"),
        (["run", "{image}", "--devices", "cuda:²"], 2, "--devices should be auto, cpu, or cuda:0,1"),
        (["run", "{image}", "--reference", "{dir}/no"], 2, "--reference"),
        (["plan", "{image}", "--reference", "{dir}/no"], 2, "--reference"),
        (["run", "{image}", "--preset", "slow"], 2, "slow"),
        (["run", "{image}", "--preset", "FAST"], 2, "'FAST' is not one of 'fast'"),
        (["run", "{image}", "--limit", "0"], 2, "'--limit'"),
        (["run", "{image}", "--strength", "1.5"], 2, "--strength 1.5: output.strength: should be at most 1, is 1.5"),
        (["run", "{image}", "--strength", "-1"], 2, "--strength -1.0: output.strength: should be at least 0"),
        (["run", "{image}", "--strength", "nan"], 2, "--strength nan: output.strength: should be a finite number"),
        (["run", "{image}", "--strength", "high"], 2, "Invalid value for '--strength'"),
        (
            ["plan", "{image}", "--scale", "2", "--strength", "0.5"],
            2,
            "--strength 0.5: output.strength: should be 1 for task superres",
        ),
        (["run", "{image}", "{dir}/no.png"], 2, "SOURCE: there is no file or folder"),
        (["run", "{image}", "--stepz", "3"], 2, "--stepz"),
        (["run", "{image}", "--reference", "{dir}/no.png"], 2, "no.png: is not there"),
        (["run", ""], 2, "SOURCE: should be text that is not empty"),
        (["plan", "{image}", "-o", ""], 2, "output: should be a folder or an address"),
        (["plan", "{image}", "-o", "odd://x"], 2, "output: should be a local path or an address"),
        (["evaluate", "{dir}", "--reference", "{dir}", "--fail-under", "nan"], 2, "should be a finite number, is nan"),
        (["export", "{dir}", "--min-psnr", "nan"], 2, "should be a finite number, is nan"),
        (["frobnicate"], 2, "No such command 'frobnicate', and no such file or folder (dipfast --help)"),
        (["rnu", "{image}"], 2, "No such command 'rnu', and no such file or folder; did you mean 'run'?"),
        (["dog.pgn"], 2, "SOURCE: there is no file or folder 'dog.pgn'"),
        ([""], 2, "SOURCE: should be text that is not empty"),
        (["--stepz", "{image}"], 2, "No such option: --stepz"),
        (["run"], 2, "SOURCE"),
        (["status", "{dir}"], 2, "holds no run"),
        (["retry", "{dir}"], 2, "holds no run"),
        (["report", "{dir}"], 2, "holds no run"),
        (["evaluate", "{dir}", "--reference", "{dir}/no"], 2, "--reference"),
    ],
)
def test_a_mistake_is_one_line_and_its_exit_code(
    arguments: list[str],
    code: int,
    message: str,
    image: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # which the tests of the kernels set
    filled = [argument.format(image=image, dir=tmp_path) for argument in arguments]
    output = ["-o", str(tmp_path / "run")] if arguments[:1] == ["run"] and len(arguments) > 1 else []
    got, out, error = said(capsys, *filled, *output)
    assert (got, out) == (code, "")
    assert message in error
    assert "Traceback" not in error
    assert error.startswith("dipfast: error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_plan_names_the_precision_that_will_run(
    precision: str, image: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["plan", str(image), "--devices", "cpu", "--precision", precision, *TINY]
    assert f"eager {precision})" in said(capsys, *arguments)[1]
    plan = json.loads(said(capsys, *arguments, "--json")[1])
    assert [item["precision"] for item in plan["items"]] == [precision]


def test_every_mistake_of_a_manifest_is_named_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = tmp_path / "m.yaml"
    manifest.write_text(
        "version: 1\nitems:\n  - {path: a.png, task: {type: superres, scale: 1.5}}\n  - {path: b.png, tusk: 1}\n"
    )
    code, _, error = said(capsys, "run", str(manifest), "-o", str(tmp_path / "run"))
    assert code == 2
    assert f"{manifest}:3:" in error and f"{manifest}:4:" in error
    assert not (tmp_path / "run").exists()


def test_a_dry_run_and_a_plan_write_nothing(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    code, out, _ = said(capsys, "run", str(image.parent), "--dry-run", "-o", str(tmp_path / "run"), *TINY)
    assert code == 0
    assert "dog.png" in out
    arguments = ["plan", str(image.parent), "--json", "-o", str(tmp_path / "run"), *TINY]
    plan = json.loads(said(capsys, *arguments)[1])
    assert plan["buckets"][0]["cohort"] == 1
    assert json.loads(said(capsys, *arguments, "--cohort", "3")[1])["buckets"][0]["cohort"] == 3
    assert [item["outputs"] for item in plan["items"]] == [["dog.png"]]
    assert plan["items"][0]["steps"] == 3
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("asked", "options", "count"), [("1", ["--workers", "1"], 1), ("1", ["--threads", "3"], 3)])
@worker_processes()
def test_the_record_says_how_many_threads_ran_and_they_change_no_id(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, options: list[str], count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    monkeypatch.setattr("dipfast.environment.cores", lambda: 2)
    assert main(["run", str(image), "-o", str(tmp_path / "run"), *options, *TINY]) == 0
    [file] = (tmp_path / "run" / "records").iterdir()
    [item] = load(str(image), sets=TINY[1::2]).items
    assert json.loads(file.read_text())["ran"]["threads"] == count
    assert file.stem == prepare([item]).jobs[0].id


@pytest.mark.parametrize("source", ["{image}", "{folder}", "{folder}/*.png"])
def test_an_image_a_folder_and_a_glob_can_be_run(
    source: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = source.format(image=image, folder=image.parent)
    code, out, error = said(capsys, "run", filled, "-o", str(tmp_path / "run"), "--workers", "1", *TINY)
    assert code == 0, error
    assert "1 of 1 done" in out
    assert (tmp_path / "run" / "images" / "dog.png").is_file()


def test_what_a_folder_leaves_out_and_a_folder_that_is_locked_are_told_and_cost_nothing_else(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.CR2", "Thumbs.db", "locked/x.png"):
        (image.parent / name).parent.mkdir(exist_ok=True)
        (image.parent / name).write_bytes(b"x")
    (image.parent / "linked").symlink_to(tmp_path)
    listed = os.scandir

    def scandir(folder: str = ".") -> object:
        if str(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    others = "left out: 1 .CR2, 1 linked folder, 1 other file"
    reason = "this folder cannot be listed: Permission denied"
    code, out, _ = said(capsys, "plan", str(image.parent))
    assert (code, others in out, reason in out) == (3, True, True)
    run = str(tmp_path / "run")
    code, out, error = said(capsys, "run", str(image.parent), "-o", run, "--workers", "1", *TINY)
    assert (code, others in out, f"warning: {others}" in error, reason in out) == (3, True, True, True)
    assert [path.name for path in (tmp_path / "run" / "images").iterdir()] == ["dog.png"]
    assert said(capsys, "run", str(image.parent / "locked"), "-o", f"{run}2", *TINY)[0] == 3
    assert said(capsys, "retry", run, "--workers", "1")[0] == 3


def test_a_finished_run_can_be_shown_measured_and_reported(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    broken = image.parent / "broken.png"
    broken.write_bytes(b"not a picture")
    assert said(capsys, "run", str(image.parent), "-o", run, "--workers", "1", *TINY, *NOISY)[0] == 3
    status = json.loads(said(capsys, "status", run, "--json")[1])
    assert (status["done"], status["failed"]) == (1, 1)
    assert "broken.png" in status["failures"][0]["reason"]
    scores = json.loads(said(capsys, "evaluate", run, "--reference", str(image.parent), "--json")[1])
    assert scores["items"][0]["psnr"] > 5
    assert said(capsys, "evaluate", run, "--reference", str(image.parent), "--fail-under", "90")[0] == 6
    assert said(capsys, "evaluate", run, "--reference", f"{run}/images", "--fail-under", "90")[0] == 0  # itself
    assert said(capsys, "report", run)[0] == 0
    broken.write_bytes(image.read_bytes())
    assert said(capsys, "retry", run, "--workers", "1")[0] == 0
    assert json.loads(said(capsys, "status", run, "--json")[1])["done"] == 2


def test_progress_for_machines_is_json_on_standard_error(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["run", str(image), "-o", str(tmp_path / "run"), "--workers", "1", "--progress", "json", *TINY]
    _, _, error = said(capsys, *arguments)
    events = [json.loads(line)["event"] for line in error.splitlines()]
    assert events[0] == "started"
    assert events[-1] == "done"


def test_a_reference_folder_gives_metrics(image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    arguments = ["run", str(image), "-o", str(run), "--workers", "1", "--reference", str(image.parent), *TINY, *NOISY]
    assert said(capsys, *arguments)[0] == 0
    record = json.loads(next((run / "records").iterdir()).read_text())
    assert record["metrics"]["psnr"] > 5


def test_the_demo_writes_a_manifest_that_can_be_planned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys, "demo", str(tmp_path / "demo"))
    assert (code, out.strip()) == (0, f"dipfast run {tmp_path / 'demo' / 'manifest.yaml'}")
    plan = json.loads(said(capsys, "plan", str(tmp_path / "demo" / "manifest.yaml"), "--json")[1])
    assert sorted(item["task"] for item in plan["items"]) == ["denoise", "inpaint", "jpeg", "superres"]
    assert plan["failed"] == []
    assert said(capsys, "demo", str(tmp_path / "demo"))[0] == 2


def test_the_demo_overwrites_nothing_that_is_another_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = tmp_path / "clean" / "coffee.png"
    mine.parent.mkdir()
    mine.write_bytes(b"my coffee")
    code, _, error = said(capsys, "demo", str(tmp_path))
    assert code == 2
    assert error == f"dipfast: error: DIR {tmp_path}: holds another clean/coffee.png already; name another folder\n"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    mine.unlink()
    assert said(capsys, "demo", str(tmp_path))[0] == 0
    (tmp_path / "manifest.yaml").unlink()
    assert said(capsys, "demo", str(tmp_path))[0] == 0


@pytest.mark.parametrize("blocked", ["summary.json", "results.csv", "report.html"])
def test_a_report_that_cannot_be_written_is_one_line_and_what_is_done_stays_done(
    blocked: str, image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run" / blocked).mkdir(parents=True)
    arguments = ["run", str(image), "-o", str(tmp_path / "run"), "--progress", "none", "--workers", "1", *TINY]
    code, _, error = said(capsys, *arguments)
    assert code == 5
    assert error == f"dipfast: error: {tmp_path / 'run'}: cannot be written (Is a directory); what is done stays done\n"
    assert json.loads(said(capsys, "status", str(tmp_path / "run"), "--json")[1])["done"] == 1
    assert said(capsys, "report", str(tmp_path / "run"))[0] == 5


def test_a_run_whose_picture_is_gone_is_not_shown_as_done(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    assert said(capsys, "run", str(image), "-o", run, "--workers", "1", *TINY)[0] == 0
    (tmp_path / "run" / "images" / "dog.png").unlink()
    status = json.loads(said(capsys, "status", run, "--json")[1])
    assert (status["done"], status["pending"]) == (0, 1)
    assert said(capsys, "retry", run, "--workers", "1")[0] == 0
    assert json.loads(said(capsys, "status", run, "--json")[1])["done"] == 1


def test_a_sigterm_before_the_workers_start_ends_with_its_code_and_leaves_nothing_half_written(
    image: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr("os.fsync", lambda _: os.kill(os.getpid(), signal.SIGTERM))
    assert said(capsys, "run", str(image), "-o", str(tmp_path / "run"), "--workers", "1", *TINY)[0] == 143
    assert not list((tmp_path / "run").rglob("*.part"))
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_doctor_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    findings = {finding["name"]: finding for finding in json.loads(said(capsys, "doctor", "--json")[1])}
    assert findings["torch"]["ok"]
    assert all(finding["why"] for finding in findings.values() if not finding["ok"])


def test_the_schema_accepts_what_the_manifest_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(said(capsys, "schema")[1])
    assert {"version", "defaults", "items", "export", "report", "root", "output"} == set(schema["properties"])


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    import dipfast

    assert said(capsys, "--version")[:2] == (0, f"dipfast {dipfast.__version__}\n")
