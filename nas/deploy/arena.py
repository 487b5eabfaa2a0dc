"""Memory of int8 networks on a microcontroller, for many networks at once: TensorFlow Lite Micro's arena, and flash.

The arena holds the activations and, for as long as the interpreter lives, its own records. Activations are placed as
TensorFlow Lite Micro's planner places them (greedy by size: Pisarchyk and Lee, "Efficient memory management for deep
neural net inference", 2020), the same to the byte. The records' sizes, and what a file holds besides weights, are
constants below: those of the records are TensorFlow Lite Micro's own on a 64-bit machine (on a 32-bit one pointers, and
so records, are smaller), with its reference kernels (CMSIS-NN's want some scratch memory of their own); all were fitted
to 155 networks and single blocks of five spaces, and ``tests/test_memory.py`` checks them on others.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block
from nas.deploy.buffers import Buffers, Ints
from nas.deploy.litert_graph import Graph, Weight, lowered
from nas.errors import MissingPackage, NasError

MODEL_VERSION = 1
"""Rises whenever a prediction changes: results of earlier searches are then not reused."""
ALIGNMENT = 16
"""Bytes, of every buffer in the arena."""

_RECORDS = {  # bytes of one operator, besides what _NODE and _CHANNEL count
    "ADD": 71,
    "CONV_2D": 111,
    "DEPTHWISE_CONV_2D": 103,
    "FULLY_CONNECTED": 123,
    "HARD_SWISH": 32,
    "LOGISTIC": 15,
    "MEAN": 70,
    "MUL": 53,
    "PAD": 65,
    "RESHAPE": 29,
    "TRANSPOSE": 15,
}
_NODE, _TENSOR, _CHANNEL, _INTERPRETER = 64, 24, 8, 716
_MEAN_SCRATCH = (16, 16)  # two index arrays, besides a 32-bit sum per output

FILE = 621
"""Bytes of a file besides its blocks: header, input, signature."""
# scales and zero points are stored for every channel, a name and a record for every tensor
_FILE_CHANNEL, _FILE_WEIGHT, _FILE_LITERAL, _FILE_ACTIVATION = 24, 110, 98, 134

_CHUNK = 256  # networks planned at a time
_FAR = 1 << 30


@dataclass(frozen=True)
class _Buffer:
    """Alive from operator ``first`` to ``last`` of its block; ``scratch``: within an operator only."""

    size: int
    first: int
    last: int
    scratch: bool = False


class MemoryModel:
    """Memory of int8 networks made of ``blocks``, batch 1.

    Each network is a row of ids: positions in ``blocks`` plus one, 0 where there is none (``SearchSpace.block_ids``).
    ``flash (blocks,)``: bytes that each block adds to a file, besides ``FILE``. ``alive (blocks,)``: most bytes of
    activations alive at once in each, which is the least that any network with it needs; ``kept (blocks,)``: of records.
    """

    version = f"tflm {MODEL_VERSION}"

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        graphs = [lowered([block]) for block in self.blocks]
        buffers = [_buffers(graph) for graph in graphs]
        self.flash = np.array([_flash(g) for g in graphs])
        self.alive = np.array([_alive(b) for b in buffers])
        own = [np.array([(b.size, b.first, b.last, b.scratch) for b in buffer]) for buffer in buffers]
        self._buffers = Buffers(own, [len(g.ops) for g in graphs])
        self.kept = np.array([_records(g) for g in graphs])
        self._literals = _bit_sets([_literals(g) for g in graphs])

    def arena(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of TensorFlow Lite Micro's arena, for the networks ``ids (n, slots)``."""
        return self.activations(ids) + self.records(ids)

    def stored(self, ids: NDArray[np.integer]) -> Ints:
        """``(n,)`` bytes of the networks' files."""
        return FILE + np.concatenate([[0], self.flash])[ids].sum(axis=1)

    def activations(self, ids: NDArray[np.integer]) -> Ints:
        """The part of the arena that activations share."""
        chunks = [self._planned(ids[i : i + _CHUNK]) for i in range(0, len(ids), _CHUNK)]
        return np.concatenate(chunks) if chunks else np.zeros(0, dtype=np.int64)

    def records(self, ids: NDArray[np.integer]) -> Ints:
        """The part of the arena that the interpreter keeps for itself."""
        # networks store equal literals once
        literals = np.bitwise_count(np.bitwise_or.reduce(self._literals[ids], axis=1)).sum(axis=-1, dtype=np.int64)
        return _INTERPRETER + _TENSOR * (literals + 1) + np.concatenate([[0], self.kept])[ids].sum(axis=1)

    def _planned(self, ids: NDArray[np.integer]) -> Ints:
        size, first, last, scratch = self._buffers.of(ids)
        (n, width), most = size.shape, self._buffers.most
        # largest first; of equal ones the last, and operators' scratch before activations, as the original does it
        order = np.argsort(-(size * (2 * width) + scratch * width + np.arange(width)), axis=1, kind="stable")
        near = np.arange(-most, most + 1)  # no other buffer can be alive together with one
        edge = ((0, 0), (most, most))
        size, first, last = (np.pad(field, edge).astype(np.int32).ravel() for field in (size, first, last))
        offset = np.full(size.shape, _FAR, dtype=np.int32)  # far away: not placed yet
        row = (width + 2 * most) * np.arange(n) + most
        peak = np.zeros(n, dtype=np.int32)
        for i in order.T:
            here = i + row
            mine = size.take(here)
            if not mine.any():
                break
            others = here[:, None] + near
            start = offset.take(others)
            apart = (first.take(others) > last.take(here)[:, None]) | (last.take(others) < first.take(here)[:, None])
            start[apart] = _FAR
            end = start + size.take(others)
            at = np.zeros(n, dtype=np.int32)
            while True:  # past every buffer that is in the way, until none is
                blocked = np.where((start < (at + mine)[:, None]) & (end > at[:, None]), end, 0).max(axis=1)
                if not blocked.any():
                    break
                np.maximum(at, blocked, out=at)
            offset[here] = np.where(mine > 0, at, _FAR)
            np.maximum(peak, at + mine, out=peak)
        return peak.astype(np.int64)


