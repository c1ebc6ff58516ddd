"""The manifest as a whole: the settings of an item, an entry, and what is made of a finished run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from dipfast.settings.degrade import Degradation
from dipfast.settings.files import Input, Output
from dipfast.settings.fit import Fit
from dipfast.settings.generator import Generator, SkipGenerator
from dipfast.settings.section import Section, Template, Text
from dipfast.settings.task import Denoise, Task

Preset = Literal["fast", "balanced", "best", "paper"]

VERSION = 1


class Settings(Section):
    """All that holds for one item, every default filled in."""

    task: Task = Field(default=Denoise(), description="the inverse problem")
    preset: Preset = Field(default="balanced", description="where generator and fit start from")
    fit: Fit = Field(default=Fit(), description="the optimisation")
    generator: Generator = Field(default=SkipGenerator(), description="the network whose weights are fitted")
    input: Input = Field(default=Input(), description="limits on what is opened")
    output: Output = Field(default=Output(), description="names and depth of what is written")
    degrade: Degradation | None = Field(
        default=None, description="damage a clean image first, to measure the result; null: do not"
    )
    reference: Template | None = Field(
        default=None, description="the true image, only for metrics; {stem} and the like are filled in"
    )


class Entry(Settings):
    """One entry of ``items``: an image, a folder or a glob, and what differs from ``defaults``."""

    path: Text = Field(
        description="image, folder or glob (the folders of runs are left out), from root; sample:NAME; file:///…; s3://…"
    )
    relpath: str | None = Field(
        default=None, description="what {relpath} stands for; null: the image's folder from root"
    )


class Export(Section):
    """Models written after the run."""

    formats: Annotated[tuple[Literal["onnx", "tensorrt"], ...], Field(strict=False)] = Field(
        default=(), description="none, onnx, tensorrt or both"
    )
    precision: Literal["fp32", "fp16", "bf16"] = Field(default="fp32", description="of the exported model")
    min_psnr: Annotated[float, Field(gt=0)] = Field(default=50.0, description="gate: model against PyTorch, in dB")


class Report(Section):
    """Pages written after the run."""

    html: bool = Field(default=True, description="write report.html")


class Products(Section):
    """The part of a document that says what is made of a finished run."""

    export: Export = Field(default=Export(), description="models written after the run")
    report: Report = Field(default=Report(), description="pages written after the run")


class Document(Section):
    """A dipfast manifest: the images to restore, with their tasks and settings."""

    version: Literal[1] = Field(description="of the manifest's vocabulary")
    root: Text | None = Field(
        default=None, description="folder or address where relative paths start; null: the manifest's own"
    )
    output: Text | None = Field(default=None, description="the run's folder, or an address like s3://…; -o wins")
    defaults: Settings = Field(default=Settings(), description="settings of every item that says nothing else")
    items: Annotated[tuple[Entry | Text, ...], Field(strict=False, min_length=1)] = Field(description="what to restore")
    export: Export = Field(default=Export(), description="models written after the run")
    report: Report = Field(default=Report(), description="pages written after the run")
