"""What the int8 network needs on a microcontroller, for every architecture of a space (``nas.deploy.arena``)."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np

from nas.checks import checked
from nas.deploy.arena import FILE, MODEL_VERSION, MemoryModel
from nas.objectives.objective import Objective, additive
from nas.space import Archs, Extremes, Floats, SearchSpace

_NEVER = 1e15  # bytes


@checked
def peak_sram(space: SearchSpace) -> Objective:
    """Bytes of TensorFlow Lite Micro's tensor arena: activations as its planner places them, and its own records.

    Of the int8 network at batch 1. Some 10,000 architectures per second; ``peak_memory`` is far faster and an estimate.
    Its extremes are of architectures that need that much; none needs less but for the odd literal (24 bytes each) or
    gap in the plan, while some may need a little more.
    """
    model = MemoryModel(space.blocks)

    def fn(archs: Archs) -> Floats:
        return model.arena(space.block_ids(archs)).astype(np.float64)

    ends = np.stack([_frugal(space, model), _lavish(space, model)])
    low, high = fn(ends).tolist()
    return Objective(
        name="peak_sram",
        fn=fn,
        unit="bytes",
        extremes=Extremes(low, high, ends[0], ends[1]),
        identity=f"peak_sram {MODEL_VERSION} of {space.fingerprint}",
    )


@checked
def flash_size(space: SearchSpace) -> Objective:
    """Bytes of the int8 .tflite file: weights, their scales, and the description of the graph."""
    return additive(space, "flash_size", MemoryModel(space.blocks).flash, unit="bytes", fixed=FILE)


def _frugal(space: SearchSpace, model: MemoryModel) -> Archs:
    """The architecture ``(genes,)`` with the least sum of what its neediest block has alive and all its records.

    Bounding the neediest block leaves a sum, whose minimum is known exactly and falls as the bound rises: intervals of
    bounds are halved until none can hold anything better.
    """
    bounds = np.unique(model.alive)
    least = int(space.extremes(model.alive, combine=np.maximum).minimum)
    start = bisect_left(bounds.tolist(), least)
    known: dict[int, tuple[float, Archs]] = {}

    def records(i: int) -> float:
        if i not in known:
            found = space.extremes(np.where(model.alive <= bounds[i], model.kept, _NEVER))
            known[i] = found.minimum, found.argmin
        return known[i][0]

    def total(i: int) -> float:
        return float(bounds[i]) + records(i)

    best = min((start, len(bounds) - 1), key=total)
    intervals = [(start, len(bounds) - 1)]
    while intervals:
        low, high = intervals.pop()
        middle = (low + high) // 2
        if low < middle and bounds[low + 1] + records(high) < total(best):
            best = min(best, middle, key=total)
            intervals += [(middle, high), (low, middle)]
    return known[best][1]


def _lavish(space: SearchSpace, model: MemoryModel) -> Archs:
    """An architecture with the neediest block, and with all the records that go with it."""
    planned = model.activations(1 + np.arange(len(space.blocks))[:, None])
    return space.extremes(model.kept + np.where(planned == planned.max(), _NEVER, 0)).argmax
