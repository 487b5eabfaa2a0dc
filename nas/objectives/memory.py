"""What the int8 network needs on a microcontroller, for every architecture of a space (``nas.deploy.memory``)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from nas.checks import checked
from nas.deploy.arena import FILE
from nas.deploy.memory import McuRuntime, Memory, memory_of
from nas.objectives.objective import Objective, additive
from nas.space import Archs, Extremes, Floats, SearchSpace

_NEVER = 1e15  # bytes


@checked
def peak_sram(space: SearchSpace, runtime: McuRuntime = "tflm") -> Objective:
    """Bytes of RAM that an int8 network needs at batch 1.

    "tflm": TensorFlow Lite Micro's tensor arena: activations as its planner places them, and its own records. "c": the
    arena of the C library (``nas.deploy.c.plan``), and what the firmware needs besides. Thousands of architectures per
    second; ``peak_memory`` is far faster and an estimate. The extremes are of architectures that need that much; none
    needs less but for the odd literal (24 bytes each) or gap in the plan, while some may need a little more. Raises
    BadInput for a space with a block kind that the runtime cannot run.
    """
    model = memory_of(space.blocks, runtime)

    def fn(archs: Archs) -> Floats:
        return model.arena(space.block_ids(archs)).astype(np.float64)

    ends = np.stack([_frugal(space, model), _lavish(space, model)])
    return _between("peak_sram", space, fn, ends, model)


@checked
def flash_size(space: SearchSpace, runtime: McuRuntime = "tflm") -> Objective:
    """Bytes of flash of an int8 network.

    "tflm": the .tflite file: weights, their scales, and the description of the graph. "c": the linked C library with
    its weights. Raises BadInput for a space with a block kind that the runtime cannot run.
    """
    model = memory_of(space.blocks, runtime)
    if runtime == "tflm":
        return additive(space, "flash_size", model.flash, unit="bytes", fixed=FILE)

    def fn(archs: Archs) -> Floats:
        return model.stored(space.block_ids(archs)).astype(np.float64)

    ends = space.extremes(model.flash)
    return _between("flash_size", space, fn, np.stack([ends.argmin, ends.argmax]), model)


def _between(name: str, space: SearchSpace, fn: Callable[[Archs], Floats], ends: Archs, model: Memory) -> Objective:
    """The objective ``fn``, whose extremes are those of ``ends (2, genes)``."""
    low, high = fn(ends).tolist()
    return Objective(
        name=name,
        fn=fn,
        unit="bytes",
        extremes=Extremes(low, high, ends[0], ends[1]),
        identity=f"{name} {model.version} of {space.fingerprint}",
    )


def _frugal(space: SearchSpace, model: Memory) -> Archs:
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


def _lavish(space: SearchSpace, model: Memory) -> Archs:
    """An architecture with the neediest block, and with all the records that go with it."""
    planned = model.activations(1 + np.arange(len(space.blocks))[:, None])
    return space.extremes(model.kept + np.where(planned == planned.max(), _NEVER, 0)).argmax
