"""What the settings of a generator and a fit come to in plain numbers: channels, sizes, and steps at smaller sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from dipfast.settings.fit import Fit, Sgld, Windows
from dipfast.settings.generator import FourierInput, ImageInput, Latent, MeshgridInput, SkipGenerator
from dipfast.settings.stop import AutoStop, FixedStop

GRID_STEPS = 4  # sizes of the grid from one power of two to the next
COARSEST = 64  # pixels, the least side of a picture that is fitted at half of its size first (LOG.md)
COARSE_SHARE = 0.1  # of a fit's steps at most, those at each smaller size (LOG.md)
MOST_HALVINGS = 2  # of a picture that is fitted on windows (LOG.md)
WINDOWS_COARSE = 40  # steps at each smaller size of a fit on windows (LOG.md)
PER_SCALE = ("channels", "up_channels", "skip_channels", "kernel_down", "kernel_up", "upsample")


def per_scale(generator: SkipGenerator) -> tuple[tuple[Any, ...], ...]:
    """Return the settings of `PER_SCALE`, each as one entry for each scale, finest first. None means as `channels`."""
    given = (getattr(generator, name) for name in PER_SCALE)
    values = (generator.channels if value is None else value for value in given)
    return tuple(value if isinstance(value, tuple) else (value,) * len(generator.channels) for value in values)


def latent_channels(latent: Latent, image_channels: int) -> int:
    """Return how many channels ``latent`` has for a picture of ``image_channels``."""
    match latent:
        case ImageInput():
            return image_channels + (0 if latent.noise is None else latent.noise.depth)
        case MeshgridInput():
            return 2
        case FourierInput():
            return 4 * latent.frequencies
    return latent.depth


def on_grid(fit: Fit) -> bool:
    """Return whether pictures are padded to a grid of sizes: as asked, or for an engine with a program a size."""
    return fit.shapes == "grid" or (fit.shapes == "auto" and fit.engine in ("compile", "cudagraph"))


def padded_side(side: int, multiple: int, grid: bool) -> int:
    """Return ``side`` grown to a multiple of ``multiple``; on the ``grid`` to 1 to 8, 10, 12, 14, 16, 20, … times it.

    From four on the grid has four sizes to a power of two, so that it adds less than a quarter to a side.
    """
    count = -(-side // multiple)
    if grid and count > GRID_STEPS:
        step = 2 ** ((count - 1).bit_length() - GRID_STEPS.bit_length())
        count = -(-count // step) * step
    return count * multiple


def multiple(generator: SkipGenerator) -> int:
    """Return what height and width must be multiples of: two to the number of scales."""
    return 2 ** len(generator.channels)


def smallest_side(generator: SkipGenerator) -> int:
    """Return the least height and width: the coarsest scale must exceed its padding, and have two pixels a side."""
    kernels: list[int] = []
    for value in (generator.kernel_down, generator.kernel_up, generator.kernel_skip):
        kernels += value if isinstance(value, tuple) else (value,)
    return multiple(generator) * max(2, (max(kernels) - 1) // 2 + 1)


def coarse_steps(generator: SkipGenerator, fit: Fit) -> int:
    """Return the steps at each smaller size that the picture is fitted at first: what `fit.coarse` comes to."""
    if fit.coarse != "auto":
        return fit.coarse
    if windows_of(generator, fit) is not None:
        return WINDOWS_COARSE
    if fit.engine == "compile":  # it takes half a minute for each size
        return 0
    latent = generator.input
    paired = isinstance(latent, ImageInput) and latent.recorrupt is not None and not isinstance(fit.optimizer, Sgld)
    return int(COARSE_SHARE * fit.steps) if paired else 0


def windows_of(generator: SkipGenerator, fit: Fit) -> Windows | None:
    """Return the windows that `fit.windows` comes to; None for a fit that sees the whole picture.

    Optional ones have at least two coarsest pixels a side, and give way to what forbids them.
    """
    windows, least = fit.windows, multiple(generator)
    if windows is None or not windows.optional:
        return windows
    if any(path[1:] != ("windows", "side") for path, _ in windows_refused(generator, fit)):
        return None
    return windows.model_copy(update={"side": max(2 * least, -(-windows.side // least) * least)})


def windows_refused(generator: SkipGenerator, fit: Fit) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what a fit on windows cannot have: it keeps no picture from step to step, and judges each by itself."""
    latent, scales = generator.input, len(generator.channels)
    if not isinstance(latent, ImageInput) or latent.blind is None:
        yield ("fit", "windows"), "fit.windows: should be null without generator.input.blind"
    if fit.windows is not None and fit.windows.side % 2**scales:
        text = f"should be a multiple of {2**scales}, for generator.channels has {scales} scales"
        yield ("fit", "windows", "side"), f"fit.windows.side: {text}, is {fit.windows.side}"
    if not isinstance(fit.stop, AutoStop | FixedStop):
        yield ("fit", "stop", "type"), f"fit.stop.type: should be fixed with fit.windows, is {fit.stop.type}"
    if isinstance(fit.optimizer, Sgld):
        yield ("fit", "windows"), "fit.windows: should be null with optimizer sgld, which samples pictures"


def window_grid(windows: Windows, height: int, width: int, all_of_them: bool) -> tuple[int, int]:
    """Return the rows and columns of windows that a step sees of a picture.

    They are as many as cover the picture. If that is more than there are, or ``all_of_them`` are asked for, so that
    pictures of all sizes share a program, they lie in a grid whose cells are nearest to squares.
    """
    rows, columns = (-(-length // windows.side) for length in (height, width))
    if rows * columns <= windows.count and not all_of_them:
        return rows, columns
    divisors = [number for number in range(1, windows.count + 1) if windows.count % number == 0]
    columns = min(divisors, key=lambda number: abs(math.log(width * windows.count / (height * number**2))))
    return windows.count // columns, columns


def with_fewer_windows(fit: Fit) -> Fit:
    """Return the settings of a fit at half of the size: with half as many windows."""
    if fit.windows is None:
        return fit
    return fit.model_copy(update={"windows": fit.windows.model_copy(update={"count": max(1, fit.windows.count // 2)})})


def fitted_pixels(generator: SkipGenerator, fit: Fit, sides: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield steps and the pixels that each of them sees: of the fit itself, then of those at smaller sizes."""
    coarse = coarse_steps(generator, fit)
    sizes = [sides, *(halves(generator, fit, sides) if coarse else [])]
    for number, (height, width) in enumerate(sizes):
        windows = windows_of(generator, fit)
        pixels = height * width
        if windows is not None:
            pixels = math.prod(window_grid(windows, height, width, on_grid(fit))) * windows.side**2
        yield coarse if number else fit.steps, pixels
        fit = with_fewer_windows(fit)


def halves(generator: SkipGenerator, fit: Fit, sides: tuple[int, int]) -> list[tuple[int, int]]:
    """Return the smaller sizes at which a picture of ``sides`` can be fitted first, each about half the one before."""
    on_windows = windows_of(generator, fit)
    found: list[tuple[int, int]] = []
    least = max(COARSEST if on_windows is None else on_windows.side, smallest_side(generator))
    while min(sides) >= 2 * least and (on_windows is None or len(found) < MOST_HALVINGS):
        sides = (
            padded_side(-(-sides[0] // 2), multiple(generator), False),
            padded_side(-(-sides[1] // 2), multiple(generator), False),
        )
        found.append(sides)
    return found
