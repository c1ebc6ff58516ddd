"""Other authors' networks on the frontier: each from a checkout of their code that the user has.

None of their code is here: the network is imported from the checkout, and the loop around it is in our words, with
its authors' steps, rate and regulariser for denoising, and their way to choose what is returned. A fit runs in a
process of its own, in float32, and sees the damaged picture alone. The truth is looked at from outside, at every step,
while the clocks stand still.
"""

from __future__ import annotations

import copy
import math
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from dipfast.bench.peer import imported, original_steps
from dipfast.errors import UsageError
from watch import Clock, peak_of, quality

Trajectory = Generator[Tensor, None, Tensor]  # the picture [1, C, H, W] after each step; at its end, what is returned


@dataclass(frozen=True)
class Settings:
    """What of a rival may be changed: `steps=N`, `channels=N`."""

    steps: int
    channels: int


@dataclass(frozen=True)
class Rival:
    """A network, and how its authors denoise with it."""

    lay_out: Callable[[Path, Tensor, Settings], Trajectory]  # checkout, picture seen [1, C, H, W]
    settings: Settings  # its authors'
    marker: str  # the file of a checkout that is needed


def original(checkout: Path, seen: Tensor, settings: Settings) -> Trajectory:
    """Ulyanov et al. (CVPR 2018), `denoising.ipynb` for F16, cleaned: the average of the outputs after the last step.

    The notebook's roll-back is left out. On a CPU its snapshot is the weights themselves, so that it does nothing.
    """
    for picture in islice(original_steps(checkout, seen, settings.channels), settings.steps):
        yield picture
    return picture


