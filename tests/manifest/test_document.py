"""Whole manifests: every mistake at its place, all at once; other kinds of SOURCE; the command line's settings."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_paths import plant

from dipfast.errors import ManifestError, NothingMatchedError, UsageError
from dipfast.manifest import Manifest, load, parse

SPEC = """\
version: 1
root: ./scans                 # optional; relative paths start here, else at the manifest
output: ./restored            # optional; -o wins
defaults:
  task: {type: denoise, noise: {type: gaussian, sigma: 25}}     # sigma in 8-bit units; `auto` estimates it
  preset: balanced
  fit: {steps: 3000, optimizer: {type: adam, lr: 1e-2}, seed: 0, reg_noise_std: 0.0333, average: 0.99, stop: {type: ema-variance}}
  generator: {type: skip, channels: [128,128,128,128,128], skip_channels: 4, upsample: bilinear, pad: reflection, input: {type: noise, depth: 32}}
  input: {max_pixels: 64M, formats: [png, jpeg, tiff, webp, avif]}
  output: {template: "{relpath}/{name}.png", bit_depth: source}
items:
  - path: "**/*.tif"
  - {path: dog.png, task: {type: inpaint, mask: dog_mask.png}}
  - {path: "lr/*.png", task: {type: superres, scale: 4}, reference: "hr/{stem}.png"}
export: {formats: [onnx], precision: fp32, min_psnr: 50}
report: {html: true}
"""  # noqa: E501


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    plant(tmp_path, "scans/a10.tif", "scans/a9.tif", "scans/sub/b.TIF", "scans/dog.png", "scans/lr/c.png")
    (tmp_path / "m.yaml").write_text(SPEC)
    return tmp_path / "m.yaml"


def problems(text: str, **options: Any) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        parse(text, "m.yaml", "/nowhere", **options)
    return caught.value.problems


def one(*sets: str, rows: str = "[a.png]") -> Any:
    return parse(f"version: 1\nitems: {rows}", "m.yaml", "/nowhere", sets=sets).items[0].settings


def test_the_example_of_the_specification_loads(spec: Path) -> None:
    manifest = load(str(spec))
    assert [item.output for item in manifest.items] == ["a9.png", "a10.png", "sub/b.png", "dog.png", "lr/c.png"]
    assert [item.settings.task.type for item in manifest.items] == ["denoise"] * 3 + ["inpaint", "superres"]
    assert manifest.items[3].mask == str(spec.parent / "scans/dog_mask.png")
    assert manifest.items[4].reference == str(spec.parent / "scans/hr/c.png")
    assert (manifest.root, manifest.output) == (str(spec.parent / "scans"), str(spec.parent / "restored"))
    assert (manifest.export.formats, manifest.export.min_psnr, manifest.report.html) == (("onnx",), 50.0, True)


def test_numbers_of_the_example_are_numbers(spec: Path) -> None:
    settings = load(str(spec)).items[0].settings
    assert (settings.fit.optimizer.lr, settings.input.max_pixels) == (0.01, 64_000_000)


BAD = """\
version: 2
roots: x
steps: 3
task: {}
output: [x]
defaults:
  task: {type: denoise, mask: x.png, noise: {sigma: -3}}
  fit: {steps: many, steps: 3, lr: 3}
