"""TensorRT 11, where it is installed: one engine for an architecture, shape and precision, refitted for each generator.

The network is strongly typed: its precision is that of the ONNX graph, and TF32 is switched off. An engine is built
once, kept with a timing cache, and given each generator's weights by their names in milliseconds; after each refit its
picture is held against the folded network in PyTorch. An engine of another TensorRT, GPU, driver, architecture, shape
or precision has another key and is never used, and neither is a file that is not what was written.

Tested against a fake and against the names in the published bindings; no GPU has run it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dipfast.errors import MachineError
from dipfast.export import parity
from dipfast.export.engine import Gpu, Key, Say, bindings, build, cache_folder
from dipfast.export.onnx import to_onnx
from dipfast.files import sha256_of, write_atomic
from dipfast.generators import Card
from dipfast.generators.folded import FoldedNet


class Engine:
    """A refittable engine with buffers for one picture."""

    def __init__(self, trt: Any, gpu: Gpu, plan: bytes, key: Key) -> None:
        self.trt, self.gpu, self.key = trt, gpu, key
        self.logger = trt.Logger(trt.Logger.WARNING)
        self.runtime = trt.Runtime(self.logger)  # has to live as long as its engines
        self.engine = self.runtime.deserialize_cuda_engine(plan)
        if self.engine is None:
            raise MachineError("TensorRT cannot load the engine; see its messages above")
        self.context = self.engine.create_execution_context()
        self.latent = torch.zeros(1, *key.latent, device=gpu.device)
        self.image = torch.zeros(1, key.channels, *key.latent[1:], device=gpu.device)
        self.context.set_input_shape("latent", tuple(self.latent.shape))
        self.context.set_tensor_address("latent", self.latent.data_ptr())
        self.context.set_tensor_address("image", self.image.data_ptr())

    def refit(self, weights: Mapping[str, Tensor]) -> None:
        """Give the engine ``weights``, by name. Raises MachineError where one is unknown or another is missing.

        Constants of the graph are refittable too; all generators of an architecture share them.
        """
        refitter = self.trt.Refitter(self.engine, self.logger)
        odd = sorted(set(weights) - set(refitter.get_all_weights()))
        if odd:
            raise MachineError(f"TensorRT's refittable weights are not the generator's: {', '.join(odd[:4])}")
        kinds = {torch.float32: self.trt.DataType.FLOAT, torch.float16: self.trt.DataType.HALF}
        held = {name: value.contiguous().to(self.gpu.device) for name, value in weights.items()}
        for name, value in held.items():
            given = self.trt.Weights(kinds[value.dtype], value.data_ptr(), value.numel())
            if not refitter.set_named_weights(name, given, self.trt.TensorLocation.DEVICE):
                raise MachineError(f"TensorRT does not take the weights {name}")
        if refitter.get_missing_weights() or not refitter.refit_cuda_engine_async(self.gpu.stream()):
            raise MachineError(f"TensorRT's refit is not complete: {refitter.get_missing_weights()} are missing")
        self.gpu.wait()  # before `held` goes

    def run(self, latent: Tensor) -> np.ndarray:
        """Render ``latent`` [1, D, H, W] to a picture [C, H, W] float32."""
        self.latent.copy_(latent)
        if not self.context.execute_async_v3(self.gpu.stream()):
            raise MachineError("TensorRT could not run its engine; see its messages above")
        self.gpu.wait()
        picture: np.ndarray = self.image[0].cpu().numpy()
        return picture


def run_stored(plan: bytes, key: Key, latent: Tensor, gpu: Gpu | None = None) -> tuple[np.ndarray, dict[str, Any]]:
    """Run an engine as it was exported: its picture [C, H, W], and what ran it.

    Raises MachineError where TensorRT is missing, or GPU, driver or version are not those that it was built for.
    """
    trt, gpu = bindings(), gpu or Gpu()
    here = {"tensorrt": trt.__version__, **gpu.facts()}
    other = [f"{name} {getattr(key, name)}, not {value}" for name, value in here.items() if getattr(key, name) != value]
    if other:
        raise MachineError(f"the engine was built for {'; '.join(other)}: export it again on this machine")
    picture = Engine(trt, gpu, plan, key).run(latent)
    return picture, {"backend": "tensorrt", "version": trt.__version__, **gpu.facts()}


@dataclass(frozen=True)
class Folded:
    """A generator, and itself folded."""

    state: Mapping[str, Tensor]
    latent: Tensor
    card: Card
    net: FoldedNet


class TensorRTRenderer:
    """A `dipfast.render.generator.Renderer` on refitted engines, one for each architecture and shape."""

    def __init__(
        self,
        precision: str,
        folder: Path | None = None,
        gpu: Gpu | None = None,
        say: Say = lambda line: None,
    ) -> None:
        if precision not in ("fp32", "fp16"):
            raise MachineError(f"--precision {precision}: TensorRT engines are of fp32 or fp16")
        self.trt = bindings()
        self.gpu, self.precision, self.folder = gpu or Gpu(), precision, folder or cache_folder()
        self.say, self.engines = say, dict[Key, Engine]()
        self.built = 0
        self.ran: dict[str, Any] = {"backend": "tensorrt", "version": self.trt.__version__, **self.gpu.facts()}

    def prepare(self, generator: Any) -> Callable[[], np.ndarray]:
        """Fold ahead; the call refits, renders, and proves the picture. Raises GateError then."""
        one = self.fold(generator.module.state_dict(), generator.latent, generator.card)

        def run() -> np.ndarray:
            picture, found = self.render(one)
            parity.check(found, parity.required(self.precision, None), f"{one.card.id} on TensorRT")
            return picture

        return run

    def fold(self, state: Mapping[str, Tensor], latent: Tensor, card: Card) -> Folded:
        """Do all that can be done before the GPU is free."""
        return Folded(state, latent, card, card.folded(state, latent))

    def render(self, one: Folded) -> tuple[np.ndarray, dict[str, Any]]:
        """Refit and run: the picture [C, H, W], and how it agrees with the folded network in PyTorch."""
        engine = self.engine(one)
        exact = one.net.to(self.gpu.device)
        engine.refit(_typed(exact, self.precision))
        picture = engine.run(one.latent)
        return picture, parity.agreement(picture, self._wanted(one))

    def plan(self, one: Folded) -> tuple[bytes, dict[str, Any]]:
        """The engine refitted, as a file has it, and how it agrees once it is loaded again."""
        self.render(one)
        engine = self.engine(one)
        data = bytes(engine.engine.serialize())
        picture = Engine(self.trt, self.gpu, data, engine.key).run(one.latent)
        return data, parity.agreement(picture, self._wanted(one))

    def _wanted(self, one: Folded) -> np.ndarray:
        with self.gpu.exact():
            picture: np.ndarray = one.net.to(self.gpu.device)(one.latent.to(self.gpu.device))[0].cpu().numpy()
        return picture

    def key(self, one: Folded) -> Key:
        """Return the key of the engine for such a generator on this machine."""
        return Key(
            tensorrt=self.trt.__version__,
            **self.gpu.facts(),
            architecture=json.dumps(one.card.generator_json, sort_keys=True),
            latent=tuple(one.latent.shape[1:]),
            channels=one.card.channels,
            precision=self.precision,
        )

    def engine(self, one: Folded) -> Engine:
        """Return the engine for a generator like this one: at hand, on disk, or built now."""
        key = self.key(one)
        if key not in self.engines:
            self.engines[key] = self._loaded(key) or self._built(key, one)
        return self.engines[key]

    def _loaded(self, key: Key) -> Engine | None:
        """Load the engine from disk, where it is whole and TensorRT takes it."""
        plan = self._stored(key)
        try:
            return None if plan is None else Engine(self.trt, self.gpu, plan, key)
        except MachineError:
            return None

    def _built(self, key: Key, one: Folded) -> Engine:
        model = to_onnx(one.state, one.latent, one.card, precision=self.precision, one_size=True)
        del model.graph.initializer[[t.name for t in model.graph.initializer].index("latent")]
        plan = build(self.trt, model.SerializeToString(), key, self.folder, self.say)
        self._store(key, plan)
        self.built += 1
        return Engine(self.trt, self.gpu, plan, key)

    def _stored(self, key: Key) -> bytes | None:
        """Return the plan of ``key``, where it is whole and says that it is for ``key``."""
        plan, about = (self.folder / f"{key.name}.{ending}" for ending in ("plan", "json"))
        try:
            facts = json.loads(about.read_bytes())
            whole = facts["sha256"] == sha256_of(plan) and facts["key"] == json.loads(json.dumps(asdict(key)))
            return plan.read_bytes() if whole else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _store(self, key: Key, plan: bytes) -> None:
        write_atomic(self.folder / f"{key.name}.plan", plan)
        facts = {"sha256": hashlib.sha256(plan).hexdigest(), "key": asdict(key)}
        write_atomic(self.folder / f"{key.name}.json", json.dumps(facts).encode())


def _typed(net: FoldedNet, precision: str) -> dict[str, Tensor]:
    """Return the weights of a float32 network in the dtypes that the graph of ``precision`` has."""
    whole = ("head.", "low", "width") if precision == "fp16" else ("",)  # the beginnings of what stays in float32
    return {name: value if name.startswith(whole) else value.half() for name, value in net.state_dict().items()}
