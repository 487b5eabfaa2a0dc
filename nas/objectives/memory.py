"""What the int8 network needs on a microcontroller, for every architecture of a space (``nas.deploy.arena``)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.deploy.arena import FILE, MODEL_VERSION, MemoryModel
from nas.objectives.objective import Objective, additive
from nas.space import Archs, SearchSpace


def peak_sram(space: SearchSpace) -> Objective:
    """Bytes of TensorFlow Lite Micro's tensor arena: activations as its planner places them, and its own records.

    Of the int8 network at batch 1. Some 10,000 architectures per second; ``peak_memory`` is far faster and an estimate.
    """
    model = MemoryModel(space.blocks)

    def fn(archs: Archs) -> NDArray[np.float64]:
        return model.arena(space.block_ids(archs)).astype(np.float64)

    return Objective(
        name="peak_sram", fn=fn, unit="bytes", identity=f"peak_sram {MODEL_VERSION} of {space.fingerprint}"
    )


def flash_size(space: SearchSpace) -> Objective:
    """Bytes of the int8 .tflite file: weights, their scales, and the description of the graph."""
    return additive(space, "flash_size", MemoryModel(space.blocks).flash, unit="bytes", fixed=FILE)
