"""The verbs that make something of fitted generators: export, render, variants, bench render."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from dipfast.cli.options import AsJson, console, decibels, print_json, show
from dipfast.errors import UsageError
from dipfast.settings.choices import MIN_PSNR_TO_PICTURE, ExportOf, ExportPrecision

Target = Annotated[Path, typer.Argument(help="a run's folder, a folder of generators, or one", metavar="RUN|GENERATOR")]
FORMATS = ("onnx", "tensorrt")


def export(
    target: Target,
    formats: Annotated[str, typer.Option("--format", metavar="onnx,tensorrt", help="what to write")] = "onnx",
    precision: Annotated[ExportPrecision, typer.Option(help="of the convolutions")] = "fp32",
    min_psnr: Annotated[
        float | None,
        typer.Option(
            "--min-psnr",
            metavar="DB",
            callback=decibels,
            help="exit 6 below this agreement with PyTorch; 50, and 80 in fp32",
        ),
    ] = None,
    of: Annotated[
        ExportOf,
        typer.Option("--of", help="picture: exit 6 unless it renders the kept picture; denoiser: as fitted"),
    ] = "auto",
    min_psnr_to_picture: Annotated[
        float,
        typer.Option(
            "--min-psnr-to-picture", metavar="DB", callback=decibels, help="how near a picture's render must come"
        ),
    ] = MIN_PSNR_TO_PICTURE,
    bake_latent: Annotated[
        bool, typer.Option("--bake-latent", help="the latent as a constant, not as an input with a default")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="RUN/export, or beside the generator")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write fitted generators as models that need nothing of dipfast, each proved against PyTorch."""
    from dipfast.export.save import Gates
    from dipfast.export.save import export as write
    from dipfast.export.targets import targets

    reports, missed = write(
        targets(target),
        _formats(formats),
        precision=precision,
        gates=Gates(min_psnr, of, min_psnr_to_picture),
        bake_latent=bake_latent,
        output=output,
        say=_say,
    )
    if as_json:
        print_json(reports)
    elif reports:
        _print_exports(reports)
    if missed is not None:
        raise missed


class Backend(StrEnum):
    """What renders."""

    AUTO = "auto"
    TORCH = "torch"
    ONNXRUNTIME = "onnxruntime"
    TENSORRT = "tensorrt"


class Provider(StrEnum):
    """What onnxruntime runs on."""

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"


class Upsample(StrEnum):
    """How a generator doubles a size."""

    BILINEAR = "bilinear"
    NEAREST = "nearest"


class RenderPrecision(StrEnum):
    """What the convolutions of a render compute in."""

    FP32 = "fp32"
    TF32 = "tf32"
    BF16 = "bf16"
    FP16 = "fp16"


def _share(value: float | None) -> float | None:
    if value is not None and not 0 <= value <= 1:
        raise typer.BadParameter(f"should be a number from 0 to 1, is {value:g}")
    return value


