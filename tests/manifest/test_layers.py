"""Layers of settings: how they merge, what conflicts, and whose mistake it is."""
# ruff: noqa: E501

from __future__ import annotations

from typing import Any

import pytest

from dipfast.manifest.layers import Layer, Resolved, Resolver, check_alone, merge, resolve
from dipfast.settings.document import Settings
from dipfast.settings.fit import Adam
from dipfast.settings.task import Denoise, Inpaint, PoissonNoise


@pytest.fixture(autouse=True)
def _presets(monkeypatch: pytest.MonkeyPatch) -> None:
    def preset(name: str, task: dict[str, Any]) -> dict[str, Any]:
        steps = {"fast": 1, "balanced": 2, "best": 3, "paper": 4}[name]
        skips = {"jpeg": [0, 0, 4, 4, 4]}.get(task["type"], 4)
        return {
            "fit": {"steps": steps, "optimizer": {"type": "muon", "lr": 0.5}},
            "generator": {"skip_channels": skips},
        }

    monkeypatch.setattr("dipfast.settings.presets.preset", preset)


def settings(*trees: dict[str, Any]) -> Settings:
    result = resolve([Layer(tree, (str(index),)) for index, tree in enumerate(trees)])
    assert isinstance(result, Settings), result
    return result


def problems(*trees: dict[str, Any]) -> list[tuple[Any, str]]:
    result = resolve([Layer(tree, (str(index),)) for index, tree in enumerate(trees)])
    assert isinstance(result, list)
    return [(problem.origin, problem.text) for problem in result]


def test_nothing_is_the_balanced_preset() -> None:
    assert settings({}).fit.steps == 2


def test_the_preset_lies_under_the_defaults() -> None:
    assert settings({"fit": {"steps": 9}}, {"preset": "best"}).fit.steps == 9


def test_the_last_layer_names_the_preset() -> None:
    assert settings({"preset": "best"}, {"preset": "fast"}).fit.steps == 1


def test_the_preset_depends_on_the_task() -> None:
    assert settings({"task": {"type": "denoise"}}, {"task": {"type": "jpeg"}}).generator.skip_channels == (
        0,
        0,
        4,
        4,
        4,
    )


def test_mappings_merge_and_lists_replace() -> None:
    assert merge({"a": [1, 2], "b": {"c": 1, "d": 2}}, {"a": [3], "b": {"c": 4}}) == {"a": [3], "b": {"c": 4, "d": 2}}


def test_merging_changes_neither_side() -> None:
    below, above = {"a": {"b": 1}}, {"a": {"c": 2}}
    merge(below, above)["a"]["d"] = 3
    assert (below, above) == ({"a": {"b": 1}}, {"a": {"c": 2}})


def test_another_type_replaces_the_mapping() -> None:
    task = settings(
        {"task": {"type": "denoise", "noise": {"sigma": 9}}}, {"task": {"type": "inpaint", "mask": "m"}}
    ).task
    assert task == Inpaint(type="inpaint", mask="m")


def test_the_same_type_merges_into_the_mapping() -> None:
    task = settings({"task": {"type": "inpaint", "mask": "m"}}, {"task": {"type": "inpaint", "known": "black"}}).task
    assert task == Inpaint(type="inpaint", mask="m", known="black")


def test_a_mapping_without_type_merges_into_the_one_below() -> None:
    optimizer = settings({"fit": {"optimizer": {"lr": 0.25}}}).fit.optimizer
    assert (optimizer.type, optimizer.lr) == ("muon", 0.25)


def test_a_mapping_without_type_has_the_usual_one() -> None:
    task = settings({"task": {"noise": {"sigma": 9}}}, {"task": {"noise": {"type": "poisson", "peak": 3}}}).task
    assert task == Denoise(noise=PoissonNoise(type="poisson", peak=3))


def test_another_optimizer_forgets_the_presets() -> None:
    assert settings({"fit": {"optimizer": {"type": "adam"}}}).fit.optimizer == Adam()


