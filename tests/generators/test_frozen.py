"""Frozen statistics: those of the picture or of a sample of it, and tiles that meet without a seam."""

from __future__ import annotations

import pytest
import torch
from conftest import generator_config
from torch import Tensor

from dipfast import generators
from dipfast.generators import frozen
from dipfast.generators.architecture import architecture_of
from dipfast.generators.frozen import freeze, reach, render, sample

CONFIG = generator_config(channels=(8, 8, 8), upsample="nearest", input={"type": "image", "blind": 0.1})
ARCHITECTURE = architecture_of(CONFIG, 3)


def shown(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    smooth = torch.stack((rows / height, columns / width, ((rows + columns) % 7) / 7))[None]
    return smooth + 0.1 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(0))


def test_small_picture_is_rendered_as_the_generator_does() -> None:
    module, picture = generators.build(CONFIG, 3, seed=1), shown(48, 64)
    net = freeze(ARCHITECTURE, module.state_dict(), picture)
    with torch.no_grad():
        torch.testing.assert_close(render(net, ARCHITECTURE, picture), module(picture), atol=2e-6, rtol=0)


@pytest.mark.parametrize("changes", [{}, {"upsample": "bilinear"}, {"kernel_down": 5, "pad": "zero"}])
def test_tiles_meet_without_a_seam(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    config = CONFIG.model_copy(update=changes)
    architecture = architecture_of(config, 3)
    module, picture = generators.build(config, 3, seed=1), shown(160, 216)
    net = freeze(architecture, module.state_dict(), picture)
    whole = render(net, architecture, picture)
    monkeypatch.setattr(frozen, "TILE", 48)
    torch.testing.assert_close(render(net, architecture, picture), whole, atol=1e-6, rtol=0)


def test_no_pixel_beyond_the_reach_matters() -> None:
    module, picture = generators.build(CONFIG, 3, seed=1), shown(160, 160)
    net = freeze(ARCHITECTURE, module.state_dict(), picture)
    changed = picture.clone()
    changed[..., 80:, :] = 0
    differs = (net(picture) - net(changed)).abs().amax((0, 1, 3)) > 0
    assert not bool(differs[: 80 - reach(ARCHITECTURE)].any())
    assert bool(differs[76])


def test_sample_of_a_large_picture_is_spread_over_it() -> None:
    rows, columns = torch.meshgrid(torch.arange(512.0), torch.arange(1024.0), indexing="ij")
    found = sample(torch.stack((rows, columns))[None], 8)
    assert found.shape[1:] == (2, 64, 64)
    assert found.shape[0] * 64 * 64 <= frozen.SAMPLED * 1.1
    corners = found[:, :, 0, 0]
    assert len(corners[:, 0].unique()) > 1
    assert corners[:, 1].max() - corners[:, 1].min() > 512
    assert not bool((corners % 8).any())


def test_picture_that_is_small_is_its_own_sample() -> None:
    picture = shown(64, 64)
    assert sample(picture, 8) is picture
