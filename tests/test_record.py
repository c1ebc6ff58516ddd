"""The commit record: what is read of a file that may be old or damaged, and what is written of it again."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import pytest

from dipfast.record import Record

PART = {"path": "generators/a.safetensors", "sha256": "0"}
WHOLE: dict[str, Any] = {
    "version": 1,
    "id": "a",
    "input": {"path": "a.png", "sha256": "1", "width": 4, "height": 3, "mode": "rgb"},
    "settings": {"task": {"type": "jpeg"}, "preset": None, "fit": {"steps": 3}},
    "seed": 0,
    "ran": {"device": "cpu", "memory": {"predicted": 1, "free": 2}},
    "stop": {"type": "fixed"},
    "losses": [[1, 0.5]],
    "generator": PART | {"samples": [{"path": "generators/a.sample-1.safetensors", "sha256": "2"}]},
    "metrics": {},
    "output": {"sha256": "3", "paths": ["a.png", "b/a.png"]},
}


def read(tree: Any) -> Record:
    record = Record.from_json(tree)
    assert record is not None
    return record


def test_a_record_is_written_as_it_was_read_with_parts_of_other_versions_last() -> None:
    tree = {"later": [1]} | WHOLE
    written = read(tree).to_json()
    assert written == tree == dict(read(tree))
    assert list(written) == [*WHOLE, "later"]
    assert pickle.loads(pickle.dumps(read(tree))) == read(tree)


def test_a_part_that_is_replaced_leaves_the_others_as_they_were() -> None:
    record = read(WHOLE)
    assert replace(record, metrics={"psnr": 30.0}).to_json() == WHOLE | {"metrics": {"psnr": 30.0}}
    assert "output" not in replace(record, output={})
    assert record.to_json() == WHOLE


def test_a_record_vouches_for_its_pictures_and_generators() -> None:
    maps = {"path": "uncertainty/a.png", "sha256": "4"}
    record = read(WHOLE | {"output": WHOLE["output"] | {"uncertainty": maps}})
    beside = {"generators/a.safetensors": "0", "uncertainty/a.png": "4", "generators/a.sample-1.safetensors": "2"}
    assert record.files_beside_pictures == beside
    assert record.files == {"images/a.png": "3", "images/b/a.png": "3"} | beside


def test_the_short_form_has_no_curves_and_no_settings_of_the_fit() -> None:
    short = read(WHOLE).short()
    assert short.to_json() == {
        "version": 1,
        "id": "a",
        "input": {"path": "a.png", "width": 4, "height": 3},
        "settings": {"task": {"type": "jpeg"}, "preset": None},
        "ran": {"device": "cpu", "memory": {"predicted": 1}},
        "generator": WHOLE["generator"],
        "metrics": {},
        "output": WHOLE["output"],
    }
    assert read(json.loads(json.dumps(dict(short)))).short() == short


@pytest.mark.parametrize("part", ["input", "settings", "ran", "seconds", "metrics", "warnings", "losses"])
@pytest.mark.parametrize("value", [None, 3, "x", [], {"memory": 1}])
def test_a_part_that_nothing_is_found_by_may_be_anything(part: str, value: Any) -> None:
    record = read(WHOLE | {part: value})
    assert record.get(part) == value
    assert record.short().files == record.files


@pytest.mark.parametrize(
    "damage",
    [
        {"id": "../a"},
        {"id": 3},
        {"output": None},
        {"output": {"sha256": "3", "paths": ["../a.png"]}},
        {"output": {"sha256": "3", "paths": "a.png"}},
        {"output": {"paths": ["a.png"]}},
        {"generator": {"path": "/etc/passwd", "sha256": "0"}},
        {"generator": PART | {"samples": [{"path": "x"}]}},
        {"generator": PART | {"seeds": 3}},
    ],
)
def test_a_record_whose_files_cannot_be_checked_is_none(damage: dict[str, Any]) -> None:
    assert Record.from_json(WHOLE | damage) is None


@pytest.mark.parametrize("tree", [None, 3, [], "a", {}])
def test_what_is_no_record_is_none(tree: Any) -> None:
    assert Record.from_json(tree) is None
