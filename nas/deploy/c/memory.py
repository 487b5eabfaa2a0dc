"""RAM and flash of networks in the C library, for many at once: what the planner plans, and what the linker links.

RAM is the arena and a few bytes of the firmware around it. Flash is constants, a struct and a call for every operator,
and the code of the kernels that are used, each once. The sizes of code are of Cortex-M4 with -O2 and the firmware of
``nas/deploy/c/sources``; those of other cores differ by some hundred bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block
from nas.deploy.buffers import Buffers, Ints
from nas.deploy.c import kernels
from nas.deploy.c.plan import buffers_of, need, placed
from nas.deploy.c.program import Program, of_blocks

_CODE = {
    "add": 1084,
    "conv": 1052,
    "conv1x1": 1610,
    "depthwise": 4708,
    "fully_connected": 1092,
    "lookup": 32,
    "mean": 202,
    "mul": 372,
    "pad": 146,
    "shuffle": 90,
}
"""Bytes of a kernel's code, by kind; what 1x1 convolutions share with others is theirs."""
_STRUCT = {"add": 24, "lookup": 0, "mean": 16, "mul": 24, "pad": 20, "shuffle": 8}
_CONVOLUTION = 40  # the struct of everything with weights
_CALL = 20
_FIRMWARE = 1816
_RAM = 12
"""Bytes of variables of the firmware, besides the network's output."""
_CHUNK = 512  # networks planned at a time


class LibraryMemory:
    """``nas.deploy.memory.Memory`` of the C library."""

    version = "c 1"

    def __init__(self, blocks: Sequence[Block]) -> None:
        programs = [of_blocks([block]) for block in blocks]
        buffers = [buffers_of(program) for program in programs]
        self.alive = np.array([need(b) for b in buffers])
        self._outputs = np.array([0, *(b[-1, 0] for b in buffers)])
        self.kept = np.zeros(len(programs), dtype=np.int64)
        self.flash = np.array([_flash(program) for program in programs])
        self._buffers = Buffers(buffers, [len(program.ops) for program in programs])
        used = [[any(op.kind == kind for op in program.ops) for kind in _CODE] for program in programs]
        self._used = np.array([[False] * len(_CODE), *used])

    def activations(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of the arena of the networks ``ids (n, slots)``, as ``planned`` plans it for each."""
        chunks = [ids[i : i + _CHUNK] for i in range(0, len(ids), _CHUNK)]
        arenas = [placed(self._buffers.of(chunk), self._buffers.most)[1] for chunk in chunks]
        return np.concatenate(arenas) if arenas else np.zeros(0, dtype=np.int64)

    def arena(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of RAM: of the arena, and of the firmware around it, which copies the output out of it."""
        last = np.where(ids > 0, np.arange(ids.shape[1]), 0).argmax(axis=1)
        return self.activations(ids) + _RAM + self._outputs[ids[np.arange(len(ids)), last]]

    def stored(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of flash."""
        code = self._used[ids].any(axis=1) @ np.array(list(_CODE.values()))
        return _FIRMWARE + code + np.concatenate([[0], self.flash])[ids].sum(axis=1)


def _flash(program: Program) -> int:
    """Bytes that a block adds to flash, besides the code of kernels."""
    ops = program.ops
    return sum(kernels.constant_bytes(program, op) + _STRUCT.get(op.kind, _CONVOLUTION) + _CALL for op in ops)
