"""Refinement: a noisy picture and a rough answer, the pilot, give a better answer. Tensors in, tensors out.

This room knows no file, no task and no network.
"""

from dipfast.refine.ridge import Refined as Refined
from dipfast.refine.ridge import refine as refine
