"""What every section of the manifest is made of: the strict model, and the kinds of values that many of them have."""

from __future__ import annotations

import re
from typing import Annotated, Any, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)
from pydantic.fields import FieldInfo

PLACEHOLDERS = ("relpath", "name", "stem", "ext", "task", "preset", "seed")
MAX_SIDE_CHANNELS = 4096
SHORT = "short"  # in a field's `json_schema_extra`: schemas of what a manifest may say in place of the section


def _count(value: object) -> object:
    """Return 64000000 for ``64M``, and numbers as they are."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*([kMG]?)", value.strip())
        if match is None:
            raise ValueError("should be a whole number, or one with k, M or G behind it, like 64M")
        return int(float(match[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[match[2]])
    return value


def check_template(value: str) -> str:
    """Return ``value`` if its {placeholders} are known, else raise ValueError. {{ and }} stand for braces."""
    for token in re.finditer(r"{{|}}|{([^{}]*)}|[{}]", value):
        if token[0] in "{}":
            raise ValueError("has a brace without its partner ({{ and }} stand for braces)")
        if token[1] is not None and token[1] not in PLACEHOLDERS:
            raise ValueError(f"has no placeholder {token[0]}; there are {', '.join(PLACEHOLDERS)}")
    if "\0" in value:
        raise ValueError("should hold no NUL character")
    return value


Count = Annotated[int, BeforeValidator(_count, json_schema_input_type=int | str), Field(gt=0)]
Text = Annotated[str, Field(min_length=1, max_length=4096)]
Template = Annotated[Text, AfterValidator(check_template)]
Sigma = Annotated[float, Field(gt=0, le=255)]
Width = Annotated[int, Field(gt=0, le=MAX_SIDE_CHANNELS)]
KernelSize = Annotated[int, Field(gt=0, le=31)]


class Section(BaseModel):
    """Strict: no unknown key, no silent conversion, no NaN, no change after the fact."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def from_json(cls, tree: Any) -> Self:
        """Return the section that any version has written as ``tree``: a key that this one does not know is left out.

        Raises ValueError for what no version writes.
        """
        return cls.model_validate(tree, extra="ignore")


def sections(field: FieldInfo) -> dict[str, type[Section]]:
    """Return the sections that ``field`` may hold, by their ``type``; empty where it holds a plain value."""
    return {_tag(model): model for model in _models(field.annotation)}


def _models(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]


def type_of(section: object) -> object:
    return section.get("type") if isinstance(section, dict) else getattr(section, "type", None)


def _tag(model: type[Section]) -> str:
    kind = model.model_fields.get("type")
    return str(get_args(kind.annotation)[0]) if kind else ""