items:
  - {pth: a.png}
  - {path: a.png, task: {type: superres, scale: 1.5}}
  - {path: b.png, output: {template: "../{name}.png"}}
  - 3
  - {path: nonsense://x/y.png, task: {type: flash}}
export: {formats: [onx]}
report: {html: no}
"""


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    assert problems(BAD) == [
        "m.yaml:1:10: version: should be 1, which this dipfast reads, is 2",
        "m.yaml:2:1: unknown key 'roots'; did you mean 'root'?",
        "m.yaml:3:1: unknown key 'steps'; steps belongs in fit",
        "m.yaml:4:1: unknown key 'task'; task belongs in defaults or in items",
        "m.yaml:5:9: output: should be a folder, is ['x']",
        "m.yaml:7:25: task: unknown key 'mask'; mask belongs to task inpaint",
        "m.yaml:7:53: task.noise.sigma: should be above 0, is -3",
        "m.yaml:8:16: fit.steps: should be a whole number, is 'many'",
        "m.yaml:8:22: duplicate key 'steps'; the first is at line 8",
        "m.yaml:8:32: fit: unknown key 'lr'; lr belongs in fit.optimizer",
        "m.yaml:10:5: items[0].path: is missing (image, folder or glob)",
        "m.yaml:10:6: unknown key 'pth'; did you mean 'path'?",
        "m.yaml:11:49: task.scale: should be a whole number, is 1.5",
        "m.yaml:12:38: output.template: should stay in the run's images folder: '..' leaves it, is '../{name}.png'",
        "m.yaml:13:5: items[3]: should be a path or a mapping, is 3",
        "m.yaml:14:12: items[4]: should be a local path or an address that fsspec knows, is nonsense://…",
        "m.yaml:14:45: task.type: task 'flash' is not in this version; "
        "there are auto, denoise, jpeg, inpaint, superres",
        "m.yaml:15:20: export.formats[0]: should be onnx or tensorrt, is 'onx'; did you mean 'onnx'?",
        "m.yaml:16:16: report.html: should be true or false, is 'no'",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "1:1: is empty"),
        ("- a", "1:1: should be a mapping, is ['a']"),
        ("just text", "1:1: should be a mapping, is 'just text'"),
        ("items: [a.png]", "1:1: version: is missing; this dipfast reads version 1"),
        ("version: 1.0\nitems: [a.png]", "1:10: version: should be 1, which this dipfast reads, is 1.0"),
        ("version: true\nitems: [a.png]", "1:10: version: should be 1, which this dipfast reads, is true"),
        ("version: 1", "1:1: items: is missing (what to restore)"),
        ("version: 1\nitems: []", "2:8: items: should be a list of paths and mappings, is an empty list"),
        ("version: 1\nitems: {}", "2:8: items: should be a list of paths and mappings, is a mapping"),
        ("version: 1\ndefaults:\nitems: [a.png]", "2:10: defaults: should be a mapping, is null"),
        ("version: 1\nroot: gone\nitems: [a.png]", "2:7: root: should be a folder, '/nowhere/gone' is none"),
        (
            "version: 1\nroot: nonsense://b\nitems: [a.png]",
            "2:7: root: should be a local path or an address that fsspec knows",
        ),
        ("version: 1\nreport: 3\nitems: [a.png]", "2:9: report: should be a mapping, is 3"),
        ("version: 1\nitems: [a.png\n", "3:1: syntax error while parsing a flow sequence begun at line 2"),
        ("version: 1\nitems: [a.png]\n--- \nx: 1", "3:1: should be one YAML document, a second one starts here"),
        (b"version: 1\nitems: [\xff]", "2:9: should be UTF-8, has byte 0xff here"),
    ],
)
def test_a_broken_document_is_refused_at_its_place(text: str, expected: str) -> None:
    assert problems(text)[0].startswith(f"m.yaml:{expected}")


def test_the_place_of_what_is_behind_an_alias_is_the_alias() -> None:
    text = "version: 1\nitems:\n  - {path: a.png, fit: &f {steps: x}}\n  - {path: b.png, fit: *f}"
    assert [line.split(": ")[0] for line in problems(text)] == ["m.yaml:3:35", "m.yaml:4:24"]


def test_a_mistake_in_defaults_is_reported_once() -> None:
    assert len(problems("version: 1\ndefaults: {fit: {steps: x}}\nitems: [a.png, b.png, c.png]")) == 1


def test_a_mistake_in_defaults_is_reported_even_where_every_item_overrides_it() -> None:
    text = "version: 1\ndefaults: {fit: {steps: x}}\nitems: [{path: a.png, fit: {steps: 1}}]"
    assert problems(text) == ["m.yaml:2:25: fit.steps: should be a whole number, is 'x'"]


def test_defaults_may_leave_to_the_items_what_is_required() -> None:
    text = "version: 1\ndefaults: {task: {type: superres}}\nitems: [{path: a.png, task: {scale: 2}}]"
    assert parse(text, "m", "/nowhere").items[0].settings.task.scale == 2


def test_a_flood_of_mistakes_is_cut_short() -> None:
    rows = "\n".join(f"  - {{path: a{i}.png, x: 1}}" for i in range(3000))
    found = problems(f"version: 1\nitems:\n{rows}")
    assert len(found) == 1001
    assert found[-1] == "m.yaml: more is wrong than these 1000"


@given(st.text() | st.text("version: 1\nitems[]{}*&!a.png,-", max_size=80))
def test_any_text_is_a_manifest_or_a_manifest_error(text: str) -> None:
    with suppress(ManifestError, NothingMatchedError):
        parse(text, "m.yaml", "/nowhere")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["a.png", "type"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "task", "fit", "noise", "stop", "mask", "input", "path"]), inner)
    ),
    max_leaves=12,
)


@given(VALUES, VALUES)
def test_any_tree_is_a_manifest_or_a_manifest_error(defaults: Any, row: Any) -> None:
    text = json.dumps({"version": 1, "defaults": defaults, "items": [row]}, ensure_ascii=False)
    with suppress(ManifestError, NothingMatchedError):
        parse(text.replace("NaN", ".nan").replace("Infinity", ".inf"), "m.yaml", "/nowhere")


def test_a_folder_is_a_source(tmp_path: Path) -> None:
    plant(tmp_path, "in.png/a.png", "in.png/s/b.jpg")
    manifest = load(tmp_path / "in.png", task="jpeg", preset="fast", seed=7)
    assert [item.output for item in manifest.items] == ["a.png", "s/b.png"]
    assert (manifest.root, manifest.items[0].place) == (str(tmp_path / "in.png"), str(tmp_path / "in.png"))
    settings = manifest.items[0].settings
    assert (settings.task.type, settings.preset, settings.fit.seed) == ("jpeg", "fast", 7)


def test_a_glob_is_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "[x]/in/s/a.png", "[x]/in/b.png", "[x]/c.png")
    monkeypatch.chdir(tmp_path / "[x]")
    assert [item.output for item in load("in/**/*.png").items] == ["b.png", "s/a.png"]


def test_one_image_is_a_source(tmp_path: Path) -> None:
    plant(tmp_path, "a[1].png", "a1.png")
    [item] = load(tmp_path / "a[1].png").items
    assert (item.path, item.relpath, item.output) == (str(tmp_path / "a[1].png"), "", "a[1].png")


def test_a_sample_is_a_source() -> None:
    assert [item.path for item in load("sample:camera").items] == ["sample:camera"]


@pytest.mark.parametrize("source", ["", "*.png", "s/**/*.tif"])
def test_a_source_without_images_matches_nothing(tmp_path: Path, source: str) -> None:
    with pytest.raises(NothingMatchedError, match=r": matches no image \(png, jpeg, .*, pnm\)$"):
        load(f"{tmp_path}/{source}")


def test_a_manifest_without_images_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("version: 1\nitems: ['*.png', .]")
    with pytest.raises(
        NothingMatchedError, match=r"m.yaml:2:9: '\*.png' matches no image .*\n.*m.yaml:2:18: '.' matches"
    ) as caught:
        load(tmp_path / "m.yaml")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("gone.png", "there is no file or folder '.*gone.png'$"),
        ("gone.yaml", "there is no file or folder '.*gone.yaml'$"),
        ("b.txt", "there is no file or folder '.*b.txt'; did you mean 'a.txt'?"),
        ("a.txt", "should be a manifest .* is another"),
    ],
)
def test_a_source_that_is_nothing_of_the_kind_is_wrong_usage(tmp_path: Path, name: str, what: str) -> None:
    plant(tmp_path, "a.txt")
    with pytest.raises(UsageError, match=rf"^SOURCE: {what}"):
        load(tmp_path / name)


@pytest.mark.parametrize(
    ("source", "rule"),
    [
        ("", "should be text that is not empty"),
        ("nonsense://bucket/a.png", "should be a local path or an address that fsspec knows, is nonsense://"),
        ("a\0.png", "should hold no NUL character"),
    ],
)
def test_a_source_that_is_no_local_path_is_wrong_usage(source: str, rule: str) -> None:
    with pytest.raises(UsageError, match=f"^SOURCE: .*{rule}"):
        load(source)


def test_a_source_may_be_an_address(tmp_path: Path) -> None:
    plant(tmp_path, "a b.png")
    assert [item.name for item in load(f"file://{tmp_path}/a%20b.png").items] == ["a b"]


def test_the_command_line_wins_over_items_and_defaults(spec: Path) -> None:
    manifest = load(spec, sets=["fit.steps=7", "task.type=jpeg"], seed=5, engine="eager", precision="fp32")
    assert {(i.settings.fit.steps, i.settings.fit.seed, i.settings.task.type) for i in manifest.items} == {
        (7, 5, "jpeg")
    }


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("fit.steps=5", lambda s: s.fit.steps == 5),
        ("defaults.fit.steps=5", lambda s: s.fit.steps == 5),
        ("fit.optimizer={type: adam, lr: 1e-3}", lambda s: s.fit.optimizer.lr == 0.001),
        ("fit.average=null", lambda s: s.fit.average is None),
        ("fit.average=", lambda s: s.fit.average is None),
        ("generator.channels=[8, 16]", lambda s: s.generator.channels == (8, 16)),
        ("output.template={name}_x.png", lambda s: s.output.template == "{name}_x.png"),
        ("task.noise.sigma = auto", lambda s: s.task.noise.sigma == "auto"),
        ("reference=a=b.png", lambda s: s.reference == "a=b.png"),
    ],
)
def test_set_takes_any_key_and_a_yaml_value(text: str, read: Any) -> None:
    assert read(one(text))


def test_later_sets_win_and_add_up() -> None:
    task = one("task.type=superres", "task.scale=2", "task.scale=4").task
    assert (task.type, task.scale) == ("superres", 4)


def test_set_reaches_the_documents_own_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plant(tmp_path, "in/a.png")
    monkeypatch.chdir(tmp_path)
    text = "version: 1\nroot: gone\nitems: [a.png]"
    sets = ["root=in", "output=out", "export.formats=[onnx]", "report.html=false"]
    manifest = parse(text, "m", "/nowhere", sets=sets)
    assert (manifest.root, manifest.output) == (str(tmp_path / "in"), str(tmp_path / "out"))
    assert (manifest.export.formats, manifest.report.html) == (("onnx",), False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fit.steps=many", "fit.steps: should be a whole number, is 'many'"),
        ("fit.lr=3", "fit: unknown key 'lr'; lr belongs in fit.optimizer"),
        ("fit.steps", "should be KEY=VALUE with a dotted key, like fit.steps=500"),
        ("fit..steps=3", "should be KEY=VALUE with a dotted key, like fit.steps=500"),
        ("=3", "should be KEY=VALUE with a dotted key, like fit.steps=500"),
        ("items=[a.png]", "items cannot be set here, only in a manifest"),
        ("fit={steps: 1, steps: 2}", "duplicate key 'steps'; the first is at line 1"),
        ("fit.steps=!!int 3", "tag '!!int' is not allowed; quote a value that should be text"),
        ("root=gone", "root: should be a folder, "),
        ("export.of=sketch", "export.of: should be"),
        ("export.min_psnr_to_picture=-3", "export.min_psnr_to_picture: should be"),
        ("export.x=1", "export: unknown key 'x'; there are formats, precision, min_psnr, of, min_psnr_to_picture"),
        ("task.type=superres", "task.scale: is missing (how many times larger each side becomes)"),
    ],
)
def test_a_wrong_set_is_reported_under_its_own_words(text: str, expected: str) -> None:
    [line] = problems("version: 1\nitems: [a.png]", sets=[text])
    assert line.startswith(f"--set {text}: {expected}")


def test_a_wrong_flag_is_reported_under_its_own_words(tmp_path: Path) -> None:
    plant(tmp_path, "a.png")
    with pytest.raises(ManifestError) as caught:
        load(tmp_path, task="denoize", seed=-1)
    assert [line.split(": should")[0] for line in caught.value.problems] == [
        "--task denoize: task.type",
        "--seed -1: fit.seed",
    ]


def test_a_reference_folder_of_the_command_line_starts_at_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, "in/s/a.png", "{hr}/s/a.tif")
    monkeypatch.chdir(tmp_path)
    assert load("in", reference="{hr}").items[0].reference == str(tmp_path / "{hr}/s/a.tif")


def test_nothing_is_written(spec: Path) -> None:
    before = sorted(spec.parent.rglob("*"))
    manifest: Manifest = load(spec)
    manifest.resolved()
    assert sorted(spec.parent.rglob("*")) == before


def test_a_manifest_may_be_json_with_every_escape_of_it(tmp_path: Path) -> None:
    names = ["a.png", "caf\u00e9 \U0001f600.png", "s/b.png", "tab\\ud83d.png"]
    tree = {"version": 1, "defaults": {"task": "denoise", "fit": {"steps": 5}}, "items": names}
    for indent in (None, "\t", 2):
        text = json.dumps(tree, indent=indent, separators=(",", ":") if indent is None else None)
        (tmp_path / "m.json").write_text(text.replace("s/b", "s\\/b"))
        found = load(tmp_path / "m.json")
        assert [item.path for item in found.items] == [f"{tmp_path}/{name}" for name in names]
        assert found.items[0].settings.fit.steps == 5


def test_a_mistake_in_json_has_its_place(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text('{"version": 1,\n "items": [{"path": "a.png", "tusk": 1}]}')
    with pytest.raises(ManifestError, match=r"m.json:2:30: .*unknown key 'tusk'"):
        load(tmp_path / "m.json")


@pytest.mark.parametrize(
    ("task", "kind", "sigma"),
    [
        ("denoise", "denoise", "auto"),
        ("{noise: 25}", "denoise", 25),
        ("{type: denoise, noise: 7.5}", "denoise", 7.5),
        ("{noise: auto}", "denoise", "auto"),
        ("{noise: {sigma: 3}}", "denoise", 3),
        ("jpeg", "jpeg", None),
        ("{noise: salt-pepper}", "denoise", None),
    ],
)
def test_a_task_may_be_spelled_by_its_type_and_noise_by_its_sigma(
    tmp_path: Path, task: str, kind: str, sigma: object
) -> None:
    for text in (f"defaults: {{task: {task}}}\nitems: [a.png]", f"items: [{{path: a.png, task: {task}}}]"):
        [item] = parse(f"version: 1\n{text}\n", "m.yaml", tmp_path).items
        noise = getattr(item.settings.task, "noise", None)
        assert (item.settings.task.type, getattr(noise, "sigma", None)) == (kind, sigma)


def test_noise_that_is_a_number_replaces_another_kind_and_keeps_what_is_known_of_gaussian_noise(tmp_path: Path) -> None:
    rows = "defaults: {task: {noise: {type: poisson, peak: 30}}}\nitems: [{path: a.png, task: {noise: 25}}]"
    [item] = parse(f"version: 1\n{rows}\n", "m.yaml", tmp_path).items
    assert item.settings.task.noise.sigma == 25  # type: ignore[union-attr]
    rows = "defaults: {task: {noise: {clipped: false}}}\nitems: [{path: a.png, task: {noise: 25}}]"
    [item] = parse(f"version: 1\n{rows}\n", "m.yaml", tmp_path).items
    assert not item.settings.task.noise.clipped  # type: ignore[union-attr]