def deep_decoder(checkout: Path, seen: Tensor, settings: Settings) -> Trajectory:
    """Heckel & Hand (ICLR 2019), `denoising.ipynb`: 1×1 convolutions over a fixed latent of a 32nd of the size.

    Adam at 0.01 on the mean square; returned is the picture of the weights with the lowest loss on the noisy picture,
    where lower means by half a per cent (`find_best`).
    """
    module = run_path(str(checkout / "include" / "decoder.py"))  # the package around it is not imported
    net = module["decodernw"](seen.shape[1], num_channels_up=[settings.channels] * 5)
    latent = torch.rand(1, settings.channels, seen.shape[2] // 32, seen.shape[3] // 32) / 10
    least, kept = math.inf, net
    for picture in _by_mean_square(net, latent, seen, settings.steps):
        loss = float(mse_loss(picture, seen))
        if least > 1.005 * loss:
            least, kept = loss, copy.deepcopy(net)
        yield picture
    return kept(latent)


def deep_random_projector(checkout: Path, seen: Tensor, settings: Settings) -> Trajectory:
    """Li et al. (CVPR 2023), `1_Denoising`: one scale of frozen random convolutions; latent and normalisations learn.

    Adam at 0.1 on the root of the mean square with 0.45 of the mean total variation. It knows no stop: the variation
    is there to make one needless, and the last output is returned.
    """
    module, channels = imported(checkout / "1_Denoising", "models"), settings.channels
    sizes = {"skip_n33d": channels, "skip_n33u": channels, "skip_n11": 4, "num_scales": 1}
    net = module.get_net(seen.shape[1], "skip", "reflection", "bilinear", n_channels=seen.shape[1], **sizes)
    for layer in net.modules():
        layer.requires_grad_(not isinstance(layer, nn.Conv2d))
    latent, norm = (torch.randn_like(seen) / 10).requires_grad_(), nn.BatchNorm2d(seen.shape[1])
    learned = [latent, *norm.parameters(), *(p for p in net.parameters() if p.requires_grad)]

    def loss(output: Tensor) -> Tensor:
        variation = sum(output.diff(dim=axis).abs().sum() for axis in (2, 3)) / output.numel()
        return mse_loss(output, seen).sqrt() + 0.45 * variation

    for picture in _descend(lambda: net(norm(latent)), loss, learned, 0.1, settings.steps):
        yield picture
    return picture


def deepinv(checkout: Path, seen: Tensor, settings: Settings) -> Trajectory:
    """deepinv's `DeepImagePrior` over `ConvDecoder` (Darestani & Heckel, 2021), by default: the last weights' picture.

    Of it only `models/dip.py`, `base.py` and `utils.py` are imported, since other parts ask for torchvision: its
    packages' `__init__` are left out, and in place of `utils/io.py` stands an empty module with its error. Needs tqdm.
    """
    bare = ("deepinv", "deepinv.models", "deepinv.utils")
    sys.modules["deepinv.utils.io"] = stand_in = ModuleType("deepinv.utils.io")
    stand_in.__dict__["DownloadError"] = OSError
    module = imported(checkout, "deepinv.models.dip", bare)
    net = module.ConvDecoder(tuple(seen.shape[1:]), in_size=(4, 4), channels=settings.channels)
    latent = torch.randn(1, settings.channels, 4, 4)
    yield from _by_mean_square(net, latent, seen, settings.steps)
    return net(latent)


RIVALS: Mapping[str, Rival] = {
    "original": Rival(original, Settings(3000, 128), "models/skip.py"),
    "deep-decoder": Rival(deep_decoder, Settings(1900, 128), "include/decoder.py"),
    "deep-random-projector": Rival(deep_random_projector, Settings(5001, 64), "1_Denoising/models/skip.py"),
    "deepinv": Rival(deepinv, Settings(2500, 256), "deepinv/models/dip.py"),
}


def compete(
    name: str,
    checkout: Path,
    settings: Settings,
    seen: np.ndarray,  # [C, H, W] float32 in [0, 1]
    clean: np.ndarray,  # likewise
    seed: int,
) -> dict[str, Any]:
    """What the rival returns (`image` [C, H, W]), its costs and its trajectory, from a process of its own.

    Raises UsageError where ``checkout`` is none of this rival, or its code cannot be imported or ends in an error.
    """
    if not (checkout / RIVALS[name].marker).is_file():
        raise UsageError(f"--peer {name}={checkout}: should be a checkout with {RIVALS[name].marker}, and has none")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        try:
            return pool.submit(follow, name, checkout, settings, seen, clean, seed, torch.get_num_threads()).result()
        except UsageError:
            raise
        except Exception:
            traceback.print_exc()
            raise UsageError(f"--peer {name}={checkout}: its fit ended in an error, which stands above") from None


def follow(
    name: str, checkout: Path, settings: Settings, seen: np.ndarray, clean: np.ndarray, seed: int, threads: int = 1
) -> dict[str, Any]:
    """What `compete` gives, in this process.

    The first step tells the operations of all; with what it imports and lays out it stands for no time, and is taken to
    last as long as the others.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    trajectory = RIVALS[name].lay_out(checkout, torch.from_numpy(seen)[None], settings)
    truth, clock, image = torch.from_numpy(clean)[None], Clock(), None
    curve: list[tuple[int, float]] = []
    with FlopCounterMode(display=False) as counter:
        picture = next(trajectory)
    while image is None:
        curve.append((len(curve) + 1, quality(picture.clamp(0, 1), truth)))
        try:
            with clock:
                picture = next(trajectory)
        except StopIteration as end:
            image = end.value
    number = len(curve)
    return {
        "image": image.detach().clamp(0, 1)[0].numpy(),
        "steps": number,
        "flops": counter.get_total_flops() * number,
        **{kind: seconds * number / max(1, number - 1) for kind, seconds in clock.seconds.items()},
        "why": "its authors' steps" if settings == RIVALS[name].settings else "the steps asked for",
        **peak_of(curve),
    }


def _descend(
    forward: Callable[[], Tensor], loss: Callable[[Tensor], Tensor], learned: list[Any], rate: float, steps: int
) -> Iterator[Tensor]:
    """Adam; the output of each step, from before its update."""
    optimizer = torch.optim.Adam(learned, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        output = forward()
        loss(output).backward()
        optimizer.step()
        yield output.detach()


def _by_mean_square(net: nn.Module, latent: Tensor, seen: Tensor, steps: int) -> Iterator[Tensor]:
    """All weights, at 0.01."""
    return _descend(lambda: net(latent), lambda output: mse_loss(output, seen), [*net.parameters()], 0.01, steps)
