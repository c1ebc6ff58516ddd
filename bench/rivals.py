"""Other authors' networks on the frontier: each from a checkout of their code that the user has.

None of their code is here: the network is imported from the checkout, and the loop around it is in our words, with
its authors' steps, rate and regulariser for denoising, and their way to choose what is returned. A fit runs in a
process of its own, in float32, and sees the damaged picture alone. The truth is looked at from outside, at every step,
while the clocks stand still.
"""

from __future__ import annotations

import copy
import importlib.util
import math
import multiprocessing as mp
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.flop_counter import FlopCounterMode

from dipfast.bench.peer import imported, original_steps
from dipfast.errors import UsageError

CURVE_EVERY = 50  # steps

Trajectory = Generator[Tensor, None, Tensor]  # the picture [1, C, H, W] behind each step; at its end, what is returned


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
    """Ulyanov et al. (CVPR 2018), `denoising.ipynb` for F16, cleaned: the average of the outputs behind the last step.

    The notebook's roll-back is left out. On a CPU its snapshot is the weights themselves, so that it does nothing.
    """
    return _last(islice(original_steps(checkout, seen, settings.channels), settings.steps))


def deep_decoder(checkout: Path, seen: Tensor, settings: Settings) -> Trajectory:
    """Heckel & Hand (ICLR 2019), `denoising.ipynb`: 1×1 convolutions over a fixed latent of a 32nd of the size.

    Adam at 0.01 on the mean square; returned is the picture of the weights with the lowest loss on the noisy picture,
    where lower means by half a per cent (`find_best`).
    """
    module = _file(checkout / "include" / "decoder.py")
    net = module.decodernw(seen.shape[1], num_channels_up=[settings.channels] * 5)
    latent = torch.rand(1, settings.channels, seen.shape[2] // 32, seen.shape[3] // 32) / 10
    return _lowest(net, latent, seen, settings.steps)


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

    return _last(_descend(lambda: net(norm(latent)), loss, learned, 0.1, settings.steps))


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
    return _rendered(net, latent, seen, settings.steps)


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
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, name, checkout, settings, seen, clean, seed, torch.get_num_threads())
    process = context.Process(target=_serve, args=arguments, daemon=True)
    process.start()
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        raise UsageError(f"--peer {name}={checkout}: its fit ended in an error, which stands above") from None
    finally:
        process.join()
    if isinstance(found, str):
        raise UsageError(found)
    return dict(found)


def _serve(connection: Connection, name: str, checkout: Path, settings: Settings, *rest: Any) -> None:
    try:
        connection.send(follow(name, checkout, settings, *rest))
    except UsageError as error:
        connection.send(str(error))


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
    truth, clock = torch.from_numpy(clean)[None], Clock()
    curve: list[tuple[int, float]] = []
    with FlopCounterMode(display=False) as counter:
        picture = next(trajectory)
    while True:
        curve.append((len(curve) + 1, float(-10 * mse_loss(picture.clamp(0, 1), truth).log10())))
        try:
            with clock:
                picture = next(trajectory)
        except StopIteration as end:
            image = end.value
            break
    number = len(curve)
    peak_step, peak = max(curve, key=lambda point: point[1])
    return {
        "image": image.detach().clamp(0, 1)[0].numpy(),
        "peak": peak,
        "peak_step": peak_step,
        "steps": number,
        "flops": counter.get_total_flops() * number,
        **{kind: seconds * number / max(1, number - 1) for kind, seconds in clock.seconds.items()},
        "why": "its authors' steps" if settings == RIVALS[name].settings else "the steps asked for",
        "curve": [point for point in curve if point[0] % CURVE_EVERY == 0],
    }


class Clock:
    """Seconds on the wall and of this process, over all the stretches of `with`."""

    def __init__(self) -> None:
        self.wall = self.processor = 0.0

    def __enter__(self) -> Clock:
        self.wall -= time.perf_counter()
        self.processor -= time.process_time()
        return self

    def __exit__(self, *error: object) -> None:
        self.wall += time.perf_counter()
        self.processor += time.process_time()

    @property
    def seconds(self) -> dict[str, float]:
        return {"seconds": self.wall, "processor_seconds": self.processor}


def _descend(
    forward: Callable[[], Tensor],
    loss: Callable[[Tensor], Tensor],
    learned: list[Tensor] | list[nn.Parameter],
    rate: float,
    steps: int,
) -> Iterator[Tensor]:
    """Adam; the output of each step, from before its update."""
    optimizer = torch.optim.Adam(learned, lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        output = forward()
        loss(output).backward()
        optimizer.step()
        yield output.detach()


def _plain(net: nn.Module, latent: Tensor, seen: Tensor, steps: int) -> Iterator[Tensor]:
    """All weights by the mean square, at 0.01."""
    return _descend(lambda: net(latent), lambda output: mse_loss(output, seen), [*net.parameters()], 0.01, steps)


def _last(pictures: Iterator[Tensor]) -> Trajectory:
    """Returns the last picture."""
    for picture in pictures:
        yield picture
    return picture


def _lowest(net: nn.Module, latent: Tensor, seen: Tensor, steps: int) -> Trajectory:
    """Returns the picture of the weights behind the step of the lowest loss."""
    least, kept = math.inf, net
    for picture in _plain(net, latent, seen, steps):
        loss = float(mse_loss(picture, seen))
        if least > 1.005 * loss:
            least, kept = loss, copy.deepcopy(net)
        yield picture
    return kept(latent)


def _rendered(net: nn.Module, latent: Tensor, seen: Tensor, steps: int) -> Trajectory:
    """Returns the picture of the last weights."""
    yield from _plain(net, latent, seen, steps)
    return net(latent)


def _file(path: Path) -> Any:
    """A module by its file: the package around it is not imported."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
