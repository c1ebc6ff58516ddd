"""A stored generator → its picture, on torch, onnxruntime or TensorRT.

The picture rendered is that of one generator, not the average over many outputs that a fit returns; a record's
`generator.parity_db` says how far apart the two are. On torch in fp32 the same generator gives the same bits on the
same device and number of threads; another backend gives them within its parity report.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dipfast.errors import UsageError
from dipfast.generators import Card, SkipNet, from_file, multiple, smallest_side
from dipfast.image import cut, pad
from dipfast.restoration.refinement import refined_again
from dipfast.tasks.range import Range

DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
BACKENDS = ("torch", "onnxruntime", "tensorrt")


@dataclass(frozen=True)
class FittedGenerator:
    """A generator with its weights and latent [1, D, H, W], and what they were fitted to."""

    module: SkipNet
    latent: Tensor
    card: Card

    def render(self, precision: str | None = None) -> np.ndarray:
        """The generator's picture as float32 [H, W] or [H, W, C] in [0, 1], at the size of the restored image.

        ``precision``: fp32, bf16, or None for that of the fit, fp32 where that is fp16. Raises UsageError for another.
        """
        own = self.card.precision if self.card.precision in DTYPES else "fp32"
        pixels = kept(self.picture(self.output(precision or own)), self.card.size).transpose(1, 2, 0)
        return np.ascontiguousarray(pixels[..., 0] if self.card.channels == 1 else pixels)

    def output(self, precision: str, latent: Tensor | None = None) -> np.ndarray:
        """What the network gives at ``latent`` [1, D, H', W'] or at its own: float32 [C, H', W'], nothing cut."""
        if precision not in DTYPES:
            raise UsageError(f"precision should be one of {', '.join(DTYPES)}, is {precision!r}")
        output: np.ndarray = self.card.output(self.module, self.latent, DTYPES[precision], latent)[0].numpy()
        return output

    def picture(self, output: np.ndarray) -> np.ndarray:  # [C, H', W'] -> the same
        """Return the picture that the fit kept, of what the network gives: refined, where the fit refined it."""
        return self._refined(self.latent, output)

    def denoised(self, picture: np.ndarray) -> np.ndarray:  # [C, H, W] in [0, 1] -> the same
        """Return another picture as the fitted denoiser gives it, refined where the fit refined its own.

        Raises UsageError for a network that is no denoiser, and for a picture with other channels.
        """
        if not self.card.frozen:
            raise UsageError("its network was fitted to one whole picture and denoises no other")
        if len(picture) != self.card.channels:
            raise UsageError(f"it is for pictures with {self.card.channels} channels, and this one has {len(picture)}")
        generator = self.card.generator
        padded = torch.from_numpy(pad(picture, multiple(generator), smallest_side(generator)))[None]
        seen = Range.of(self.module.low, self.module.width).to_unit(padded)
        return kept(self._refined(seen, self.output("fp32", seen)), picture.shape[1:])

    def _refined(self, noisy: Tensor, output: np.ndarray) -> np.ndarray:
        """Return the network's ``output`` in the full range, refined where it is to be."""
        if self.card.refine is None:
            return output
        range = Range.of(self.module.low, self.module.width)
        found = refined_again(noisy, range.of_full(torch.from_numpy(output)[None]), self.card.refine)
        picture: np.ndarray = range.to_full(found)[0].numpy()
        return picture


def load(path: Path | str) -> FittedGenerator:
    """A generator from a run's `generators/<id>.safetensors`. Raises UsageError for a file that is not one."""
    return FittedGenerator(*from_file(path))


def kept(output: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """[C, H', W'] as a network gives it to the picture [C, H, W] in [0, 1]."""
    return cut(output.clip(0, 1), *size)


def as_fitted(pixels: np.ndarray, channels: int) -> np.ndarray:
    """A picture [C, H, W] that a run kept, with the ``channels`` that were fitted: WebP has three for gray."""
    return pixels if len(pixels) == channels else pixels.mean(0, keepdims=True)


class Renderer(Protocol):
    """One backend. ``ran`` says what it really is, for records; `prepare` is what can be done ahead of `render`."""

    ran: dict[str, Any]

    def prepare(self, generator: FittedGenerator) -> Callable[[], np.ndarray]:
        """A call that renders: [C, H', W'] float32, nothing cut."""
        ...


class TorchRenderer:
    """The network itself, statistics and all, on the CPU."""

    def __init__(self, precision: str) -> None:
        if precision not in DTYPES:
            raise UsageError(f"--precision {precision}: torch renders in {', '.join(DTYPES)}")
        self.precision = precision
        self.ran: dict[str, Any] = {"backend": "torch", "version": torch.__version__, "device": "cpu"}

    def prepare(self, generator: FittedGenerator) -> Callable[[], np.ndarray]:
        return lambda: generator.output(self.precision)


class OnnxRenderer:
    """An export in memory, run by onnxruntime on one provider."""

    def __init__(self, precision: str, provider: str, threads: int | None = None) -> None:
        from dipfast.export.providers import runtime

        self.precision, self.provider, self.threads = precision, provider, threads
        self.ran: dict[str, Any] = {"backend": "onnxruntime", "version": runtime(provider).__version__}

    def prepare(self, generator: FittedGenerator) -> Callable[[], np.ndarray]:
        from dipfast.export.onnx import to_onnx

        state = generator.module.state_dict()
        model = to_onnx(state, generator.latent, generator.card, precision=self.precision, one_size=True)
        return self.model(model.SerializeToString())

    def model(self, data: bytes, picture: np.ndarray | None = None) -> Callable[[], np.ndarray]:
        """The same for a model that is exported already, at the picture that it holds or at ``picture`` [C, H, W]."""
        from dipfast.export.providers import Session

        session = Session(data, self.provider, self.threads)
        self.ran["device"] = session.provider
        return lambda: session.render(None if picture is None else picture[None])[0]


def renderer(
    backend: str,
    precision: str,
    provider: str,
    threads: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Renderer:
    """The backend of that name; ``threads`` are onnxruntime's on a CPU, by default all cores; ``say`` hears of builds.

    Raises UsageError for another name, MachineError where it cannot run here.
    """
    if backend == "torch":
        return TorchRenderer(precision)
    if backend == "onnxruntime":
        return OnnxRenderer(precision, provider, threads)
    if backend == "tensorrt":
        from dipfast.export.tensorrt import TensorRTRenderer

        return TensorRTRenderer(precision, say=say)
    raise UsageError(f"backend should be one of {', '.join(BACKENDS)}, is {backend!r}")
