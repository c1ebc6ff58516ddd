"""The resolved manifest: loading it gives the same run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_document import SPEC
from test_paths import plant

from dipfast.manifest import Item, Manifest, load, parse
from dipfast.manifest.resolved import flow
from dipfast.manifest.yaml import load as load_yaml
from dipfast.settings.own import NOTHING


def without_place(manifest: Manifest) -> list[Item]:
    return [replace(item, place="", shared=item.settings, own=NOTHING) for item in manifest.items]


def assert_comes_back(manifest: Manifest) -> None:
    again = parse(manifest.resolved().encode(), "resolved.yaml", "/elsewhere")
    assert without_place(again) == without_place(manifest)
    assert (again.root, again.output, again.export, again.report) == (
        manifest.root,
        manifest.output,
        manifest.export,
        manifest.report,
    )
    assert again.resolved() == manifest.resolved()


def test_the_example_comes_back(tmp_path: Path) -> None:
    plant(tmp_path, "scans/a.tif", "scans/dog.png", "scans/lr/c.png")
    assert_comes_back(parse(SPEC, "m.yaml", tmp_path))


def test_a_resolved_manifest_depends_on_no_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = parse("version: 1\nitems: [{path: a.png, preset: paper}]", "m.yaml", tmp_path).resolved()
    before = without_place(parse(text, "m.yaml", tmp_path))
    monkeypatch.setattr(
        "dipfast.settings.presets.preset", lambda name, task: {"fit": {"steps": 1, "stop": {"type": "fixed"}}}
    )
    assert without_place(parse(text, "m.yaml", tmp_path)) == before


@pytest.mark.parametrize(
    "name",
    [
        "a[1]*?.png",
        "{b}.png",
        "c d: #e,[]{}.png",
        "sample:f.png",
        " g.png",
        "h\n\x7f\x85.png",
        "null",
        "1e-3",
        "é\U0001f600.png",
        os.fsdecode(b"\xe9.png"),
        "http:/x.png",
    ],
)
def test_names_of_every_kind_come_back(tmp_path: Path, name: str) -> None:
    plant(tmp_path, name)
    from dipfast.manifest.paths import url

    assert_comes_back(parse(f"version: 1\nitems: ['{url(str(tmp_path / name))}']", "m.yaml", tmp_path))


def test_what_lies_outside_the_root_keeps_its_relpath(tmp_path: Path) -> None:
    plant(tmp_path, "out/s/a.png", "root/b.png")
    manifest = parse("version: 1\nitems: [../out, b.png]", "m.yaml", tmp_path / "root")
    assert [item.output for item in manifest.items] == ["s/a.png", "b.png"]
    assert_comes_back(manifest)


def test_a_folder_with_a_reference_folder_comes_back(tmp_path: Path) -> None:
    plant(tmp_path, "in/a.png", "hr/a.tif")
    assert_comes_back(load(tmp_path / "in", reference=str(tmp_path / "hr"), sets=["output=run"]))


def test_settings_that_differ_are_written_beside_the_path(tmp_path: Path) -> None:
    rows = "[a.png, b.png, {path: c.png, degrade: {type: gaussian, sigma: 5}}, {path: d.png, fit: {steps: 9}}]"
    manifest = parse(f"version: 1\nitems: {rows}", "m.yaml", tmp_path)
    lines = manifest.resolved().splitlines()
    assert '  - {path: "a.png"}' in lines
    assert (
        '  - {path: "c.png", degrade: {seed: 0, crop: null, type: gaussian, sigma: 5.0, blur: null, shared: null}}'
        in lines
    )
    assert_comes_back(manifest)


TASKS = st.sampled_from(
    [
        {"type": "denoise", "noise": {"type": "poisson", "peak": 30.5}},
        {"type": "denoise"},
        {"type": "jpeg"},
        {"type": "inpaint", "mask": "m/{stem}.png", "known": "black"},
        {"type": "superres", "scale": 4, "kernel": "bicubic"},
    ]
)
ROWS = st.fixed_dictionaries(
    {"task": TASKS},
    optional={
        "preset": st.sampled_from(["fast", "balanced", "best"]),
        "fit": st.fixed_dictionaries(
            {},
            optional={
                "steps": st.integers(0, 10**6),
                "seed": st.integers(0, 2**63 - 1),
                "average": st.none() | st.floats(0, 0.999),
                "reg_noise_std": st.floats(0, 1e3),
                "optimizer": st.sampled_from([{"type": "adam"}, {"type": "muon"}, {"lr": 1e-7}]),
                "stop": st.sampled_from([{"type": "fixed"}, {"type": "ema-variance", "patience": 3}]),
            },
        ),
        "reference": st.none() | st.text("ab é'\"\\:#", min_size=1, max_size=8),
        "output": st.just({"bit_depth": 8}),
    },
)


@given(st.lists(ROWS, min_size=1, max_size=4), ROWS)
def test_any_manifest_comes_back(rows: list[dict[str, object]], defaults: dict[str, object]) -> None:
    entries = [{"path": f"{index}.png", **row} for index, row in enumerate(rows)]
    assert_comes_back(parse(flow({"version": 1, "defaults": defaults, "items": entries}), "m.yaml", "/"))


SCALARS = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.recursive(SCALARS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.just("k"), inner)))
def test_what_is_written_in_flow_style_is_read_again(value: object) -> None:
    tree = load_yaml(f"a: {flow(value)}")
    assert not tree.flaws
    assert tree.data["a"] == value


def test_what_each_row_has_of_its_own_comes_back(tmp_path: Path) -> None:
    rows = [
        f"{{path: a{i}.png, fit: {{seed: {i % 3}}}, output: {{template: 'o{i}.tif'}}, reference: 'r{i % 2}.png', "
        f"task: {{type: inpaint, mask: 'm{i}.png'}}}}"
        for i in range(6)
    ]
    manifest = parse(f"version: 1\nitems: [b.png, {', '.join(rows)}]", "m.yaml", tmp_path)
    assert_comes_back(manifest)
    assert [item.settings.fit.seed for item in manifest.items] == [0, 0, 1, 2, 0, 1, 2]
    assert "seed: 0," in manifest.resolved().partition("items:")[0]


def test_the_settings_that_most_items_have_are_the_defaults_however_they_were_written(tmp_path: Path) -> None:
    rows = "{path: a.png, fit: {seed: 1}}, {path: b.png, fit: {seed: 2}}, {path: c.png, fit: {seed: 2, steps: 400}}"
    manifest = parse(f"version: 1\nitems: [{rows}]", "m.yaml", tmp_path, sets=["fit.steps=400"])
    assert "seed: 2," in manifest.resolved().partition("items:")[0]
