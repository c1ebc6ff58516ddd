"""One optimisation of one generator: a function of tensors that knows no file, no manifest and no ground truth."""

from dipfast.fit.checkpoint import Checkpoint
from dipfast.fit.engine import Machine, choose_machine, compilations, keep_freed_memory
from dipfast.fit.loop import NO_HOOKS, Cancelled, FitLoop, Hooks, fit, fitting
from dipfast.fit.program_cache import ProgramCache
from dipfast.fit.result import FitResult
from dipfast.fit.slots import Course, Slot, finish, finish_all
from dipfast.fit.step import derive_seed

__all__ = [
    "NO_HOOKS",
    "Cancelled",
    "Checkpoint",
    "Course",
    "FitLoop",
    "FitResult",
    "Hooks",
    "Machine",
    "ProgramCache",
    "Slot",
    "choose_machine",
    "compilations",
    "derive_seed",
    "finish",
    "finish_all",
    "fit",
    "fitting",
    "keep_freed_memory",
]
