"""Engines of TensorRT: what one is for, how it is built on the GPU, and the two files that an export is.

An engine is built with the timings of earlier builds, and its progress is told. Its own file does not say its latent,
its sizes and what it was built for, so a file of safetensors lies beside it; reading both needs no TensorRT.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dipfast.environment import driver
from dipfast.errors import DipfastError, MachineError, UsageError
from dipfast.files import write_atomic
from dipfast.generators import Card, card_of

FORMAT = "dipfast-engine/1"
INSTALL = "pip install 'dipfast[tensorrt]' (version 11 or later, with an NVIDIA driver)"
WORKSPACE = 4 << 30  # bytes that a tactic may take while the engine is built
Say = Callable[[str], None]


@dataclass(frozen=True)
class Key:
    """What an engine is for. Another value anywhere is another engine."""

    tensorrt: str
    gpu: str
    capability: tuple[int, int]
    driver: str
    architecture: str  # the generator's section, as JSON
    latent: tuple[int, ...]
    channels: int
    precision: str

    @property
    def name(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:24]


class Gpu:
    """The GPU that holds an engine's buffers, with its own stream: on the default one TensorRT waits for all work."""

    def __init__(self) -> None:
        if not torch.cuda.is_available():
            raise MachineError("--backend tensorrt: this machine has no CUDA device")
        self.device = torch.device("cuda", torch.cuda.current_device())
        self._stream = torch.cuda.Stream(self.device)

    def facts(self) -> dict[str, Any]:
        return {
            "gpu": torch.cuda.get_device_name(self.device),
            "capability": torch.cuda.get_device_capability(self.device),
            "driver": driver() or f"of CUDA {torch._C._cuda_getDriverVersion()}",  # type: ignore[attr-defined]
        }

    def stream(self) -> int:
        """Return the stream's handle; what is enqueued on it runs after what PyTorch has been given so far."""
        self._stream.wait_stream(torch.cuda.current_stream(self.device))
        return int(self._stream.cuda_stream)

    def wait(self) -> None:
        self._stream.synchronize()

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Have PyTorch's own convolutions run in float32 without TF32: what an engine is compared with."""
        before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before


def bindings() -> Any:
    """Return the module tensorrt. Raises MachineError with what to install."""
    try:
        import tensorrt
    except ImportError:
        raise MachineError(f"TensorRT is not installed: {INSTALL}") from None
    if int(tensorrt.__version__.split(".")[0]) < 11:
        raise MachineError(f"TensorRT {tensorrt.__version__} is installed, 11 is needed: {INSTALL}")
    return tensorrt


def cache_folder() -> Path:
    """Return where engines and timings are kept: $XDG_CACHE_HOME/dipfast/tensorrt."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dipfast" / "tensorrt"


def build(trt: Any, model: bytes, key: Key, folder: Path, say: Say) -> bytes:
    """Build a refittable plan for ``model``, whose `latent` is an input, with the GPU's timing cache in ``folder``."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise DipfastError(f"TensorRT cannot parse the model: {'; '.join(reasons)}")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    profile = builder.create_optimization_profile()
    shape = (1, *key.latent)
    profile.set_shape("latent", shape, shape, shape)
    config.add_optimization_profile(profile)
    monitor = config.progress_monitor = _monitor(trt, say)
    timings = _use_timings(config, key, folder)
    say(f"TensorRT builds an engine for {key.gpu}, {key.latent[2]}×{key.latent[1]} in {key.precision}")
    plan = builder.build_serialized_network(network, config)
    del monitor  # the build holds no reference of its own
    if plan is None:
        raise MachineError("TensorRT could not build the engine; see its messages above")
    write_atomic(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _use_timings(config: Any, key: Key, folder: Path) -> Path:
    """Give the build the timings of earlier ones on such a GPU, if TensorRT takes them; return their file."""
    facts = (key.tensorrt, key.gpu, key.capability, key.driver)
    path = folder / f"{hashlib.sha256(repr(facts).encode()).hexdigest()[:16]}.timing"
    for data in (path.read_bytes() if path.is_file() else b"", b""):  # one that is broken or of another GPU is refused
        cache = config.create_timing_cache(data)
        if cache is not None and config.set_timing_cache(cache, False):
            break
    return path


def _monitor(trt: Any, say: Say) -> Any:
    """Return a monitor that tells of a build: each outermost phase by its name, in quarters."""

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.told: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.steps[name], self.told[name] = steps, 0

        def step_complete(self, name: str, step: int) -> bool:
            quarter = 4 * (step + 1) // max(1, self.steps.get(name, 0))
            if name in self.steps and quarter > self.told[name]:
                self.told[name] = quarter
                say(f"TensorRT: {name}, {25 * quarter} %")
            return True  # False would end the build

        def phase_finish(self, name: str) -> None:
            self.steps.pop(name, None)

    return Monitor()


@dataclass(frozen=True)
class StoredEngine:
    """An engine as it was exported, with all that rendering it takes."""

    plan: bytes
    latent: Tensor  # [1, D, H, W] float32
    card: Card
    key: Key


def beside(path: Path) -> Path:
    """Return where the latent and the sizes of the engine at ``path`` lie."""
    return path.with_name(f"{path.name}.safetensors")


def pack(stored: StoredEngine) -> bytes:
    """Return the contents of the file beside the engine, which names the engine's hash."""
    facts = {"format": FORMAT, "card": json.dumps(stored.card.to_json()), "key": json.dumps(asdict(stored.key))}
    facts["sha256"] = hashlib.sha256(stored.plan).hexdigest()
    latent = stored.latent.detach().float().cpu().contiguous()
    return safetensors.torch.save({"latent": latent}, facts)


def load_engine(path: Path) -> StoredEngine:
    """Load an engine that `dipfast export --format tensorrt` wrote.

    Raises UsageError where it or the file beside it is missing, or one of them is not what was written.
    """
    try:
        plan = path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    other = beside(path)
    if not other.is_file():
        raise UsageError(f"{path}: {other.name} should lie beside it, with its latent and sizes; export it again")
    try:
        with safetensors.safe_open(other, "pt") as file:
            facts, latent = file.metadata() or {}, file.get_tensor("latent")
        if facts.get("format") != FORMAT:
            raise UsageError(f"{other}: should be of format {FORMAT}, is {facts.get('format')}")
        card, digest = card_of(facts["card"]), facts["sha256"]
        key = _key(facts["key"])
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{other}: cannot be read ({error})") from None
    if digest != hashlib.sha256(plan).hexdigest():
        raise UsageError(f"{path}: refused, it is not the engine that {other.name} was written for")
    if tuple(latent.shape) != (1, *key.latent):
        raise UsageError(f"{other}: refused, its latent is {list(latent.shape)} where the engine takes {key.latent}")
    return StoredEngine(plan, latent, card, key)


def _key(text: str) -> Key:
    fields = json.loads(text)
    return Key(**{**fields, "capability": tuple(fields["capability"]), "latent": tuple(fields["latent"])})
