"""What a search optimises: objectives, cheap and expensive, and constraints on them.

``nas.objectives.accuracy`` needs torch and is imported from its own module.
"""

from nas.objectives.combine import penalized, weighted
from nas.objectives.memory import flash_size, peak_sram
from nas.objectives.objective import Constraint, Objective, additive, energy, flash, latency, macs, params, peak_memory

__all__ = [
    "Constraint",
    "Objective",
    "additive",
    "energy",
    "flash",
    "flash_size",
    "latency",
    "macs",
    "params",
    "peak_memory",
    "peak_sram",
    "penalized",
    "weighted",
]
