"""Content ids: what changes pixels changes them, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest

from dipfast.manifest import Settings, content_id
from dipfast.manifest.layers import Layer, resolve

INPUT = "ab" * 32
BASE: dict[str, Any] = {"preset": "paper", "task": {"type": "inpaint", "mask": "m.png"}}


def id_of(tree: dict[str, Any], input_sha256: str = INPUT, **extra: str) -> str:
    settings = resolve([Layer(BASE, "base"), Layer(tree, "test")])
    assert isinstance(settings, Settings), settings
    return content_id(input_sha256, settings, extra)


def test_an_id_is_sixteen_hexadecimal_digits() -> None:
    assert len(id_of({})) == 16
    assert int(id_of({}), 16)


def test_the_id_of_the_schemas_defaults_never_changes() -> None:
    assert content_id(INPUT, Settings()) == "220f62b49b07ba62"


@pytest.mark.parametrize(
    "tree",
    [
        {"task": {"mask": "elsewhere/{stem}.png"}},
        {"task": {"known": "white"}},
        {"fit": {"engine": "eager"}},
        {"fit": {"kernels": "plain"}},
        {"fit": {"kernels": "triton"}},
        {"fit": {"device": "cuda:1"}},
        {"fit": {"shapes": "exact"}},
        {"fit": {"shapes": "exact", "engine": "compile"}},
        {"fit": {"coarse": 0}},
        {"fit": {"memory": {"limit": "8G", "recompute": "always"}}},
        {"input": {"max_pixels": "1M"}},
        {"output": {"template": "x/{stem}_{task}.PNG"}},
        {"output": {"strength": 1}},
        {"reference": "hr/{stem}.png"},
        {"generator": {"kernel_down": [3] * 5, "up_channels": [128] * 5}},
        {"fit": {"optimizer": {"lr": 1e-2}}},
    ],
)
def test_what_changes_no_pixel_changes_no_id(tree: dict[str, Any]) -> None:
    assert id_of(tree) == id_of({})


@pytest.mark.parametrize(
    "tree",
    [
        {"task": {"keep_known": False}},
        {"task": {"type": "jpeg"}},
        {"fit": {"seed": 1}},
        {"fit": {"steps": 1}},
        {"fit": {"precision": "bf16"}},
        {"fit": {"average": 0.5}},
        {"fit": {"shapes": "grid"}},
        {"fit": {"engine": "compile"}},
        {"fit": {"memory": {"lower_precision": True}}},
        {"fit": {"stop": {"type": "ema-variance"}}},
        {"generator": {"channels": [8] * 5, "skip_channels": 4}},
        {"generator": {"input": {"depth": 3}}},
        {"output": {"bit_depth": 8}},
        {"output": {"strength": 0.5}},
        {"output": {"strength": 0}},
        {"output": {"template": "{name}.tif"}},
        {"output": {"template": "{name}.{ext}"}},
        {"task": {"mask": None}, "degrade": {"type": "missing"}},
    ],
)
def test_what_changes_pixels_changes_the_id(tree: dict[str, Any]) -> None:
    assert id_of(tree) != id_of({})


def test_a_strength_of_nothing_is_one_however_it_is_spelled() -> None:
    assert id_of({"output": {"strength": -0.0}}) == id_of({"output": {"strength": 0}})


def test_the_input_and_other_files_are_part_of_the_id() -> None:
    ids = {id_of({}), id_of({}, "cd" * 32), id_of({}, mask="1"), id_of({}, mask="2"), id_of({}, guide="1")}
    assert len(ids) == 5


def test_the_format_of_the_file_to_write_is_part_of_the_id_however_it_is_spelled() -> None:
    settings = Settings.model_validate({"output": {"template": "{name}.{ext}"}})
    ids = [content_id(INPUT, settings, {}, f"dog.{ending}") for ending in ("png", "PNG", "jpg", "jpeg", "tif")]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    assert len({*ids}) == 3


def test_other_files_count_in_no_order() -> None:
    assert id_of({}, mask="1", guide="2") == id_of({}, guide="2", mask="1")


def test_a_preset_and_the_same_settings_by_hand_have_one_id() -> None:
    settings = resolve([Layer(BASE, "base")])
    assert isinstance(settings, Settings)
    assert content_id(INPUT, settings) == content_id(INPUT, settings.model_copy(update={"preset": "best"}))


def test_what_is_stored_of_several_seeds_is_another_result() -> None:
    one, two = {"seeds": 1}, {"seeds": 2}
    assert id_of({"fit": two | {"store": "one"}}) != id_of({"fit": two | {"store": "all"}}) == id_of({"fit": two})
    assert id_of({"fit": one | {"store": "one"}}) == id_of({"fit": one})


def test_smaller_sizes_that_are_fitted_first_are_another_result() -> None:
    blind = {"task": {"type": "denoise"}, "generator": {"input": {"type": "image", "blind": 0.1, "recorrupt": 0.7}}}
    fits = [{}, {"coarse": 0}, {"coarse": 300}, {"coarse": 5}, {"engine": "compile", "shapes": "exact"}]
    first, at_once, asked, few, compiled = (id_of({**blind, "fit": fit}) for fit in fits)
    assert len({first, at_once, asked, few}) == 4
    assert compiled == at_once
