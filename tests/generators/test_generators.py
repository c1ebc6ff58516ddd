"""The hourglass: parameter counts of the first paper, options, names, latents, and the way to bytes and back."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import generator_config, latent_of

from dipfast import generators
from dipfast.errors import UsageError

PAPER = {"channels": (128,) * 5, "bias": True, "input": {"type": "noise", "depth": 32}}
COUNTS: list[tuple[int, int, dict[str, Any]]] = [
    (2_217_831, 3, {}),
    (
        572_827,
        3,
        {"channels": (8, 16, 32, 64, 128), "skip_channels": (0, 0, 0, 4, 4), "input": {"type": "noise", "depth": 3}},
    ),
    (2_217_573, 1, {}),
    (1_027_379, 3, {"channels": (16, 32, 64, 128, 128), "skip_channels": 0, "downsample": "avg"}),
    (2_157_955, 3, {"skip_channels": 0, "upsample": "nearest", "input": {"type": "meshgrid"}}),
    (3_002_627, 3, {"skip_channels": 128, "upsample": "nearest"}),
    (
        2_996_467,
        3,
        {
            "channels": (16, 32, 64, 128, 128, 128),
            "skip_channels": 0,
            "kernel_down": 5,
            "pointwise_up": False,
            "input": {"type": "noise", "depth": 1},
        },
    ),
]


@pytest.mark.parametrize(("count", "channels", "changes"), COUNTS)
def test_parameter_counts_are_those_of_the_first_paper(count: int, channels: int, changes: dict[str, Any]) -> None:
    module = generators.build(generator_config(**PAPER | changes), channels, seed=0)
    assert sum(p.numel() for p in module.parameters()) == count


@pytest.mark.parametrize(
    "changes",
    [
        {"upsample": "nearest"},
        {"upsample": ("nearest", "bilinear")},
        {"downsample": "avg"},
        {"downsample": "max"},
        {"downsample": "lanczos2"},
        {"pad": "zero"},
        {"pad": "replication"},
        {"activation": "swish"},
        {"activation": "none"},
        {"kernel_down": (5, 3), "kernel_up": 5, "kernel_skip": 3},
        {"skip_channels": 0},
        {"up_channels": (6, 10)},
        {"pointwise_up": False},
        {"bias": True},
        {"input": {"type": "meshgrid"}},
        {"input": {"type": "image"}},
        {"input": {"type": "image", "noise": {"type": "noise", "depth": 5, "distribution": "normal", "scale": 0.3}}},
        {"input": {"type": "fourier", "frequencies": 3}},
    ],
)
def test_every_option_gives_an_image_and_gradients(changes: dict[str, Any]) -> None:
    config = generator_config(**changes)
    module = generators.build(config, 3, seed=0)
    latent = generators.make_latent(config.input, 16, 24, 0, torch.rand(1, 3, 16, 24))
    image = module(latent)
    image.square().mean().backward()
    assert image.shape == (1, 3, 16, 24)
    for name, parameter in module.named_parameters():
        if parameter.grad is None:  # a shift in front of a convolution and another normalisation changes nothing
            assert "upsample" in changes and re.fullmatch(r"scales\.\d\.norm\.bias", name)
        else:
            assert bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("skips", [0, 1, 8])
@pytest.mark.parametrize("pointwise", [True, False])
def test_a_net_in_phases_is_the_net_on_upsampled_tensors(skips: int, pointwise: bool) -> None:
    config = generator_config(upsample="nearest", skip_channels=skips, pointwise_up=pointwise)
    module = generators.build(config, 3, seed=0).double()
    latent = torch.randn(1, 8, 16, 24, dtype=torch.float64)
    in_phases = module(latent, torch.float64)
    for scale in module.scales:
        scale.in_phases = False
    torch.testing.assert_close(in_phases, module(latent, torch.float64), rtol=0, atol=1e-12)


def test_without_the_sigmoid_the_output_is_free() -> None:
    config = generator_config(sigmoid=False)
    latent = generators.make_latent(config.input, 16, 16, 0, torch.empty(0))
    assert bool((generators.build(config, 3, seed=0)(latent) < 0).any())


def test_the_same_seed_gives_the_same_weights_and_another_gives_others() -> None:
    a, b, c = (generators.build(generator_config(), 3, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["head.weight"], c["head.weight"])


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    generators.build(generator_config(), 3, seed=5)
    assert torch.equal(before, torch.get_rng_state())


def test_parameter_names_are_stable() -> None:
    names = set(generators.build(generator_config(channels=(8,)), 3, 0).state_dict())
    blocks = [f"scales.0.{b}.{leaf}" for b in ("skip", "down1", "down2", "up", "pointwise") for leaf in LEAVES]
    assert names == {*blocks, "scales.0.norm.weight", "scales.0.norm.bias", "head.weight", "head.bias"}


LEAVES = ("conv.conv.weight", "norm.weight", "norm.bias")


def test_bf16_is_near_fp32() -> None:
    config = generator_config()
    module, latent = generators.build(config, 3, 0), generators.make_latent(config.input, 32, 32, 0, torch.empty(0))
    torch.testing.assert_close(module(latent, torch.bfloat16), module(latent), rtol=0, atol=0.03)


@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_the_smallest_side_can_be_fitted(kernel: int) -> None:
    config = generator_config(kernel_down=kernel, kernel_up=kernel)
    side = generators.smallest_side(config)
    latent = generators.make_latent(config.input, side, side, 0, torch.empty(0))
    assert generators.build(config, 1, 0)(latent).shape == (1, 1, side, side)


def test_a_meshgrid_runs_from_zero_to_one() -> None:
    grid = generators.make_latent(latent_of({"type": "meshgrid"}), 3, 5, 0, torch.empty(0))
    assert grid[0, 0, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert grid[0, 1, :, 0].tolist() == [0, 0.5, 1]


def test_noise_is_uniform_up_to_its_scale() -> None:
    noise = generators.make_latent(
        latent_of({"type": "noise", "depth": 4, "distribution": "uniform", "scale": 0.1}), 64, 64, 3, torch.empty(0)
    )
    assert float(noise.min()) >= 0 and 0.099 < float(noise.max()) <= 0.1


def card(config: Any) -> generators.Card:
    return generators.Card("abc", config, {"type": "denoise"}, 0, 7, 3, (16, 16), (15, 13), "fp32")


BESIDE = {"type": "image", "noise": {"type": "noise", "depth": 4, "distribution": "uniform", "scale": 0.3}}


def test_noise_beside_an_image_is_the_seeds_own() -> None:
    guide = torch.rand(1, 3, 16, 16)
    one, same, other = (generators.make_latent(latent_of(BESIDE), 16, 16, seed, guide) for seed in (1, 1, 2))
    assert one.shape == (1, 7, 16, 16)
    assert torch.equal(one[:, :3], guide)
    assert torch.equal(one, same)
    assert not torch.equal(one[:, 3:], other[:, 3:])
    assert 0 <= float(one[:, 3:].min()) < 0.05 < 0.25 < float(one[:, 3:].max()) <= 0.3


@pytest.mark.parametrize("latent", [{"type": "noise", "depth": 8}, {"type": "image"}, BESIDE])
@pytest.mark.parametrize("trunks", [1, 3])
def test_a_generator_survives_its_bytes(latent: dict[str, Any], trunks: int) -> None:
    config, guide = generator_config(input=latent), torch.rand(1, 3, 16, 16)
    about = replace(card(config), trunks=trunks)
    if trunks > 1 and (latent["type"] == "noise" or latent is BESIDE):
        about = replace(about, latent_seed=[7, 8, 9])
    module, z = generators.SkipNet(about.architecture, 9), generators.latent_of(about, guide)
    again, z_again, card_again = generators.from_bytes(generators.to_bytes(module, guide, about))
    module.to(memory_format=torch.channels_last)  # the layout of a fit: bits depend on it
    assert torch.equal(module(z.contiguous(memory_format=torch.channels_last)), again(z_again))
    assert card_again == about


def test_a_card_says_what_it_always_said() -> None:
    about = replace(card(generator_config()), trunks=3, latent_seed=[7, 8, 9])
    data = generators.to_bytes(generators.SkipNet(about.architecture, 0), torch.empty(0), about)
    found = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]["card"])
    assert list(found) == ["id", "generator", "task", "seed", "latent_seed", "channels", "padded", "size", "precision"]
    assert found["generator"] == generator_config().model_dump(mode="json") | {"trunks": 3}
    assert list(found["generator"])[-2:] == ["input", "trunks"]
    assert generators.card_of(json.dumps(found)) == about


def test_a_card_of_another_version_is_read() -> None:
    found = card(generator_config()).to_json()
    del found["generator"]["pointwise_up"]  # a key from before it was there
    found["generator"]["later"] = found["generator"]["input"]["later"] = 1
    assert generators.card_of(json.dumps(found)) == card(generator_config())


@pytest.mark.parametrize("text", ["5", "[]", "{}", "null", '{"generator": 5}'])
def test_a_card_that_is_none_is_refused(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        generators.card_of(text)


def test_the_same_generator_gives_the_same_bytes() -> None:
    module, about = generators.build(generator_config(), 3, 0), card(generator_config())
    assert len({generators.to_bytes(module, torch.empty(0), about) for _ in range(16)}) == 1


def test_bytes_that_are_no_generator_are_refused_with_the_name() -> None:
    data = generators.to_bytes(generators.build(generator_config(), 3, 0), torch.empty(0), card(generator_config()))
    for bad in (b"", b"junk" * 9, data[: len(data) // 2], data.replace(b"dipfast-generator/1", b"dipfast-generator/9")):
        with pytest.raises(UsageError, match=r"^here: "):
            generators.from_bytes(bad, "here")


def test_weights_that_do_not_fit_the_description_are_refused() -> None:
    module = generators.build(generator_config(channels=(8,)), 3, 0)
    with pytest.raises(UsageError, match="do not fit its own description"):
        generators.from_bytes(generators.to_bytes(module, torch.empty(0), card(generator_config())))


def test_a_twin_renders_the_same_and_has_weights_of_its_own() -> None:
    one = generators.build(generator_config(), 3, seed=0)
    other = generators.twin(one)
    latent = torch.rand(1, 8, 32, 32)
    before = one(latent)
    assert torch.equal(other(latent), before)
    assert list(other.state_dict()) == list(one.state_dict())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.fill_(1.0)
    assert torch.equal(one(latent), before)
    assert all(parameter.requires_grad for parameter in other.parameters())
