"""A FAKE of the module tensorrt: onnxruntime on the CPU behind the names of TensorRT 11 that dipfast calls.

It proves the flow (build, cache, refit by name, run, parity), and nothing about TensorRT.
"""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx

from dipfast.export.providers import Session

__version__ = "11.4.0.fake"
DTYPES = {"float": np.float32, "half": np.float16}
DataType = SimpleNamespace(FLOAT="float", HALF="half")
BuilderFlag = SimpleNamespace(REFIT="refit", TF32="tf32")
MemoryPoolType = SimpleNamespace(WORKSPACE="workspace")
NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
TensorLocation = SimpleNamespace(DEVICE="device")


class Logger:
    WARNING = 1

    def __init__(self, severity: int) -> None: ...


class Weights:
    def __init__(self, dtype: str, pointer: int, count: int) -> None:
        size = np.dtype(DTYPES[dtype]).itemsize * count
        self.values = np.frombuffer(ctypes.string_at(pointer, size), DTYPES[dtype])


class OnnxParser:
    num_errors = 1

    def __init__(self, network: SimpleNamespace, logger: Logger) -> None:
        self.network = network

    def parse(self, model: bytes) -> bool:
        self.network.model = model
        return model != b"broken"

    def get_error(self, index: int) -> Any:
        return SimpleNamespace(desc=lambda: "not a model")


class IProgressMonitor:
    def __init__(self) -> None: ...


class Config:
    def __init__(self) -> None:
        self.flags, self.progress_monitor = {"tf32"}, None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_memory_pool_limit(self, pool: str, limit: int) -> None: ...

    def add_optimization_profile(self, profile: Any) -> None: ...

    def create_timing_cache(self, data: bytes) -> Any:
        return None if data.startswith(b"broken") else SimpleNamespace(serialize=lambda: data + b"t")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class Builder:
    def __init__(self, logger: Logger) -> None: ...

    def create_network(self, flags: int) -> SimpleNamespace:
        assert flags == 1 << NetworkDefinitionCreationFlag.STRONGLY_TYPED
        return SimpleNamespace(model=b"")

    def create_builder_config(self) -> Config:
        return Config()

    def create_optimization_profile(self) -> Any:
        return SimpleNamespace(set_shape=lambda name, least, best, most: None)

    def build_serialized_network(self, network: SimpleNamespace, config: Config) -> bytes:
        assert config.flags == {"refit"}
        monitor: Any = config.progress_monitor
        monitor.phase_start("Building", None, 8)
        monitor.phase_start("Timing", "Building", 100)
        for step in range(8):
            assert monitor.step_complete("Timing", step) and monitor.step_complete("Building", step)
        monitor.phase_finish("Building")
        return network.model


class FakeEngine:
    def __init__(self, plan: bytes) -> None:
        self.model = onnx.load_from_string(plan)

    def serialize(self) -> bytes:
        return self.model.SerializeToString()

    def create_execution_context(self) -> Context:
        return Context(self)


class Runtime:
    def __init__(self, logger: Logger) -> None: ...

    def deserialize_cuda_engine(self, plan: bytes) -> FakeEngine | None:
        return None if plan == b"refused" else FakeEngine(plan)


class Context:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.places, self.shapes = engine, {}, {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shapes[name] = shape

    def set_tensor_address(self, name: str, pointer: int) -> None:
        self.places[name] = pointer

    def execute_async_v3(self, stream: int) -> bool:
        shape = self.shapes["latent"]
        data = ctypes.string_at(self.places["latent"], 4 * int(np.prod(shape)))
        session = Session(self.engine.model.SerializeToString(), threads=1)
        image = session.render(np.frombuffer(data, np.float32).reshape(shape))
        ctypes.memmove(self.places["image"], np.ascontiguousarray(image).ctypes.data, image.nbytes)
        return True


class Refitter:
    spoiled = False  # set to give the engine other weights than those that were asked for

    def __init__(self, engine: FakeEngine, logger: Logger) -> None:
        self.engine, self.given = engine, {}

    def get_all_weights(self) -> list[str]:
        return [t.name for t in self.engine.model.graph.initializer if t.name.endswith((".weight", ".bias"))]

    def get_missing_weights(self) -> list[str]:
        return [name for name in self.get_all_weights() if name not in self.given]

    def set_named_weights(self, name: str, weights: Weights, location: str) -> bool:
        self.given[name] = weights.values * (1.1 if self.spoiled else 1)
        return True

    def refit_cuda_engine_async(self, stream: int) -> bool:
        for tensor in self.engine.model.graph.initializer:
            if tensor.name in self.given:
                values = self.given[tensor.name].reshape(tuple(tensor.dims))
                kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
                assert values.dtype == kind or self.spoiled
                tensor.CopyFrom(onnx.numpy_helper.from_array(values.astype(kind), tensor.name))
        return True
