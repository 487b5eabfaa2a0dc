"""Buffers of many networks at once: what each block needs, put in a row for every network made of the blocks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


class Buffers:
    """``own``: of every block, its buffers as ``(k, fields)`` in order of operators: its input first, its output last.

    Fields 0 to 2 of a buffer: bytes, and the first and last operator of its block that need it; field 3 is
    something of which a buffer that two blocks share has the larger value; the others are anyone's.
    ``ops``: operators of every block. Blocks are numbered from 1, 0 where a network has none.
    """

    def __init__(self, own: Sequence[NDArray[np.integer]], ops: Sequence[int]) -> None:
        self.most = max(len(b) for b in own) - 1  # the input is the output of the block before
        self._inputs = np.zeros((own[0].shape[1], len(own) + 1), dtype=np.int64)
        self._count = np.array([0, *(len(b) - 1 for b in own)])
        self._ops = np.array([0, *ops])
        self._fields = np.zeros((own[0].shape[1], len(own) + 1, self.most), dtype=np.int64)
        for row, buffers in enumerate(own, start=1):
            self._inputs[:, row] = buffers[0]
            self._fields[:, row, : len(buffers) - 1] = np.asarray(buffers[1:]).T

    def of(self, ids: NDArray[np.integer]) -> Ints:
        """The fields ``(fields, n, most)`` of the networks ``ids (n, slots)``, 0 behind the last buffer.

        Operators are counted through the network. A buffer that a block hands on lives until the next has read it.
        """
        ids = np.take_along_axis(ids, np.argsort(ids == 0, axis=1, kind="stable"), axis=1)  # empty slots to the end
        counts, ops = self._count[ids], self._ops[ids]
        start = 1 + np.cumsum(counts, axis=1) - counts
        op = np.cumsum(ops, axis=1) - ops
        out = np.zeros((len(self._fields), len(ids), 1 + int(counts.sum(axis=1).max(initial=0))), dtype=np.int64)
        out[:, :, 0] = self._inputs[:, ids[:, 0]]
        rows, slot, k = np.nonzero(np.arange(self.most) < counts[:, :, None])
        values = self._fields[:, ids[rows, slot], k]
        values[1:3] += op[rows, slot]
        out[:, rows, start[rows, slot] + k] = values
        rows, slot = np.nonzero(ids[:, 1:])
        column = start[rows, slot] + counts[rows, slot] - 1
        out[2, rows, column] = op[rows, slot + 1] + self._inputs[2, ids[rows, slot + 1]]
        out[3, rows, column] = np.maximum(out[3, rows, column], self._inputs[3, ids[rows, slot + 1]])
        return out