def recorded_arena(model: bytes) -> tuple[int, int]:
    """(activations, records) in bytes, as TensorFlow Lite Micro itself records them for a serialised int8 model.

    Raises NasError when it cannot load the model, MissingPackage without tflite-micro.
    """
    try:
        from tflite_micro import runtime
    except ImportError:
        raise MissingPackage("tflite-micro", "ethos-u") from None
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)  # it prints, and has no other way to tell
        try:
            runtime.Interpreter.from_bytes(model, arena_size=16 * len(model) + (1 << 22)).print_allocations()
        except (RuntimeError, TypeError, ValueError):  # it does not say which
            raise NasError("TensorFlow Lite Micro cannot load the model") from None
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        said.seek(0)
        text = said.read().decode(errors="replace")
    found = dict(re.findall(r"Arena allocation (head|tail) (\d+) bytes", text))
    if len(found) != 2:
        raise NasError("TensorFlow Lite Micro's record of its arena is not as expected; is its version supported?")
    return int(found["head"]), int(found["tail"])


def _buffers(graph: Graph) -> list[_Buffer]:
    """The buffers of one block: its input, what operators compute and need, and last its output."""
    born, last = {graph.input: 0}, {graph.input: 0}
    scratch: dict[int, list[_Buffer]] = {}
    for i, op in enumerate(graph.ops):
        for tensor in op.inputs:
            if graph.tensors[tensor].constant is None:
                last[tensor] = i
        born[op.output] = last[op.output] = i
        if op.kind == "MEAN":
            needs = (4 * graph.tensors[op.output].elements, *_MEAN_SCRATCH)
            scratch[i] = [_Buffer(_aligned(size), i, i, scratch=True) for size in needs]
    buffers: list[_Buffer] = []
    for tensor, first in born.items():
        if tensor != graph.input:
            buffers += scratch.get(first, [])
        buffers.append(_Buffer(_aligned(graph.tensors[tensor].elements), first, last[tensor]))
    return buffers


def _alive(buffers: Sequence[_Buffer]) -> int:
    return max(sum(b.size for b in buffers if b.first <= i <= b.last) for i in {b.first for b in buffers})


def _records(graph: Graph) -> int:
    """Bytes that a block's operators and tensors (without input and literals) keep."""
    per_op = sum(_NODE + _RECORDS[op.kind] for op in graph.ops)
    return per_op + _TENSOR * (len(_weights(graph)) + len(graph.ops)) + _CHANNEL * _channels(graph)


def _flash(graph: Graph) -> int:
    """Bytes that a block adds to a file: int8 weights, 32-bit biases, and what is stored with them.

    A literal that several blocks use is stored once, yet counted for each: at most some 100 bytes too many per block.
    """
    weights = _weights(graph)
    stored = sum(elements * (4 if weight.layout == "O" else 1) for weight, elements in weights)
    return (
        stored
        + _FILE_CHANNEL * _channels(graph)
        + _FILE_WEIGHT * len(weights)
        + _FILE_LITERAL * len(_literals(graph))
        + _FILE_ACTIVATION * len(graph.ops)  # each has one output
    )


def _weights(graph: Graph) -> list[tuple[Weight, int]]:
    """Weights and biases, each with its number of elements."""
    return [(t.constant, t.elements) for t in graph.tensors if isinstance(t.constant, Weight)]


def _channels(graph: Graph) -> int:
    """Output channels of all convolutions and linear layers: each has a scale of its own."""
    return sum(elements for weight, elements in _weights(graph) if weight.layout == "O")


def _literals(graph: Graph) -> set[bytes]:
    return {
        repr((t.shape, t.constant.dtype.str)).encode() + t.constant.tobytes()
        for t in graph.tensors
        if isinstance(t.constant, np.ndarray)
    }


def _bit_sets(sets: Sequence[set[bytes]]) -> NDArray[np.uint8]:
    """``(1 + sets, bytes)``: one bit per distinct member, an empty set first."""
    members = {m: i for i, m in enumerate(sorted(set().union(*sets)))}
    bits = np.zeros((len(sets) + 1, len(members)), dtype=bool)
    for row, own in enumerate(sets, start=1):
        bits[row, [members[m] for m in own]] = True
    return np.packbits(bits, axis=1)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
