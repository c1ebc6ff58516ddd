"""The original authors' network, from a checkout that the user has, stepped as their notebook steps it.

None of their code is here: `models.skip` is imported from the checkout, and the two loops below do the same work in
our words. `own loop` copies the output and all parameters to the host at every step and measures three PSNRs, as the
denoising notebook does; `cleaned loop` does neither.
"""

from __future__ import annotations

import importlib
import multiprocessing as mp
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dipfast.errors import UsageError

Loop = Callable[[int], None]


def peer_loops(checkout: Path, picture: Tensor, device: torch.device) -> list[tuple[str, Loop]]:
    """The cleaned and the notebook's loop over the original network on ``picture`` [3, H, W], in float32.

    Each runs in a process of its own, as its user would run it: what dipfast sets for its own process does not help it.
    Raises UsageError where ``checkout`` has no `models/skip.py` that can be imported.
    """
    if not (checkout / "models" / "skip.py").is_file():
        raise UsageError(f"--peer {checkout}: should be a checkout of deep-image-prior, and has no models/skip.py")
    loops = (("original, cleaned loop", False), ("original, own loop", True))
    return [(name, _remote(checkout, picture, str(device), watched)) for name, watched in loops]


def _remote(checkout: Path, picture: Tensor, device: str, watched: bool) -> Loop:
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    arguments = (theirs, checkout, picture.numpy(), device, watched, torch.get_num_threads())
    context.Process(target=_serve, args=arguments, daemon=True).start()
    theirs.close()

    def run(count: int) -> None:
        ours.send(count)
        problem = ours.recv()
        if problem is not None:
            raise UsageError(problem)

    return run


def _serve(
    connection: Connection, checkout: Path, picture: np.ndarray, device: str, watched: bool, threads: int
) -> None:
    """Take as many steps as each message says, answering None, or what is wrong with the checkout."""
    torch.set_num_threads(threads)
    try:
        run = _loop(checkout, torch.from_numpy(picture).to(device)[None], watched)
    except UsageError as error:
        connection.recv()
        connection.send(str(error))
        return
    with suppress(EOFError):
        while True:
            run(connection.recv())
            if device != "cpu":
                torch.cuda.synchronize()
            connection.send(None)


def imported(checkout: Path, module: str, bare: Sequence[str] = ()) -> Any:
    """``module`` of ``checkout``. The packages named ``bare`` are set in place without running their `__init__`.

    Raises UsageError where it cannot be imported.
    """
    for package in bare:
        sys.modules[package] = ModuleType(package)
        sys.modules[package].__path__ = [str(checkout.joinpath(*package.split(".")))]
    sys.path.insert(0, str(checkout))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # docstrings with bare backslashes
            return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(f"--peer {checkout}: cannot be imported ({error})") from None
    finally:
        sys.path.remove(str(checkout))


def _loop(checkout: Path, target: Tensor, watched: bool) -> Loop:
    torch.manual_seed(0)
    steps = original_steps(checkout, target, watched=watched)

    def run(count: int) -> None:
        for _ in range(count):
            next(steps)

    return run


def original_steps(
    checkout: Path,
    target: Tensor,  # [1, C, H, W]
    channels: int = 128,
    watched: bool = False,
) -> Iterator[Tensor]:
    """The original network for denoising, laid out; then at each step the average [1, C, H, W] of its outputs."""
    widths = {"num_channels_down": [channels] * 5, "num_channels_up": [channels] * 5, "num_channels_skip": [4] * 5}
    build = imported(checkout, "models.skip").skip
    net = build(32, target.shape[1], **widths, upsample_mode="bilinear", pad="reflection").to(target.device)
    latent = torch.rand(1, 32, *target.shape[2:], device=target.device) * 0.1
    return _steps(net, latent, target, watched)


def _steps(net: nn.Module, latent: Tensor, target: Tensor, watched: bool) -> Iterator[Tensor]:
    """Adam at 0.01 on the mean square, jitter of 1/30, EMA of 0.99 from the first output on."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    noise, average, kept = torch.empty_like(latent), None, []
    while True:
        optimizer.zero_grad()
        output = net(latent + noise.normal_() / 30)
        average = output.detach() if average is None else average * 0.99 + output.detach() * 0.01
        loss = nn.functional.mse_loss(output, target)
        loss.backward()
        if watched:
            pictures = (output.detach().cpu(), output.detach().cpu(), average.detach().cpu())
            scores = [-10 * (picture.double() - target.cpu()).square().mean().log10() for picture in pictures]
            kept = [parameter.detach().cpu() for parameter in net.parameters()]
            print(f"{loss.item():.6f} {scores} {len(kept)}", file=_NOWHERE)
        optimizer.step()
        yield average


class _Nowhere:
    def write(self, text: str) -> None:
        pass


_NOWHERE = _Nowhere()
