"""One optimisation of one generator: a function of tensors that knows no file, no manifest and no ground truth."""

from dipfast.fit.checkpoint import Checkpoint
from dipfast.fit.engine import Machine, choose_machine, compilations, keep_freed_memory
from dipfast.fit.lane import Course, Lane, abreast, finish
from dipfast.fit.loop import NO_HOOKS, Cancelled, Fit, FitResult, Hooks, fit, fitting
from dipfast.fit.plan import FitPlan, stream
from dipfast.fit.workbench import Workbench

__all__ = [
    "NO_HOOKS",
    "Cancelled",
    "Checkpoint",
    "Course",
    "Fit",
    "FitPlan",
    "FitResult",
    "Hooks",
    "Lane",
    "Machine",
    "Workbench",
    "abreast",
    "choose_machine",
    "compilations",
    "finish",
    "fit",
    "fitting",
    "keep_freed_memory",
    "stream",
]
