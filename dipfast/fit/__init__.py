"""One optimisation of one generator: a function of tensors that knows no file, no manifest and no ground truth."""

from dipfast.fit.checkpoint import Checkpoint
from dipfast.fit.engine import Machine, choose_machine, keep_freed_memory
from dipfast.fit.loop import Cancelled, FitResult, fit
from dipfast.fit.plan import FitPlan, stream
from dipfast.fit.workbench import Workbench

__all__ = [
    "Cancelled",
    "Checkpoint",
    "FitPlan",
    "FitResult",
    "Machine",
    "Workbench",
    "choose_machine",
    "fit",
    "keep_freed_memory",
    "stream",
]
