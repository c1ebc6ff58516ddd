"""The manifest as a whole: the settings of an item, an entry, what is made of a finished run, and the JSON Schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from pydantic.config import JsonDict

from dipfast.settings.choices import MIN_PSNR_TO_PICTURE, ExportOf, ExportPrecision
from dipfast.settings.files import Input, Output
from dipfast.settings.fit import Fit
from dipfast.settings.generator import Generator, SkipGenerator
from dipfast.settings.refine import Refine
from dipfast.settings.section import SHORT, Section, Template, Text
from dipfast.settings.task import Degradation, Denoise, Task

Preset = Literal["fast", "balanced", "best", "paper"]

VERSION = 1
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOT_IN_SCHEMA = ("required", "default", "discriminator", "title", SHORT)
AUTO_TASK: JsonDict = {"type": "object", "properties": {"type": {"const": "auto"}}, "required": ["type"]}
REQUIRED = {"Document": ["version", "items"], "Entry": ["path"]}


class Settings(Section):
    """All that holds for one item, every default filled in."""

    task: Task = Field(
        default=Denoise(),
        description="the inverse problem; auto: as the picture's file tells",
        json_schema_extra={SHORT: [{"const": "auto"}, AUTO_TASK]},
    )
    preset: Preset = Field(default="balanced", description="where generator and fit start from")
    fit: Fit = Field(default=Fit(), description="the optimisation")
    generator: Generator = Field(default=SkipGenerator(), description="the network whose weights are fitted")
    refine: Refine | None = Field(
        default=None,
        description="task denoise: filter the noisy picture, with the fit's answer as a pilot; null: no",
    )
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
    precision: ExportPrecision = Field(default="fp32", description="of the exported model")
    min_psnr: Annotated[float, Field(gt=0)] = Field(default=50.0, description="gate: model against PyTorch, in dB")
    of: ExportOf = Field(
        default="auto",
        description="picture: the network's own render is the kept picture, or no model is written; denoiser: the "
        "network as fitted, for pictures of the same camera; auto: picture where it comes that near, else what the "
        "network is",
    )
    min_psnr_to_picture: Annotated[float, Field(gt=0)] = Field(
        default=MIN_PSNR_TO_PICTURE,
        description="how near the network's own render must come to the kept picture, in dB",
    )


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


def json_schema() -> dict[str, Any]:
    """Return the manifest's JSON Schema (draft 2020-12) for editors: completion, hover texts, errors while typing.

    It is as strict as the models on keys, types and limits; the rules between keys are only checked when a manifest is
    loaded. Nothing is required in a partial section and no default is named, because a preset or `defaults` may bring
    it.
    """
    tree = Document.model_json_schema(mode="validation")
    loose = {key: _loosened(value, "Document" if key != "$defs" else "") for key, value in tree.items()}
    loose["$defs"] = {name: _loosened(section, name) for name, section in tree["$defs"].items()}
    loose["required"] = REQUIRED["Document"]
    loose["title"] = "dipfast manifest"
    return {"$schema": DIALECT, **loose}


def _loosened(value: Any, name: str = "") -> Any:
    """Return a schema without what does not hold for a part, and `anyOf` for `oneOf`: without a `type` several fit.

    A section that has a choice of types may be spelled by its type alone, and as its field's `SHORT` says.
    """
    if isinstance(value, list):
        return [_loosened(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    is_schema = "properties" in value
    kept: dict[str, Any] = {
        ("anyOf" if key == "oneOf" else key): _properties(inner) if key == "properties" else _loosened(inner)
        for key, inner in value.items()
        if key not in NOT_IN_SCHEMA
    }
    if "discriminator" in value:
        kept["anyOf"] += [{"enum": list(value["discriminator"]["mapping"])}, *value.get(SHORT, [])]
    return {**kept, "required": REQUIRED[name]} if is_schema and name in REQUIRED else kept


def _properties(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: _loosened(schema) for name, schema in tree.items()}
