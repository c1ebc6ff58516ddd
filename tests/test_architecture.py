"""The levels of a generator as data: what settings come to, and that modules, export and costs need nothing else."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import generator_config
from torch.utils.flop_counter import FlopCounterMode

from dipfast.generators import SkipNet
from dipfast.generators.architecture import Architecture, Block, Head, Join, Level, architecture_of
from dipfast.generators.cost import forward_flops, parameter_count, tensor_elements
from dipfast.generators.folded import fold


def test_an_hourglass_is_its_levels_finest_first() -> None:
    config = generator_config(channels=(8, 12), up_channels=(6, 10), skip_channels=(0, 4), kernel_down=(5, 3))
    fine, coarse = architecture_of(config, 3).levels
    assert [level.branch and [block.outputs for block in level.branch] for level in (fine, coarse)] == [None, [4]]
    assert [(block.inputs, block.outputs, block.kernel) for block in fine.down] == [(8, 8, 5), (8, 8, 5)]
    assert [block.halvings for block in coarse.blocks] == [1, 2, 2, 1, 1]
    assert (fine.join, coarse.join) == (Join("bilinear", 10, 0), Join("bilinear", 12, 4))
    assert [block.name for block in coarse.blocks] == ["skip", "down1", "down2", "up", "pointwise"]


def test_a_filter_halves_after_a_convolution_at_full_size() -> None:
    strided, pooled = (architecture_of(generator_config(downsample=how), 3).levels[0].down for how in ("stride", "avg"))
    assert [(block.stride, block.filter, block.halvings) for block in strided] == [(2, None, 1), (1, None, 1)]
    assert [(block.stride, block.filter, block.halvings) for block in pooled] == [(1, "avg", 0), (1, None, 1)]


def test_a_level_in_phases_ends_in_pointwise_convolutions() -> None:
    level = architecture_of(generator_config(upsample="nearest"), 3).levels[0]
    up, pointwise = level.up
    assert level.in_phases
    assert not replace(level, up=(up, replace(pointwise, kernel=3))).in_phases
    assert not replace(level, up=(replace(up, pad="zero"), pointwise)).in_phases


block = partial(Block, kernel=3, pad="reflection", activation="relu", bias=False)


def u_net(upsample: str) -> Architecture:
    """Two levels that join their own inputs, with three and two blocks each way."""
    fine = Level(
        0,
        branch=(),
        down=(block("a", 8, 8, halvings=0), block("b", 8, 16, halvings=1, downsample="stride")),
        join=Join(upsample, 12, 8),
        up=(block("c", 20, 10, halvings=0), block("d", 10, 10, halvings=0)),
    )
    down = (
        block("a", 16, 16, halvings=1, downsample="max"),
        block("b", 16, 24, halvings=2),
        block("e", 24, 24, halvings=2),
    )
    coarse = Level(1, branch=(), down=down, join=Join(upsample, 24, 16), up=(block("c", 40, 12, halvings=1),))
    return Architecture(8, 1, (fine, coarse), Head(10, 3, sigmoid=True, ranged=False))


def decoder(upsample: str) -> Architecture:
    """Two levels that only go up, from a latent of a quarter of the picture's sides."""
    fine = Level(0, None, (), Join(upsample, 6, 0), (block("a", 6, 5, halvings=0, kernel=5),))
    coarse = Level(1, None, (), Join(upsample, 8, 0), (block("a", 8, 6, halvings=1),))
    return Architecture(8, 1, (fine, coarse), Head(5, 3, sigmoid=True, ranged=False))


@pytest.mark.parametrize(("family", "sides"), [(u_net, (16, 24)), (decoder, (4, 6))])
@pytest.mark.parametrize("upsample", ["bilinear", "nearest"])
def test_another_family_is_built_counted_and_folded_from_its_levels_alone(
    family: object, sides: tuple[int, int], upsample: str
) -> None:
    architecture: Architecture = family(upsample)  # type: ignore[operator]
    module, latent = SkipNet(architecture, seed=0), torch.randn(1, 8, *sides)
    assert parameter_count(architecture) == sum(parameter.numel() for parameter in module.parameters())
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        picture = module(latent)
    assert picture.shape == (1, 3, 16, 24)
    borders = 1.3 if upsample == "nearest" else 1  # phases are cut from a picture with its border
    counted, predicted = counter.get_total_flops(), forward_flops(architecture, 16 * 24)
    assert counted / borders <= predicted <= counted
    assert tensor_elements(architecture, 16 * 24)[1] == sum(
        level.join.channels * 16 * 24 / 4**level.halvings for level in architecture.levels
    )
    folded = fold(architecture, module.state_dict(), latent)
    np.testing.assert_allclose(folded(latent).numpy(), picture.numpy(), atol=2e-5)


@pytest.mark.parametrize("trunks", [1, 3])
def test_trunks_are_counted_each(trunks: int) -> None:
    architecture = architecture_of(generator_config(), 3, trunks=trunks)
    module = SkipNet(architecture, seed=0)
    assert parameter_count(architecture) == sum(parameter.numel() for parameter in module.parameters())
