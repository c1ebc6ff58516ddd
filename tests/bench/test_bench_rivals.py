"""Other authors' networks on the frontier, with stand-ins of a few lines for their checkouts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cases import parse_damage, settings_of
from contenders import need_peers, parse_contender, parse_peer, rival_settings
from dipfast.errors import UsageError
from dipfast.metrics import psnr
from frontier import bench_frontier
from rivals import RIVALS, Settings, compete, follow

Checkouts = dict[str, Path]
Pair = tuple[np.ndarray, np.ndarray]  # what is seen and the truth, [3, 32, 32]

REFUSES = "raise ImportError('torchvision')\n"
DECODER = """
from torch import nn
def decodernw(outputs, num_channels_up):
    k = num_channels_up[0]
    return nn.Sequential(nn.Conv2d(k, outputs, 1), nn.Upsample(scale_factor=2 ** len(num_channels_up)), nn.Sigmoid())
"""
FILES = {
    "original": {
        "models/__init__.py": "",
        "models/skip.py": """
from torch import nn
def skip(inputs, outputs, num_channels_down, **settings):
    return nn.Sequential(nn.Conv2d(inputs, num_channels_down[0], 1), nn.Conv2d(num_channels_down[0], outputs, 1))
""",
    },
    "deep-decoder": {"include/__init__.py": REFUSES, "include/decoder.py": DECODER},
    "deep-random-projector": {
        "1_Denoising/models/skip.py": "",
        "1_Denoising/models/__init__.py": """
import copy
from torch import nn
def get_net(inputs, kind, pad, upsample_mode, n_channels, skip_n33d, **settings):
    global built, before
    k = skip_n33d
    built = nn.Sequential(nn.Conv2d(inputs, k, 1), nn.BatchNorm2d(k), nn.Conv2d(k, n_channels, 1))
    before = copy.deepcopy(built.state_dict())
    return built
""",
    },
    "deepinv": {
        "deepinv/__init__.py": REFUSES,
        "deepinv/models/__init__.py": REFUSES,
        "deepinv/utils/__init__.py": REFUSES,
        "deepinv/models/utils.py": "from deepinv.utils.io import DownloadError\nfrom torch.nn import Conv2d as conv\n",
        "deepinv/models/dip.py": """
from torch import nn
from .utils import conv
class ConvDecoder(nn.Sequential):
    def __init__(self, img_size, in_size, channels):
        super().__init__(nn.Upsample(size=img_size[1:]), conv(channels, img_size[0], 1))
""",
    },
}


@pytest.fixture
def checkouts(tmp_path: Path) -> Iterator[Checkouts]:
    for name, files in FILES.items():
        for file, text in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    yield {name: tmp_path / name for name in FILES}
    for name in [name for name in sys.modules if name.split(".")[0] in ("models", "deepinv")]:
        del sys.modules[name]


@pytest.fixture
def pair() -> Pair:
    y, x = np.mgrid[0:32, 0:32] / 31
    clean = np.stack((x, y, 1 - x)).astype(np.float32)
    noise = np.random.default_rng(0).normal(0, 0.1, clean.shape)
    return np.clip(clean + noise, 0, 1).astype(np.float32), clean


@pytest.mark.parametrize("name", list(RIVALS))
def test_a_rival_takes_its_steps_and_is_measured(name: str, checkouts: Checkouts, pair: Pair) -> None:
    seen, clean = pair
    found = follow(name, checkouts[name], Settings(100, 4), seen, clean, seed=0, threads=torch.get_num_threads())
    assert found["image"].shape == (3, 32, 32) and found["image"].min() >= 0 and found["image"].max() <= 1
    assert (found["steps"], found["why"]) == (100, "the steps asked for")
    assert [step for step, _ in found["curve"]] == [50, 100] and found["peak"] >= found["curve"][0][1]
    assert found["flops"] > 0 and found["flops"] % 100 == 0 and found["processor_seconds"] > 0
    again, other = (
        follow(name, checkouts[name], Settings(100, 4), seen, clean, seed, torch.get_num_threads()) for seed in (0, 1)
    )
    assert np.array_equal(found["image"], again["image"]) and not np.array_equal(found["image"], other["image"])


def test_operations_are_those_of_forward_and_backward(checkouts: Checkouts, pair: Pair) -> None:
    name = "original"
    found = follow(name, checkouts[name], Settings(3, 4), *pair, seed=0, threads=torch.get_num_threads())
    first, second = 2 * 32 * 4 * 32 * 32, 2 * 4 * 3 * 32 * 32  # of one pass; the latent needs no gradient
    assert found["flops"] == 3 * (2 * first + 3 * second)


def test_the_original_returns_the_average_and_deepinv_the_picture_of_its_last_weights(
    checkouts: Checkouts, pair: Pair
) -> None:
    for name, same in (("original", True), ("deepinv", False)):
        found = follow(name, checkouts[name], Settings(50, 4), *pair, seed=0, threads=torch.get_num_threads())
        returned = psnr(found["image"], pair[1])
        assert (returned == pytest.approx(found["curve"][-1][1], abs=1e-3)) is same


def test_the_decoder_returns_the_weights_of_the_lowest_loss(checkouts: Checkouts, pair: Pair) -> None:
    (checkouts["deep-decoder"] / "include" / "decoder.py").write_text("""