def render(
    target: Annotated[Path, typer.Argument(help="what to render", metavar="RUN|GENERATOR|MODEL.onnx|ENGINE")],
    picture: Annotated[
        Path | None,
        typer.Argument(help="another picture of the same camera and settings, for a denoiser", metavar="PICTURE"),
    ] = None,
    backend: Annotated[
        Backend, typer.Option(help="auto: torch for generators, else what the file is for")
    ] = Backend.AUTO,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="OUT", help="file or folder; RUN/renders, or beside it")
    ] = None,
    precision: Annotated[RenderPrecision, typer.Option(help="of the convolutions")] = RenderPrecision.FP32,
    provider: Annotated[Provider, typer.Option(help="what onnxruntime runs on, and nothing else")] = Provider.CPU,
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            metavar="S",
            callback=_share,
            help="share of the change to apply, 0 to 1; as the run unless given",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render fitted generators or an exported model or engine again, into files like those of the run.

    With a PICTURE, a fitted denoiser is applied to it: from a GENERATOR with the refinement of its fit, from a
    MODEL.onnx the network alone. That is sound for another picture of the same camera or microscope, with the same
    settings and noise, and of a similar scene; of others the fit knows nothing.
    """
    from dipfast.export.targets import targets
    from dipfast.render.generator import renderer
    from dipfast.render.pictures import denoise_with, render_engine, render_model, render_targets

    if picture is not None and target.suffix not in (".onnx", ".safetensors"):
        raise UsageError(f"{target}: should be a denoiser, a GENERATOR or a MODEL.onnx, to be applied to {picture}")
    share = 1.0 if strength is None else strength
    if share != 1 and picture is None and target.suffix in (".onnx", ".engine"):
        raise UsageError(f"{target}: holds no observed picture for --strength {share:g}; give its run")
    if target.suffix == ".onnx":
        if backend not in (Backend.AUTO, Backend.ONNXRUNTIME):
            raise UsageError(f"--backend {backend}: a model is rendered by onnxruntime; give its generator")
        one, ran = render_model(target, provider, output, picture, share)
        rendered = [one]
    elif target.suffix == ".engine":
        if backend not in (Backend.AUTO, Backend.TENSORRT):
            raise UsageError(f"--backend {backend}: an engine is rendered by tensorrt; give its generator")
        one, ran = render_engine(target, output)
        rendered = [one]
    elif picture is not None:
        if backend not in (Backend.AUTO, Backend.TORCH):
            raise UsageError(f"--backend {backend}: another picture is rendered by torch; or give a MODEL.onnx")
        one, ran = denoise_with(target, picture, output, share)
        rendered = [one]
    else:
        found = targets(target)
        chosen = renderer("torch" if backend == Backend.AUTO else backend, precision, provider, say=_say)
        rendered = render_targets(found, chosen, output, strength)
        ran = chosen.ran
    if as_json:
        print_json({"ran": ran, "rendered": [each.as_json() for each in rendered]})
        return
    for each in rendered:
        print(each.path)


def variants(
    target: Target,
    spec: Annotated[
        Path | None, typer.Option("--spec", metavar="variants.yaml", help="which; a few of each kind unless given")
    ] = None,
    reference: Annotated[
        Path | None, typer.Option("--reference", metavar="PATH", help="the true image, or a folder of them")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="DIR", help="RUN/variants, or beside the generator")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render each generator in many ways, measure them, and lay them out on a sheet."""
    from dipfast.export.targets import inside, targets
    from dipfast.files import write_atomic
    from dipfast.image import Source, encode
    from dipfast.render.variants import read_spec, subject, variants_of
    from dipfast.report.html import variants_page
    from dipfast.store.folder import dumps
    from dipfast.text import printable

    asked, found = read_spec(spec), targets(target)
    run, lone = found[0].run, found[0].generator.with_suffix(".variants")
    folder = output or (lone if run is None else inside(run, "variants/x").parent)
    pages: list[tuple[str, str, list[dict[str, Any]]]] = []
    for each in found:
        one = subject(each, reference)
        rows = []
        for variant in variants_of(one, asked):
            png = encode(variant.pixels, Source("png", "gray" if len(variant.pixels) == 1 else "rgb", 8), "png")
            path = folder / one.id / f"{re.sub('[^a-z0-9.×]+', '-', variant.name)}.png"
            write_atomic(path, png)
            rows.append(variant.as_json() | {"picture": str(path.relative_to(folder)), "png": png})
        pages.append((one.name, one.id, rows))
    plain = {id: [{k: v for k, v in row.items() if k != "png"} for row in rows] for _, id, rows in pages}
    write_atomic(folder / "variants.json", dumps(plain))
    write_atomic(folder / "variants.html", variants_page(f"dipfast variants: {target.resolve().name}", pages).encode())
    if as_json:
        print_json(plain)
        return
    for name, id, rows in pages:
        _print_variants(f"{printable(name)} ({id})", rows)
    print(folder / "variants.html")


