"""Compile every launch of every kernel for an H200, on a machine without a GPU. Prints a line for each kernel.

Run in a process of its own, for it puts a compiler in the place of Triton's launcher: what a launch would compute
stays unwritten. Triton and its assembler are real; nothing is executed.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
HOPPER = GPUTarget("cuda", 90, 32)
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    torch.float64: "*fp64",
}
compiled: dict[tuple, dict[str, Any]] = {}


def compile_only(self: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
    """A stand-in for a launch that compiles the kernel for the types and alignments of its arguments."""
    parameters = inspect.signature(self.fn).parameters
    options = {name: kwargs.pop(name) for name in list(kwargs) if name not in parameters}
    values = inspect.signature(self.fn).bind(*args, **kwargs).arguments
    constants = {name: v for name, v in values.items() if "constexpr" in str(parameters[name].annotation)}
    signature = {name: "constexpr" if name in constants else _type(value) for name, value in values.items()}
    divisible = {
        (i,): [["tt.divisibility", 16]] for i, (n, v) in enumerate(values.items()) if n not in constants and _aligned(v)
    }
    key = (self.fn.__qualname__, self.fn.__module__, tuple(signature.items()), tuple(constants.items()), str(divisible))
    if key not in compiled:
        program = triton.compile(ASTSource(self, signature, constants, divisible), HOPPER, options)
        compiled[key] = _facts(f"{self.fn.__module__.split('.')[-1]}.{self.fn.__name__}", program)


def _type(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


def _aligned(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)


def _facts(name: str, program: Any) -> dict[str, Any]:
    """Return a thread's registers and stack, a program's shared memory and the widest memory access, in bytes."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        report = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = re.search(r"REG:(\d+) STACK:(\d+)", report.stdout).groups()  # type: ignore[union-attr]
    widths = re.findall(r"(?:ld|st)\.global\S*?(?:\.v(\d))?\.b(\d+)", program.asm["ptx"])
    widest = max(int(count or 1) * int(bits) // 8 for count, bits in widths)
    sizes = {"stack": int(stack), "shared": program.metadata.shared, "widest": widest}
    return {"kernel": name, "registers": int(registers)} | sizes


def main() -> None:
    """Compile the cases of a fit, forward and backward; with --odd, the odd ones too."""
    from dipfast.kernels import checks

    from dipfast.bench import kernel_cases
    from dipfast.bench.judge import results

    JITFunction.run = compile_only
    checks.missing = lambda device: None
    device = torch.device("cpu")
    found = kernel_cases.all_cases(device, side=32)
    if "--odd" in sys.argv:
        found += [make(seed=0) for make in kernel_cases.odd_cases(device)]
    for case in found:
        results(case, case.fused, None)
    for facts in compiled.values():
        print(json.dumps(facts))


if __name__ == "__main__":
    sys.exit(main())
