"""What a TensorRT engine costs: built once, loaded again, refitted for each generator. `bench/gpu_check.sh` runs it.

Every refit's picture is held against PyTorch's in float32 proper by the renderer itself; what it found is beside the
milliseconds.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dipfast import generators
from dipfast.bench.render import fresh
from dipfast.export.tensorrt import Folded, TensorRTRenderer
from dipfast.render.generator import FittedGenerator
from dipfast.settings.generator import SkipGenerator

Make = Callable[[str, Path], TensorRTRenderer]


def bench_refits(
    config: SkipGenerator, size: int, precision: str, count: int = 4, make: Make = TensorRTRenderer
) -> dict[str, Any]:
    """Seconds of a build and of loading it again, then milliseconds and parity of ``count`` refits with a render.

    Raises MachineError without TensorRT or a GPU.
    """
    with tempfile.TemporaryDirectory() as folder:
        backend = make(precision, Path(folder))
        folded = [_folded(backend, fresh(config, size), seed) for seed in range(count)]
        build = _seconds(lambda: backend.engine(folded[0]))
        again = make(precision, Path(folder))
        load = _seconds(lambda: again.engine(folded[0]))
        refits = [_refit(again, one) for one in folded]
    return {
        "ran": backend.ran,
        "size": size,
        "precision": precision,
        "build_s": build,
        "load_s": load,
        "built": [backend.built, again.built],
        "refits": refits,
    }


def _folded(backend: TensorRTRenderer, one: FittedGenerator, seed: int) -> Folded:
    """``one`` with the weights of ``seed``."""
    state = generators.build(one.card.generator, one.card.channels, seed).state_dict()
    return backend.fold(state, one.latent, one.card)


def _refit(backend: TensorRTRenderer, one: Folded) -> dict[str, Any]:
    found: dict[str, Any] = {}
    found["ms"] = 1e3 * _seconds(lambda: found.update(backend.render(one)[1]))
    return found


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
