"""Any bytes where a manifest, a record, a ledger or a generator should be: an answer, or one of our own errors."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import generator_config
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from dipfast.errors import DipfastError, UsageError
from dipfast.generators import Card, build, from_bytes, to_bytes
from dipfast.manifest import parse
from dipfast.report import print_summary, summarize, write_report, write_results
from dipfast.store.folder import RunFolder
from dipfast.store.rows import row_as_json, rows_of

MANIFEST = b"""\
version: 1
output: out
defaults:
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}
  fit: {steps: 30, optimizer: {type: adam, lr: 1e-2}, seed: 0, stop: {type: fixed}}
  input: {max_pixels: 64M, formats: [png, jpeg]}
  output: {template: "{relpath}/{name}.png", bit_depth: source}
items:
  - "a.png"
  - &x {path: dog.png, relpath: p, task: {type: inpaint, mask: "{name}_mask.png", known: white}}
  - {path: lr.png, task: {type: superres, scale: 4}, reference: "hr/{stem}.png", relpath: q}
  - *x
"""
X = sha256(b"x").hexdigest()
RECORD: dict[str, Any] = {
    "id": "a",
    "version": 1,
    "output": {"sha256": X, "paths": ["a.png"], "uncertainty": {"path": "images/a.png", "sha256": X}},
    "generator": {
        **{"path": "images/a.png", "sha256": X},
        **{kind: [{"path": "images/a.png", "sha256": X}] for kind in ("samples", "checkpoints", "seeds")},
    },
    "settings": {"task": {"type": "denoise"}, "fit": {"steps": 3}},
    "seconds": {"total": 1.5, "fit": 1},
    "steps": 3,
    "input": {"path": "a.png", "sha256": "0", "width": 3, "height": 4},
    "metrics": {"psnr": 1.0},
    "losses": [1, 0.5],
    "event": "failed",
    "path": "a.png",
    "kind": "x",
    "reason": "y",
    "ran": {"device": "cpu"},
    "finished": "2026-01-01T00:00:00+00:00",
}
KEYS = [
    *((key,) for key in RECORD),
    *((key, inner) for key, tree in RECORD.items() if isinstance(tree, dict) for inner in tree),
    *(("settings", "task", "type"), ("settings", "fit", "steps")),
]
PLACES = st.floats(0, 1, exclude_max=True)
EDITS = st.lists(st.tuples(PLACES, st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=4)
HERE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def edited(data: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """``data`` with some bytes cut out and others put in their place."""
    for where, cut, new in edits:
        at = int(where * len(data))
        data = data[:at] + new + data[at + cut :]
    return data


@HERE
@given(edits=EDITS)
@example(edits=[(0.0, 0, b"\xff")])
def test_any_manifest_is_read_or_refused_and_comes_back_from_its_own_words(tmp_path: Path, edits: Any) -> None:
    with suppress(DipfastError):
        loaded = parse(edited(MANIFEST, edits), "m.yaml", tmp_path)
        again = parse(loaded.resolved().encode("utf-8", "surrogateescape"), "m.yaml", tmp_path)
        assert [replace(item, place="") for item in again.items] == [replace(item, place="") for item in loaded.items]


def changed(tree: dict[str, Any], place: tuple[str, ...], value: Any) -> dict[str, Any]:
    key, *deeper = place
    return tree | {key: changed(tree[key], tuple(deeper), value) if deeper else value}


def told(folder: RunFolder) -> None:
    """All that a run's folder is asked by `status` and `report`, its record's hashes being true."""
    folder.put("images/a.png", b"x")
    rows = rows_of(folder)
    json.dumps([row_as_json(row) for row in rows])
    write_results(folder, rows)
    summary = summarize(rows, 1.0)
    write_report(folder, rows, summary)
    print_summary(summary, Console(file=StringIO()))


@HERE
@given(edits=EDITS, raw=st.booleans())
def test_any_record_ledger_and_index_can_be_told_of(tmp_path: Path, edits: Any, raw: bool) -> None:
    folder = RunFolder(tmp_path / "run")
    data = edited(json.dumps(RECORD).encode(), edits) if raw else json.dumps(RECORD).encode() + b"\n"
    folder.put("items.jsonl", b'{"path": "a.png", "output": "a.png", "id": "a"}\n')
    for name in ("records/a.json", "ledger/cpu-0.jsonl", ".index/run.jsonl", ".index/run.records.jsonl"):
        folder.put(name, data)
    told(folder)


@HERE
@given(place=st.sampled_from(KEYS), value=JSON)
def test_a_record_may_hold_anything_anywhere(tmp_path: Path, place: tuple[str, ...], value: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.put("items.jsonl", b'{"path": "a.png", "output": "a.png", "id": "a"}\n')
    for name in ("records/a.json", "ledger/cpu-0.jsonl"):
        folder.put(name, json.dumps(changed(RECORD, place, value)).encode())
    told(folder)


@HERE
@given(edits=EDITS)
def test_any_list_of_items_is_read_or_refused(tmp_path: Path, edits: Any) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.put("items.jsonl", edited(b'{"path": "a.png", "output": "b/a.png", "id": "a"}\n' * 2, edits))
    with suppress(DipfastError):
        told(folder)


@pytest.fixture(scope="module")
def generator() -> bytes:
    config = generator_config(channels=(4,), input={"type": "noise", "depth": 2})
    card = Card("a", config, {}, 0, 0, 1, (8, 8), (8, 8), "fp32")
    return to_bytes(build(config, 1, 0), torch.zeros(1), card)


@HERE
@given(edits=EDITS, front=st.booleans())
def test_any_generator_is_loaded_or_refused(generator: bytes, edits: Any, front: bool) -> None:
    edits = [(where / 4 if front else where, cut, new) for where, cut, new in edits]  # the header comes first
    with suppress(UsageError):
        from_bytes(edited(generator, edits))