def test_null_takes_a_setting_back() -> None:
    damage = {"degrade": {"type": "gaussian", "sigma": 5}}
    assert settings(damage, {"degrade": None}).degrade is None


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"fit": {"steps": "many"}}, "fit.steps: should be a whole number, is 'many'"),
        ({"fit": {"steps": 1.5}}, "fit.steps: should be a whole number, is 1.5"),
        ({"fit": {"steps": True}}, "fit.steps: should be a whole number, is true"),
        ({"fit": {"steps": -1}}, "fit.steps: should be at least 0, is -1"),
        ({"fit": {"average": 1}}, "fit.average: should be below 1, is 1"),
        ({"fit": {"reg_noise_std": float("nan")}}, "fit.reg_noise_std: should be a finite number, is nan"),
        ({"fit": {"seed": 2**63}}, f"fit.seed: should be below {2**63}, is {2**63}"),
        ({"fit": {"device": "gpu"}}, "fit.device: should be auto, cpu, cuda or cuda:N, is 'gpu'"),
        ({"fit": {"optimizer": {"type": "adam", "betas": [0.9]}}}, "fit.optimizer.betas[1]: is missing"),
        ({"fit": {"stop": 5}}, "fit.stop: should be a mapping, is 5"),
        ({"fit": None}, "fit: should be a mapping, is null"),
        ({"fit": {"lr": 3}}, "fit: unknown key 'lr'; lr belongs in fit.optimizer"),
        ({"fit": {"stepz": 3}}, "fit: unknown key 'stepz'; did you mean 'steps'?"),
        ({"steps": 3}, "unknown key 'steps'; steps belongs in fit"),
        ({"export": 3}, "unknown key 'export'; export belongs at the top level"),
        ({"pth": 3}, "unknown key 'pth'; did you mean 'path'?"),
        ({"preset": "fst"}, "preset: should be fast, balanced, best or paper, is 'fst'; did you mean 'fast'?"),
        ({"preset": ["fast"]}, "preset: should be fast, balanced, best or paper, is ['fast']"),
        ({"task": True}, "task: should be a mapping, is true"),
        ({"task": 25}, "task: should be a mapping, is 25"),
        ({"task": "denoize"}, "task.type: should be auto, denoise, jpeg, inpaint or superres, is 'denoize'; did you mean 'denoise'?"),
        ({"task": {"noise": -3}}, "task.noise.sigma: should be above 0, is -3"),
        ({"task": {"noise": "poisson"}}, "task.noise.peak: is missing (expected photons at full white)"),
        ({"task": {"noise": {"sigma": -3}}}, "task.noise.sigma: should be above 0, is -3"),
        ({"task": {"noise": {"sigma": "x"}}}, "task.noise.sigma: should be a number or auto, is 'x'"),
        ({"task": {"noise": {"sigmma": 3}}}, "task.noise: unknown key 'sigmma'; did you mean 'sigma'?"),
        ({"task": {"type": "denoise", "mask": "m"}}, "task: unknown key 'mask'; mask belongs to task inpaint"),
        ({"task": {"type": "superres"}}, "task.scale: is missing (how many times larger each side becomes)"),
        ({"task": {"type": "superres", "scale": 1.5}}, "task.scale: should be a whole number, is 1.5"),
        ({"task": {"type": "superres", "scale": 64}}, "task.scale: should be at most 32, is 64"),
        ({"task": {"type": "superes"}}, "task.type: should be auto, denoise, jpeg, inpaint or superres, is 'superes'; did you mean 'superres'?"),
        ({"task": {"type": "flash"}}, "task.type: task 'flash' is not in this version; there are auto, denoise, jpeg, inpaint, superres"),
        ({"task": {"type": None}}, "task.type: should be auto, denoise, jpeg, inpaint or superres, is null"),
        ({"generator": {"channels": ["8"]}}, "generator.channels[0]: should be a whole number, is '8'"),
        ({"generator": {"channels": []}}, "generator.channels: should be a list of at least 1, is []"),
        ({"generator": {"kernel_up": 4}}, "generator.kernel_up: should be odd: an even kernel has no centre, is 4"),
        ({"generator": {"kernel_up": "x"}}, "generator.kernel_up: should be a whole number or a list, is 'x'"),
        ({"generator": {"kernel_up": [3, 3]}}, "generator: kernel_up has 2 entries where channels has 5 scales"),
        ({"generator": {"input": {"type": "nose"}}}, "generator.input.type: should be noise, meshgrid, image or fourier, is 'nose'; did you mean 'noise'?"),
        ({"degrade": {"sigma": 3}}, "degrade.type: is missing; should be gaussian, poisson, salt-pepper, jpeg, missing, scratches or downsample"),
        ({"input": {"max_pixels": "many"}}, "input.max_pixels: should be a whole number, or one with k, M or G behind it, like 64M, is 'many'"),
        ({"input": {"formats": ["psd"]}}, "input.formats[0]: should be png, jpeg, tiff, webp, avif, heif, jxl, jp2, bmp, gif, tga or pnm, is 'psd'"),
        ({"output": {"bit_depth": 12}}, "output.bit_depth: should be source, 8 or 16, is 12"),
        ({"output": {"strength": 1.5}}, "output.strength: should be at most 1, is 1.5"),
        ({"output": {"strength": -1}}, "output.strength: should be at least 0, is -1"),
        ({"output": {"strength": float("nan")}}, "output.strength: should be a finite number, is nan"),
        ({"output": {"strength": "high"}}, "output.strength: should be a number, is 'high'"),
        ({"output": {"strength": True}}, "output.strength: should be a number, is true"),
        ({"task": {"type": "superres", "scale": 4}, "output": {"strength": 0.5}}, "output.strength: should be 1 for task superres, whose answer has another size, is 0.5"),
        ({"output": {"template": "{x}.png"}}, "output.template: has no placeholder {x}; there are relpath, name, stem, ext, task, preset, seed"),
        ({"output": {"template": "{name.png"}}, "output.template: has a brace without its partner ({{ and }} stand for braces)"),
        ({"output": {"template": "{name}.gif"}}, "output.template: should end in .png, .jpg, .tif, .webp, .avif or .{ext}, is '{name}.gif'"),
        ({"output": {"template": "../{name}.png"}}, "output.template: should stay in the run's images folder: '..' leaves it, is '../{name}.png'"),
        ({"output": {"template": "/{name}.png"}}, "output.template: should be a path inside the run's images folder, with / between its parts, is '/{name}.png'"),
        ({"output": {"template": "c:{name}.png"}}, "output.template: should be a path inside the run's images folder, with / between its parts, is 'c:{name}.png'"),
        ({"output": {"template": "aux/{name}.png"}}, "output.template: should not use 'aux': Windows reserves that name, is 'aux/{name}.png'"),
        ({"output": {"template": "a\0.png"}}, "output.template: should hold no NUL character, is 'a\\x00.png'"),
        ({"reference": "{x}"}, "reference: has no placeholder {x}; there are relpath, name, stem, ext, task, preset, seed"),
        ({"task": {"type": "inpaint"}}, "task.mask: is missing; inpaint needs a mask, or a degrade that makes one"),
        ({"task": {"type": "inpaint", "mask": "m"}, "degrade": {"type": "missing"}}, "task.mask: should be left out, for degrade makes the mask"),
        ({"reference": "r.png", "degrade": {"type": "gaussian", "sigma": 9}}, "reference: should be left out, for with degrade the image itself is the true one"),
        ({"degrade": {"type": "jpeg", "quality": 9}}, "degrade.type: should be gaussian, poisson or salt-pepper for task denoise, is 'jpeg'"),
        ({"task": {"type": "superres", "scale": 4}, "degrade": {"type": "downsample", "scale": 2}}, "degrade.scale: should be the task's 4, is 2"),
        ({"task": {"type": "jpeg", "quality": None}, "fit": {"stop": {"type": "discrepancy"}}}, "fit.stop.type: discrepancy needs task denoise with gaussian or poisson noise, or jpeg of some quality, is task jpeg"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_in_plain_words(tree: dict[str, Any], expected: str) -> None:
    assert [text for _, text in problems(tree)] == [expected]


def test_a_mistake_is_hung_onto_the_layer_that_made_it() -> None:
    found = problems({"fit": {"steps": "x"}}, {"fit": {"seed": -1}}, {"task": {"type": "superres"}})
    assert [origin for origin, _ in found] == [("2", "task"), ("0", "fit", "steps"), ("1", "fit", "seed")]


def test_a_later_layer_mends_an_earlier_mistake() -> None:
    assert settings({"fit": {"steps": "x"}}, {"fit": {"steps": 5}}).fit.steps == 5


def test_a_setting_that_the_preset_brought_is_named_as_such() -> None:
    [(_, text)] = problems({"task": {"type": "jpeg"}, "generator": {"channels": [8, 8]}})
    assert text.endswith("where channels has 2 scales; skip_channels comes from the preset")


def test_a_partial_layer_is_checked_alone_but_for_what_is_missing() -> None:
    layer = Layer({"task": {"type": "superres"}, "fit": {"seed": -1}}, ("defaults",))
    assert [problem.text for problem in check_alone(layer)] == ["fit.seed: should be at least 0, is -1"]


def test_equal_overrides_share_their_settings() -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [])
    assert resolver.settings({"preset": "fast"}, ("a",)) is resolver.settings({"preset": "fast"}, ("b",))


