"""The manifest's JSON Schema (draft 2020-12), for editors: completion, hover texts, red lines while typing.

It is as strict as the schema on keys, types and limits. What holds between keys is only checked when a
manifest is loaded. Nothing is required in a partial section, and no default is named: a preset or `defaults` may
bring it.
"""

from __future__ import annotations

from typing import Any

from dipfast.settings.document import Document

DIALECT = "https://json-schema.org/draft/2020-12/schema"
DROPPED = ("required", "default", "discriminator", "title")
REQUIRED = {"Document": ["version", "items"], "Entry": ["path"]}


def json_schema() -> dict[str, Any]:
    """The schema as a tree of JSON values."""
    tree = Document.model_json_schema(mode="validation")
    loose = {key: _loosened(value, "Document" if key != "$defs" else "") for key, value in tree.items()}
    loose["$defs"] = {name: _loosened(section, name) for name, section in tree["$defs"].items()}
    loose["required"] = REQUIRED["Document"]
    loose["title"] = "dipfast manifest"
    return {"$schema": DIALECT, **loose}


def _loosened(value: Any, name: str = "") -> Any:
    """Without what does not hold for a part, and `anyOf` for `oneOf`: without a `type` several fit."""
    if isinstance(value, list):
        return [_loosened(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    is_schema = "properties" in value
    kept = {
        ("anyOf" if key == "oneOf" else key): _properties(inner) if key == "properties" else _loosened(inner)
        for key, inner in value.items()
        if key not in DROPPED
    }
    return {**kept, "required": REQUIRED[name]} if is_schema and name in REQUIRED else kept


def _properties(tree: dict[str, Any]) -> dict[str, Any]:
    return {name: _loosened(schema) for name, schema in tree.items()}