import torch
from torch import nn
class Net(nn.Module):
    calls, levels = 0, (0.9, 0.5, 0.2, 0.8, 0.7)  # 0.5 is nearest; a copy from behind it answers 0.2
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
    def forward(self, latent):
        self.calls += 1
        return torch.full((1, 3, 32, 32), self.levels[self.calls - 1]) + 0 * self.weight
def decodernw(outputs, num_channels_up):
    return Net()
""")
    settings = Settings(4, 4)
    found = follow("deep-decoder", checkouts["deep-decoder"], settings, *pair, 0, torch.get_num_threads())
    assert np.allclose(found["image"], 0.2)


def test_the_projectors_convolutions_stay_as_they_were_drawn(checkouts: Checkouts, pair: Pair) -> None:
    name = "deep-random-projector"
    follow(name, checkouts[name], Settings(5, 4), *pair, seed=0, threads=torch.get_num_threads())
    models = sys.modules["models"]
    moved = {key for key, value in models.built.named_parameters() if not torch.equal(value, models.before[key])}
    assert moved == {"1.weight", "1.bias"}


def test_a_rival_fits_in_a_process_of_its_own_on_the_frontier(checkouts: Checkouts) -> None:
    contenders = [parse_contender("few: deep-decoder steps=4 channels=8")]
    peers = {"deep-decoder": checkouts["deep-decoder"]}
    result = bench_frontier(contenders, ["sample:astronaut"], ["jpeg:10", "gaussian:25"], crop=32, peers=peers)
    (row,) = result["rows"]  # it denoises, and does nothing for the other damage
    assert (row["contender"], row["damage"], row["steps"]) == ("few", "gaussian:25", 4)
    assert not any(name.startswith("include") for name in sys.modules)


def test_what_is_no_checkout_or_cannot_be_imported_is_refused(checkouts: Checkouts, pair: Pair) -> None:
    with pytest.raises(UsageError, match=r"--peer original=.*deepinv: should be a checkout with models/skip\.py"):
        compete("original", checkouts["deepinv"], Settings(1, 4), *pair, seed=0)
    (checkouts["original"] / "models" / "skip.py").write_text(REFUSES)
    with pytest.raises(UsageError, match=r"original: cannot be imported \(torchvision\)"):
        compete("original", checkouts["original"], Settings(1, 4), *pair, seed=0)


def test_fasterdips_net_is_a_line_of_settings() -> None:
    contender = parse_contender("faster-dip generator.channels=[32,32] fit.steps=7")
    asked = settings_of(parse_damage("gaussian:25")[1], contender.preset, contender.sets, seed=0, crop=32)
    config, plan = asked.generator, asked.fit
    assert (config.channels, config.skip_channels, config.activation) == ((32, 32), 0, "relu")
    assert (config.pad, config.upsample, config.input.depth) == ("zero", "bilinear", 64)
    assert (plan.steps, plan.optimizer.lr, plan.average, plan.rollback_db) == (7, 0.01, 0.99, None)


def test_rivals_are_named_with_steps_channels_and_a_checkout() -> None:
    few = parse_contender("deepinv channels=64 steps=9")
    assert rival_settings(few) == Settings(9, 64)
    assert rival_settings(parse_contender("original")) == RIVALS["original"].settings
    for bad in ("deepinv lr=1", "deepinv steps=0", "original steps"):
        with pytest.raises(UsageError, match="should have steps=N and channels=N alone"):
            parse_contender(bad)
    assert parse_peer("deepinv=a=b") == ("deepinv", Path("a=b"))
    for bad in ("deepinv", "somebody=DIR"):
        with pytest.raises(UsageError, match="--peer should be NAME=DIR"):
            parse_peer(bad)
    with pytest.raises(UsageError, match=r"needs --peer deepinv=DIR, which has deepinv/models/dip\.py"):
        need_peers([few], {"original": Path()})
