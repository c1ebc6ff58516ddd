"""The vocabulary and the JSON Schema that editors get."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from dipfast.cli import export, options
from dipfast.manifest import json_schema
from dipfast.settings.choices import ExportPrecision, FitPrecision, Precision
from dipfast.settings.document import Document, Settings
from dipfast.settings.files import Input, Output
from dipfast.settings.fit import Fit
from dipfast.settings.section import Section, sections


def every_section() -> set[type[Section]]:
    found: set[type[Section]] = set()
    todo: list[type[Section]] = [Document]
    while todo:
        model = todo.pop()
        found.add(model)
        inner = [choice for field in model.model_fields.values() for choice in sections(field).values()]
        todo += [choice for choice in inner if choice not in found]
    return found


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    for value in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from nodes(value)
    if isinstance(tree, dict):
        yield tree


def test_every_key_is_described() -> None:
    silent = [
        f"{model.__name__}.{name}"
        for model in every_section()
        for name, field in model.model_fields.items()
        if name != "type" and not field.description
    ]
    assert silent == []


def test_the_schema_is_json_and_names_its_dialect() -> None:
    schema = json.loads(json.dumps(json_schema()))
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert set(schema["properties"]) == set(Document.model_fields)


def test_only_version_items_path_and_the_type_of_an_auto_task_are_required() -> None:
    required = [node["required"] for node in nodes(json_schema()) if isinstance(node.get("required"), list)]
    assert sorted(required) == [["path"], ["type"], ["type"], ["version", "items"]]


@pytest.mark.parametrize(
    ("defaults", "valid"),
    [
        ({"task": "denoise"}, True),
        ({"task": "auto"}, True),
        ({"task": {"type": "auto"}}, True),
        ({"task": {"noise": 25}}, True),
        ({"task": {"type": "denoise", "noise": "poisson"}}, True),
        ({"task": {"type": "denoise", "noise": {"sigma": "auto", "force": True}}}, True),
        ({"fit": {"stop": "fixed"}}, True),
        ({"task": "x"}, False),
        ({"task": {"noise": -1}}, False),
        ({"task": {"type": "jpeg", "noise": 3}}, False),
        ({"fit": {"stop": 3}}, False),
    ],
)
def test_the_schema_knows_the_short_spellings(defaults: dict[str, Any], valid: bool) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    assert validator.is_valid({"version": 1, "items": ["a.png"], "defaults": defaults}) is valid


def test_every_reference_of_the_schema_resolves() -> None:
    schema = json_schema()
    names = {node["$ref"] for node in nodes(schema) if "$ref" in node}
    assert names
    assert {name.removeprefix("#/$defs/") for name in names} <= schema["$defs"].keys()


def test_the_schema_refuses_unknown_keys() -> None:
    schema = json_schema()
    assert schema["additionalProperties"] is False
    assert all(section["additionalProperties"] is False for section in schema["$defs"].values())


def test_the_schema_knows_the_limits() -> None:
    sections_of = json_schema()["$defs"]
    assert sections_of["SuperRes"]["properties"]["scale"]["minimum"] == 2
    assert {"type": "string"} in sections_of["Input"]["properties"]["max_pixels"]["anyOf"]


@pytest.mark.parametrize(("text", "count"), [("64M", 64_000_000), ("1.5k", 1500), ("2 G", 2 * 10**9), (7, 7)])
def test_counts_may_have_a_unit(text: str | int, count: int) -> None:
    assert Input.model_validate({"max_pixels": text}).max_pixels == count


@pytest.mark.parametrize("text", ["64m", "-1", "0", "", "1e3", True, 6.4e7])
def test_other_counts_are_refused(text: object) -> None:
    with pytest.raises(ValidationError):
        Input.model_validate({"max_pixels": text})


def test_a_template_may_hold_braces() -> None:
    assert Output(template="{{{name}}}.png").template == "{{{name}}}.png"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Fit().steps = 3


def test_sections_tell_their_types() -> None:
    assert list(sections(Settings.model_fields["task"])) == ["denoise", "jpeg", "inpaint", "superres"]
    assert sections(Fit.model_fields["steps"]) == {}


def test_the_command_line_offers_the_precisions_of_the_settings() -> None:
    assert tuple(options.Precision) == get_args(Precision) == ("auto", *get_args(FitPrecision))
    assert tuple(export.RenderPrecision) == get_args(FitPrecision)
    assert set(get_args(ExportPrecision)) < set(get_args(FitPrecision))