def test_one_and_true_are_not_equal_overrides() -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [])
    assert isinstance(resolver.settings({"fit": {"steps": 1}}, ("a",)), Settings)
    assert isinstance(resolver.settings({"fit": {"steps": True}}, ("a",)), list)


def test_names_of_masks_are_put_into_shared_settings() -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [])
    rows = [{"task": {"type": "inpaint", "mask": f"{i}.png"}, "reference": f"r{i}.png"} for i in range(2)]
    first, second = (resolver.settings(row, ("a",)) for row in rows)
    assert first == settings(rows[0])
    assert second == settings(rows[1])
    assert first.fit is second.fit


def test_an_option_wins_over_the_name_in_a_row() -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [Layer({"reference": "x.png"}, "--reference x.png")])
    result = resolver.settings({"reference": "y.png"}, ("a",))
    assert isinstance(result, Settings)
    assert result.reference == "x.png"


def test_a_mask_for_another_task_is_still_refused() -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [])
    assert isinstance(resolver.settings({"task": {"type": "denoise", "mask": "m.png"}}, ("a",)), list)


def test_rows_that_differ_in_a_seed_and_names_are_resolved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("dipfast.manifest.layers.resolve", lambda layers: calls.append(layers) or resolve(layers))
    resolver = Resolver(Layer({"fit": {"steps": 9}}, ("defaults",)), [])
    rows = [{"fit": {"seed": i}, "output": {"template": f"{i}.png"}, "reference": f"{i}.tif"} for i in range(50)]
    found = [resolver.resolved(row, ("a",)) for row in rows]
    assert all(isinstance(one, Resolved) and one.shared is found[0].shared for one in found)  # type: ignore[union-attr]
    assert [resolver.settings(row, ("a",)) for row in rows] == [settings({"fit": {"steps": 9}}, row) for row in rows]
    assert len(calls) == 1


@pytest.mark.parametrize(
    "wrong", [{"fit": {"seed": -1}}, {"output": {"template": "a.gif"}}, {"reference": "{x}"}, {"fit": {"seed": "1"}}]
)
def test_a_wrong_value_of_one_row_is_said_as_if_it_were_alone(wrong: dict[str, Any]) -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [])
    for seed in range(2):
        assert isinstance(resolver.resolved({"fit": {"seed": seed}}, ("a",)), Resolved)
    assert resolver.settings(wrong, ("b",)) == resolve([Layer({}, ("defaults",)), Layer(wrong, ("b",))])


@pytest.mark.parametrize(
    "option", [{"fit": {"seed": 5}}, {"output": {"template": "b.png"}}, {"task": {"type": "jpeg"}}]
)
def test_an_option_wins_over_what_each_row_has_of_its_own(option: dict[str, Any]) -> None:
    resolver = Resolver(Layer({}, ("defaults",)), [Layer(option, "--set")])
    task = {"type": "inpaint", "mask": "m.png"}
    rows = [{"fit": {"seed": i}, "output": {"template": f"{i}.png"}, "task": task} for i in range(3)]
    assert [resolver.settings(row, ("a",)) for row in rows] == [settings(row, option) for row in rows]