def _print_variants(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from dipfast.text import number

    table = Table("variant", "PSNR", "SSIM", "PSNR ref.", "SSIM ref.", "sharpness", "ms", title=Text(title))
    digits = {"psnr": 2, "ssim": 4, "psnr_reference": 2, "ssim_reference": 4, "sharpness": 2, "ms": 1}
    for row in rows:
        table.add_row(row["name"], *(number(row[key], places) for key, places in digits.items()))
    console().print(table)


def bench_render(
    target: Annotated[
        Path | None, typer.Argument(help="a run, whose generators are held against what it kept", metavar="[RUN]")
    ] = None,
    size: Annotated[
        list[int] | None, typer.Option("--size", metavar="N", min=64, help="again for each; 256 unless given")
    ] = None,
    backend: Annotated[list[Backend] | None, typer.Option("--backend", help="again for each")] = None,
    precision: Annotated[list[RenderPrecision] | None, typer.Option("--precision", help="again for each")] = None,
    channels: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="of each scale; 128,128,128,128,128 unless given")
    ] = None,
    upsample: Annotated[
        Upsample | None, typer.Option(help="of each scale; bilinear unless given, the presets take nearest")
    ] = None,
    provider: Annotated[Provider, typer.Option(help="what onnxruntime runs on")] = Provider.CPU,
    threads: Annotated[int | None, typer.Option(metavar="N", min=1, help="CPU threads, of every backend")] = None,
    rounds: Annotated[int, typer.Option(metavar="N", min=1, help="samples of each variant")] = 10,
    as_json: AsJson = False,
) -> None:
    """Time one render of a fresh generator, or of each of a run, by backend and precision; torch fp32 beside them."""
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    backends = [b for b in backend or [Backend.ONNXRUNTIME] if b != Backend.AUTO]
    precisions = precision or [RenderPrecision.FP32]
    if target is not None:
        if size or channels or upsample is not None:
            raise UsageError("bench render RUN times the run's own generators: leave --size, --channels and --upsample")
        _bench_exports(target, backends, precisions, provider, rounds, as_json)
        return
    from dipfast.bench.render import bench_render as measure
    from dipfast.bench.render import print_bench

    widths = _widths(channels)
    sizes = size or [256]
    for one in sizes:
        if one % 2 ** len(widths or range(5)):
            raise UsageError(f"--size should be a multiple of {2 ** len(widths or range(5))}, is {one}")
    result = measure(
        sizes,
        backends,
        precisions,
        channels=widths,
        upsample=upsample or Upsample.BILINEAR,
        provider=provider,
        rounds=rounds,
    )
    show(result, as_json, print_bench)


def _bench_exports(
    target: Path, backends: Sequence[str], precisions: Sequence[str], provider: str, rounds: int, as_json: bool
) -> None:
    from dipfast.bench.exports import bench_exports, print_bench
    from dipfast.export.targets import targets

    result = bench_exports(
        targets(target),
        backends,
        precisions,
        provider=provider,
        rounds=rounds,
        say=_say,
    )
    show(result, as_json, print_bench)


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _widths(text: str | None) -> list[int] | None:
    if text is None:
        return None
    words = text.split(",")
    if not all(word.strip().isdigit() and 0 < int(word) <= 4096 for word in words):
        raise UsageError(f"--channels should be whole numbers with commas, is {text!r}")
    return [int(word) for word in words]


def _formats(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in FORMATS:
            raise UsageError(f"--format should be of {', '.join(FORMATS)}, is {name!r}")
    return names


def _print_exports(reports: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("model", "precision", "PSNR dB", "max. difference", "MB")
    for report in reports:
        psnr = "equal" if report["psnr_db"] is None else f"{report['psnr_db']:.1f}"
        table.add_row(
            report["model"], report["precision"], psnr, f"{report['max_abs']:.1e}", f"{report['bytes'] / 1e6:.1f}"
        )
    console().print(table)
    print(f"models and parity reports: {Path(reports[0]['path']).parent}")
