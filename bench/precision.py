"""What must stay in float32 of a bf16 fit: each part of the list taken down to bf16, and the PSNR of what comes back.

    python bench/precision.py PICTURE... [--crop N] [--seeds N] [--sigma N] [--preset NAME] [--set KEY=VALUE]
                                         [--out FILE]

Every variant fits every picture from the same noise with the same weight seeds. `fp32` and `bf16` are the two
precisions as they are; each other variant is `bf16` with one more part rounded to bf16.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dipfast.fit.optimizer as optimizer
from cases import make_case, settings_of
from dipfast import ops
from dipfast.bench.machine import describe
from dipfast.fit import fit, keep_freed_memory
from dipfast.generators import SkipNet
from dipfast.metrics import psnr
from tables import column, grouped


def rounded(tensor: Tensor) -> Tensor:
    return tensor.bfloat16().to(tensor.dtype)


@contextmanager
def replaced(owner: Any, name: str, new: Any) -> Iterator[None]:
    old = getattr(owner, name)
    setattr(owner, name, new)
    try:
        yield
    finally:
        setattr(owner, name, old)


def after_the_update(change: Callable[[Any, Any], None]) -> Any:
    """The optimiser's step, and then ``change`` of its parameters and state."""
    taken = optimizer.optimizer_step

    def run(config: Any, parameters: Any, state: Any, dtype: torch.dtype, **how: Any) -> None:
        taken(config, parameters, state, dtype, **how)
        change(parameters, state)

    return replaced(optimizer, "optimizer_step", run)


def weights() -> Any:
    return after_the_update(lambda parameters, state: parameters.values.copy_(rounded(parameters.values)))


def moments() -> Any:
    def change(parameters: Any, state: Any) -> None:
        for moment in (state.first, state.second):
            moment.copy_(rounded(moment))

    return after_the_update(change)


def statistics_of_normalisations() -> Any:
    def batch_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
        mean = rounded(x.mean((0, 2, 3), keepdim=True))
        variance = rounded(rounded((x - mean).square()).mean((0, 2, 3), keepdim=True))
        y = (x - mean) * rounded((variance + eps).rsqrt())
        return (y * weight.view(1, -1, 1, 1) + bias.view(1, -1, 1, 1)).to(x.dtype)

    return replaced(ops, "batch_norm", batch_norm)


def head_and_loss() -> Any:
    picture = SkipNet.picture

    def run(self: SkipNet, x: Tensor) -> Tensor:
        return rounded(picture(self, rounded(x)))

    return replaced(SkipNet, "picture", run)


@contextmanager
def nothing() -> Iterator[None]:
    yield


VARIANTS: dict[str, tuple[str, Callable[[], Any]]] = {
    "fp32": ("fp32", nothing),
    "bf16": ("bf16", nothing),
    "bf16, weights too": ("bf16", weights),
    "bf16, moments too": ("bf16", moments),
    "bf16, statistics too": ("bf16", statistics_of_normalisations),
    "bf16, head and loss too": ("bf16", head_and_loss),
}


def main() -> None:
    """Fit, print a line for each fit, and write the result after each picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sigma", type=float, default=25.0)
    parser.add_argument("--preset", default="fast")
    parser.add_argument("--set", action="append", default=[], dest="sets", help="a key of the manifest")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: list[dict[str, Any]] = []
    for seed in range(given.seeds):
        for picture in given.pictures:
            case = make_case(picture, f"gaussian:{given.sigma:g}", given.crop, 0)
            for name, (precision, change) in VARIANTS.items():
                sets = [*given.sets, f"fit.precision={precision}"]
                asked = settings_of(case.task, given.preset, sets, seed, given.crop)
                config, settings = asked.generator, asked.fit
                with change():
                    result = fit(case.problem, config, settings)
                value = psnr(result.image[0].numpy(), case.clean)
                rows.append({"picture": Path(picture).name, "seed": seed, "variant": name, "psnr": value})
                rows[-1]["steps"] = result.steps
                print(f"{Path(picture).name} seed {seed} {name}: {value:.2f} dB, {result.steps} steps", flush=True)
            if given.out:
                summary = summarize(rows)
                found = {"benchmark": "precision", "machine": describe(torch.device("cpu")), **vars(given)}
                found |= {"out": None, "rows": rows, "summary": summary}
                given.out.write_text(json.dumps(found, indent=1) + "\n")
    for row in summarize(rows):
        print(f"{row['variant']:<26}{row['psnr']:.3f} dB, {row['from_fp32']:+.3f} from fp32, {row['steps']:.0f} steps")
    print(f"deviation over the seeds of one picture, fp32: {spread(rows):.3f} dB")


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the fits of each variant."""
    means = {
        name: {key: statistics.mean(column(mine, key)) for key in ("psnr", "steps")}
        for (name,), mine in grouped(rows, "variant").items()
    }
    return [{"variant": n, **m, "from_fp32": m["psnr"] - means["fp32"]["psnr"]} for n, m in means.items()]


def spread(rows: list[dict[str, Any]]) -> float:
    """Mean over the pictures of the deviation over seeds, fp32."""
    groups = grouped((row for row in rows if row["variant"] == "fp32"), "picture").values()
    deviations = [statistics.stdev(column(group, "psnr")) for group in groups if len(group) > 1]
    return statistics.mean(deviations) if deviations else 0.0


if __name__ == "__main__":
    main()
