"""What an item failed of, in one line: the kind and reason of an exception."""

from __future__ import annotations

import traceback

import torch

from dipfast.errors import DipfastError, ItemError
from dipfast.files import DISK_IS_OUT

CPU_ALLOCATOR = "DefaultCPUAllocator: "  # how torch says that the machine's memory is used up
OUT_OF_MEMORY = "out-of-memory"


def is_dead(error: Exception) -> bool:
    """Whether the device takes no more work of this process: an error of its own, but for a lack of memory."""
    return isinstance(error, torch.AcceleratorError) and not isinstance(error, torch.OutOfMemoryError)


def is_out_of_memory(error: Exception) -> bool:
    """Whether ``error`` says that a device's memory is used up, rather than that a fit was refused for its size."""
    return not isinstance(error, ItemError) and reason_of(error)["kind"] == OUT_OF_MEMORY


def reason_of(error: Exception) -> dict[str, str]:
    """Kind and reason of a failure; where the run cannot go on for any item, also what broke."""
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    match error:
        case ItemError():
            return {"kind": error.kind, "reason": str(error)}
        case DipfastError():
            return {"kind": "machine", "reason": str(error)}
        case torch.OutOfMemoryError() | MemoryError():
            return {"kind": OUT_OF_MEMORY, "reason": f"not enough memory: {text}"}
        case RuntimeError() if CPU_ALLOCATOR in text:
            return {"kind": OUT_OF_MEMORY, "reason": f"not enough memory: {text.partition(CPU_ALLOCATOR)[2]}"}
        case OSError():
            broken = f"cannot be written ({error.strerror}); what is done stays done"
            about = {"broken": broken} if error.errno in DISK_IS_OUT else {}  # no later item fares better
            return {"kind": "unwritable", "reason": str(error), **about}
    trace = "".join(traceback.format_exception(error))
    return {"kind": "internal", "reason": f"{type(error).__name__}: {text}", "traceback": trace}
