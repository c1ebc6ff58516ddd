"""Does the fit do on a GPU what it does on a CPU, and how fast? One command for a bare machine with CUDA.

    bench/gpu_check.sh OUT_FOLDER        on a GPU, under eight minutes
    bench/gpu_check.sh --dry OUT_FOLDER  the same sections, tiny, on whatever is here

It needs torch, numpy, safetensors, scikit-image and pydantic, triton for the kernels, and nothing else of the package's
dependencies: no manifest, no image files. A machine without pydantic and without a network gets it from wheels in the
checkout: `pip download -d bench/wheels pydantic` elsewhere, for its Python, and the script installs them for itself.
`renders` alone takes all dependencies, onnxruntime-gpu and TensorRT. Every section stands alone; one that fails is
recorded with its error, and the others go on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dipfast.bench.kernels import bench_kernels, check_kernels
from dipfast.bench.machine import describe, synchronize
from dipfast.bench.step import STANDARD, bench_step, settings_for
from dipfast.errors import MachineError
from dipfast.fit import Course, FitResult, Hooks, ProgramCache, Slot, choose_machine, finish_all, fit, fitting
from dipfast.metrics import psnr
from dipfast.plan import fit_bytes
from dipfast.settings import presets
from dipfast.settings.document import Settings
from dipfast.settings.fit import Adam, Fit, Memory, Muon
from dipfast.settings.generator import ImageInput, NoiseInput, SkipGenerator
from dipfast.settings.task import AddGaussian, Denoise, GaussianNoise, Jpeg
from dipfast.tasks import Problem, degrade, pose

GAUSSIAN = Denoise(noise=GaussianNoise(sigma=25.0))
MUON = Muon()
SEEDS = (0, 1, 2)


class Check:
    """The sections, at a size for this machine."""

    def __init__(self, dry: bool) -> None:
        self.device = "cuda:0" if torch.cuda.is_available() else "cpu"
        self.dry = dry
        self.engines = ("eager", "compile", "cudagraph") if self.device != "cpu" else ("eager", "compile")
        self.precisions = ("fp32", "tf32", "fp16", "bf16") if self.device != "cpu" else ("fp32", "bf16")
        self.side = 32 if dry else 256
        self.net = SkipGenerator(channels=(8, 8), input=NoiseInput(depth=8)) if dry else STANDARD
        self.narrow = self.net if dry else SkipGenerator(channels=(32,) * 5, upsample="nearest")

    def settings(self, engine: str, precision: str, steps: int, **changes: Any) -> Fit:
        return settings_for(engine, precision, self.device, Adam(), steps).model_copy(update=changes)

    def problem(self, side: int, seed: int = 0) -> tuple[Problem, np.ndarray]:
        """The astronaut with noise of sigma 25, and the truth for afterwards."""
        from skimage import data

        clean = np.ascontiguousarray((data.astronaut().astype(np.float32) / 255).transpose(2, 0, 1))
        damaged = degrade(AddGaussian(sigma=25.0, seed=seed, crop=side), clean)
        return pose(GAUSSIAN, damaged.observed), damaged.clean

    def machine(self) -> dict[str, Any]:
        """Versions, memory, and which optional libraries are here."""
        found = {name: _version(name) for name in ("triton", "onnx", "onnxruntime", "tensorrt", "cudnn")}
        libraries = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=False).stdout
        nvinfer = [line.split()[0] for line in libraries.splitlines() if "nvinfer" in line]
        memory = torch.cuda.get_device_properties(0).total_memory if self.device != "cpu" else None
        return describe(torch.device(self.device)) | {
            "libraries": found,
            "libnvinfer": nvinfer,
            "memory": memory,
            "compiler": shutil.which("gcc"),
        }

    def engines_agree(self) -> dict[str, Any]:
        """Every engine against eager in fp32 on the same device, same seed: loss curve and picture."""
        problem, _ = self.problem(self.side)
        results = {engine: self._fit(problem, engine, "fp32", 20) for engine in self.engines}
        return {engine: _difference(result, results["eager"]) for engine, result in results.items()}

    def engines_agree_on_blind_spots(self) -> dict[str, Any]:
        """The same of a fit as the presets denoise: blind spots, recorrupted pairs, Muon, smaller sizes first."""
        problem, _ = self.problem(self.side)
        return self._engines_agree(problem, ImageInput(blind=0.1, recorrupt=0.7))

    def engines_agree_on_shared_noise(self) -> dict[str, Any]:
        """The same where neighbours share their noise, and are hidden together."""
        problem, _ = self.problem(self.side)
        return self._engines_agree(problem, ImageInput(blind=0.1, reach=1))

    def engines_agree_on_jpeg(self) -> dict[str, Any]:
        """The same of a fit as the presets clear a JPEG: coefficients compared, the picture quantised again.

        A rounding that falls to the other side differs by a whole step, so engines part sooner than elsewhere.
        """
        problem, _ = self.problem(self.side)
        coded = pose(Jpeg(quality=10), problem.target[0].numpy())
        return self._engines_agree(coded, ImageInput(recompress=True))

    def _engines_agree(self, problem: Problem, latent: ImageInput) -> dict[str, Any]:
        net = self.narrow.model_copy(update={"input": latent})
        more: dict[str, Any] = {"reg_noise_std": 0.0, "optimizer": MUON, "average": "auto"}
        if latent.blind:
            more["coarse"] = 5
        results = {engine: fit(problem, net, self.settings(engine, "fp32", 20, **more)) for engine in self.engines}
        return {engine: _difference(result, results["eager"]) for engine, result in results.items()}

    def device_agrees_with_cpu(self) -> dict[str, Any]:
        """The first steps without jitter on the device and on the CPU, fp32: losses side by side."""
        problem, _ = self.problem(min(self.side, 64))
        settings = self.settings("eager", "fp32", 4, reg_noise_std=0.0)
        here, cpu = (fit(problem, self.net, settings.model_copy(update={"device": d})) for d in (self.device, "cpu"))
        return {"device": [loss for _, loss in here.losses], "cpu": [loss for _, loss in cpu.losses]}

    def used_program_cache(self) -> dict[str, Any]:
        """The second item of a bucket on a used program cache against the same item alone: bits and captures."""
        found = {}
        for engine in self.engines:
            program_cache = ProgramCache()
            items = [self.problem(self.side, seed)[0] for seed in (1, 2)]
            several = [self.settings(engine, "bf16", 10, seed=seed) for seed in (1, 2)]
            shared = [fit(i, self.net, p, program_cache=program_cache) for i, p in zip(items, several, strict=True)][1]
            alone = fit(items[1], self.net, several[1])
            found[engine] = _difference(shared, alone) | {"programs": program_cache.programs}
        return found

    def members(self) -> dict[str, Any]:
        """Several seeds side by side: the first member's bits against the same fit alone, and milliseconds a step."""
        found: dict[str, Any] = {}
        for engine in (engine for engine in self.engines if engine != "compile"):
            for count in (1, 2) if self.dry else (1, 4, 16):
                settings = self.settings(
                    engine, "bf16", 10 if self.dry else 60, seeds=count, optimizer=MUON, average="auto"
                )
                problem = self.problem(self.side)[0]
                state, step = ProgramCache().prepare(problem, self.narrow, settings, choose_machine(settings))
                step()
                first = state.first.output.cpu().clone()
                synchronize(state.output.device)
                start = time.perf_counter()
                for _ in range(settings.steps - 1):
                    step()
                synchronize(state.output.device)
                ms = 1e3 * (time.perf_counter() - start) / (settings.steps - 1)
                alone = found.setdefault(f"{engine} 1", {"first": first})["first"]
                same = float((first - alone).abs().max())
                found[f"{engine} {count}"] = {"first": first, "ms": ms, "from_alone": same}
        return {name: {key: row[key] for key in ("ms", "from_alone")} for name, row in found.items()}

    def cohorts(self) -> dict[str, Any]:
        """Different pictures side by side in slots: each against the same fit alone, and milliseconds a step of all."""
        found: dict[str, Any] = {}
        steps, counts = (10, (1, 2)) if self.dry else (60, (1, 4, 16))
        items = [self.problem(self.side, seed)[0] for seed in range(counts[-1])]
        for engine in (engine for engine in self.engines if engine != "compile"):
            several = [
                self.settings(engine, "bf16", steps, seed=seed, optimizer=MUON, average="auto")
                for seed in range(counts[-1])
            ]
            alone = [fit(item, self.narrow, settings) for item, settings in zip(items[:4], several, strict=False)]
            for count in counts:
                slots: list[Slot[FitResult]] = [Slot(torch.device(self.device)) for _ in range(count)]
                courses = [
                    partial(self._course, item, settings)
                    for item, settings in zip(items[:count], several[:count], strict=True)
                ]
                finish_all(courses, slots)  # captures
                start = time.perf_counter()
                together = finish_all(courses, slots)
                seconds = time.perf_counter() - start
                both = zip(together, alone, strict=False)
                found[f"{engine} {count}"] = {
                    "ms": 1e3 * seconds / steps,
                    "from_alone": max(_difference(one, other)["largest_difference"] for one, other in both),
                    "programs": sum(slot.program_cache.programs for slot in slots),
                }
        return found

    def _course(self, item: Problem, settings: Fit, program_cache: ProgramCache) -> Course[FitResult]:
        return fitting(item, self.narrow, settings, hooks=Hooks(program_cache=program_cache))

    def sizes(self) -> dict[str, Any]:
        """A new size on one program cache: seconds until its first step, milliseconds a step, programs built."""
        found: dict[str, Any] = {}
        for engine in (engine for engine in self.engines if engine != "compile"):
            program_cache = ProgramCache()
            for side in (32, 48) if self.dry else (256, 288, 320, 256):
                settings = self.settings(engine, "bf16", 20, optimizer=MUON, average="auto")
                seconds = fit(self.problem(side)[0], self.narrow, settings, program_cache=program_cache).seconds
                found[f"{engine} {side}"] = {"setup": seconds["setup"], "ms": 1e3 * seconds["fit"] / settings.steps}
            found[f"{engine} programs"] = program_cache.programs
        return found

    def recomputed(self) -> dict[str, Any]:
        """Activations recomputed in the backward: bits, milliseconds a step, peak bytes beside the predicted ones."""
        found: dict[str, Any] = {}
        for side in (32,) if self.dry else (256, 1024):
            for engine in (engine for engine in self.engines if engine != "compile"):
                for precision in ("fp32", "bf16"):
                    rows = [self._peak(side, engine, precision, again) for again in (False, True)]
                    rows[1]["same_bits"] = torch.equal(rows[0].pop("grads"), rows[1].pop("grads"))
                    found[f"{side} {engine} {precision}"] = dict(zip(("kept", "recomputed"), rows, strict=True))
        return found

    def _peak(self, side: int, engine: str, precision: str, recompute: bool) -> dict[str, Any]:
        memory = Memory(recompute="always" if recompute else "never")
        settings = self.settings(engine, precision, 20, memory=memory)
        problem = self.problem(min(side, 512))[0]
        if side > 512:  # the astronaut is 512 pixels wide
            problem = pose(GAUSSIAN, np.tile(problem.target[0].numpy(), (1, side // 512, side // 512)))
        cuda = self.device != "cpu"
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        state, step = ProgramCache().prepare(problem, self.net, settings, choose_machine(settings))
        step()
        synchronize(state.output.device)
        start = time.perf_counter()
        for _ in range(4):
            step()
        synchronize(state.output.device)
        return {
            "ms": 1e3 * (time.perf_counter() - start) / 4,
            "peak": torch.cuda.max_memory_allocated() if cuda else None,
            "predicted": fit_bytes(Settings(generator=self.net, fit=settings), problem.shape, precision, recompute),
            "grads": state.first.parameters.grads.cpu().clone(),
        }

    def repeats(self) -> dict[str, Any]:
        """The same fit twice: are the bits the same on this device?"""
        problem, _ = self.problem(self.side)
        return {p: _difference(*(self._fit(problem, "eager", p, 20) for _ in "ab")) for p in self.precisions}

    def precisions_by_psnr(self) -> dict[str, Any]:
        """PSNR of the average behind a Muon fit, for three seeds in each precision."""
        steps = 5 if self.dry else 250
        problem, clean = self.problem(self.side)
        found: dict[str, Any] = {}
        for precision in self.precisions:
            several = [self.settings("eager", precision, steps, seed=s, optimizer=MUON, average=0.97) for s in SEEDS]
            pictures = [fit(problem, self.narrow, settings).image[0].numpy() for settings in several]
            found[precision] = [round(psnr(picture, clean), 3) for picture in pictures]
        return found

    def whole_fits(self) -> dict[str, Any]:
        """Seconds of the presets' denoising in bf16: cold, then of another picture on the same program cache."""
        found: dict[str, Any] = {}
        for side in (128,) if self.dry else (512, 256):
            for name in ("fast",) if self.dry else ("fast", "balanced", "best"):
                for engine in ["eager", *({*self.engines} & {"cudagraph"})]:
                    program_cache, rows = ProgramCache(), []
                    for seed in (0, 1):
                        (problem, clean), (net, settings) = self.problem(side, seed), self.preset(name, engine)
                        start = time.perf_counter()
                        result = fit(problem, net, settings, program_cache=program_cache)
                        whole = time.perf_counter() - start
                        row = {"steps": result.steps, "psnr": round(psnr(result.image[0].numpy(), clean), 3)}
                        rows.append({"whole": whole} | result.seconds | row)
                    found[f"{side} {name} {engine}"] = dict(zip(("cold", "warm"), rows, strict=True))
        return found

    def preset(self, name: str, engine: str) -> tuple[SkipGenerator, Fit]:
        """Net and settings of a preset for Gaussian noise; tiny and short for a dry run."""
        tree = presets.preset(name, GAUSSIAN.model_dump())
        net = tree["generator"] | ({"channels": [8, 8]} if self.dry else {})
        asked = {"rollback_db": None, "engine": engine, "precision": "bf16", "device": self.device}
        asked = tree["fit"] | asked | ({"steps": 10} if self.dry else {})
        return SkipGenerator.model_validate(net), Fit.model_validate(asked)

    def kernels_are_exact(self) -> list[dict[str, Any]]:
        """Each Triton kernel against float64, at odd sizes; here without a GPU, nothing."""
        found = check_kernels(torch.device(self.device)) if self.device != "cpu" else []
        wrong = [verdict for verdict in found if not verdict["ok"]]
        if wrong:
            raise ArithmeticError(f"less exact than allowed: {json.dumps(wrong)}")
        return found

    def kernels_by_speed(self) -> list[dict[str, Any]]:
        """Each Triton kernel beside its plain twin, eager and compiled."""
        options = {"rounds": 2 if self.dry else 15, "compiled": not self.dry, "check": False}
        sides = (32,) if self.dry else (256, 512, 1024)
        return [bench_kernels(side, torch.device(self.device), **options) for side in sides]

    def kernels_in_fits(self) -> dict[str, Any]:
        """Fits on Triton's kernels against plain ones, and milliseconds a step of both; or why not."""
        return _or_why_not(self._kernels_in_fits)

    def _kernels_in_fits(self) -> dict[str, Any]:
        problem, found = self.problem(self.side)[0], {}
        options = {"reg_noise_std": 0.0, "optimizer": MUON, "average": "auto"}
        for engine in self.engines:
            for precision in ("fp32", "bf16"):
                several = {k: self.settings(engine, precision, 20, kernels=k, **options) for k in ("triton", "plain")}
                results = {kernels: fit(problem, self.narrow, settings) for kernels, settings in several.items()}
                ms = {f"{kernels}_ms": 1e3 * one.seconds["fit"] / one.steps for kernels, one in results.items()}
                found[f"{engine} {precision}"] = _difference(results["triton"], results["plain"]) | ms
        return found

    def steps(self) -> list[dict[str, Any]]:
        """Milliseconds of a step by engine and precision: the standard net, Adam and Muon."""
        sizes = (64,) if self.dry else (256, 512, 1024)
        precisions = self.precisions[-1:] if self.dry else ("tf32", "bf16")
        rounds, count = (2, 1) if self.dry else (7, 10)
        engines = ("eager",) if self.dry else self.engines
        return [
            bench_step(side, engines, precisions, device=self.device, optimizer=optimizer, rounds=rounds, steps=count)
            for side in sizes
            for optimizer in ("adam", "muon")
        ]

    def renders(self) -> dict[str, Any]:
        """Milliseconds of a render on each backend, with its parity, and what TensorRT's refits cost; or why not."""
        from dipfast.bench.refit import bench_refits  # both need more of the package's dependencies than the rest
        from dipfast.bench.render import bench_render

        sizes, rounds = ([32], 2) if self.dry else ([256, 512], 30)
        precisions = ["fp32"] if self.dry else ["fp32", "fp16"]
        shape = {"channels": self.narrow.channels, "upsample": self.narrow.upsample, "rounds": rounds}
        found: dict[str, Any] = {}
        for backend, provider in (
            ("onnxruntime", "cpu"),
            ("onnxruntime", "cuda"),
            ("onnxruntime", "tensorrt"),
            ("tensorrt", "cpu"),
        ):
            run = partial(bench_render, sizes, [backend], precisions, provider=provider, **shape)
            found[backend if backend == "tensorrt" else f"{backend} {provider}"] = _or_why_not(run)
        for size in sizes:
            for precision in precisions:
                run = partial(bench_refits, self.narrow, size, precision)
                found[f"refits {size} {precision}"] = _or_why_not(run)
        return found

    def _fit(self, problem: Problem, engine: str, precision: str, steps: int) -> FitResult:
        return fit(problem, self.net, self.settings(engine, precision, steps))


SECTIONS: tuple[Callable[[Check], Any], ...] = (
    Check.machine,
    Check.kernels_are_exact,
    Check.device_agrees_with_cpu,
    Check.engines_agree,
    Check.engines_agree_on_blind_spots,
    Check.engines_agree_on_shared_noise,
    Check.engines_agree_on_jpeg,
    Check.used_program_cache,
    Check.members,
    Check.cohorts,
    Check.sizes,
    Check.recomputed,
    Check.repeats,
    Check.steps,
    Check.kernels_by_speed,
    Check.kernels_in_fits,
    Check.whole_fits,
    Check.renders,
    Check.precisions_by_psnr,
)


def _or_why_not(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What it gives, or that what it needs is not installed. Another failure is the section's."""
    try:
        return run()
    except (MachineError, ImportError) as error:
        return {"not here": str(error)}


def _version(name: str) -> str | None:
    if name == "cudnn":
        return str(torch.backends.cudnn.version())
    try:
        return str(importlib.import_module(name).__version__)
    except (ImportError, OSError, AttributeError):
        return None


def _difference(one: FitResult, other: FitResult) -> dict[str, Any]:
    image = float((one.image - other.image).abs().max())
    losses = max(abs(a - b) / b for (_, a), (_, b) in zip(one.losses, other.losses, strict=True))
    return {"largest_difference": image, "largest_relative_loss_difference": losses, "same_bits": image == 0}


def run_section(section: Callable[[Check], Any], check: Check) -> dict[str, Any]:
    """A section's result and seconds, or its error."""
    start = time.perf_counter()
    try:
        outcome: dict[str, Any] = {"ok": True, "result": section(check)}
    except Exception as error:
        outcome = {"ok": False, "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    return outcome | {"seconds": round(time.perf_counter() - start, 2)}


def main() -> int:
    """Run all sections, writing the result after each. Returns 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dry", action="store_true", help="tiny sizes, to see that it runs")
    names = [section.__name__ for section in SECTIONS]
    parser.add_argument("--only", action="append", choices=names, help="this section alone; again for more")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    check, results = Check(arguments.dry), {}
    for section in SECTIONS:
        name = section.__name__
        if arguments.only and name not in arguments.only:
            continue
        results[name] = outcome = run_section(section, check)
        (arguments.folder / "result.json").write_text(json.dumps(results, indent=1) + "\n")
        shown = json.dumps(outcome["result"])[:400] if outcome["ok"] else outcome["error"]
        print(f"{'ok  ' if outcome['ok'] else 'FAIL'} {name} {outcome['seconds']} s  {shown}", flush=True)
    return 0 if all(outcome["ok"] for outcome in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
