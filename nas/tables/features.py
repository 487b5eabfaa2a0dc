"""What blocks and networks are, in numbers, before anything is timed: sizes, operations, make, and counts of blocks.

The one place that looks into a block. Fits, estimates and checks take their columns from here, so that a new block kind
serves all of them; fields are told apart by what they hold, not by a list of kinds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from nas.blocks import Block, Conv
from nas.space import Archs, Floats, SearchSpace

OPERATORS = ("full", "pointwise", "depthwise", "dense")
"""Kinds of MACs: kxk, 1x1 and depthwise convolutions; matrix times vector, which squeeze-excite is too."""

_STRUCTURE = ("kernel", "stride", "groups")  # whole numbers that say what a block does, not how large it is


def attributes(block: Block) -> dict[str, Hashable]:
    """What a block is, whatever its sizes: its kind, structure and texts, and which sizes it has at all.

    Not what takes no time: epsilon is folded, a squeeze layer has one pixel, and padding differs with a stride only.
    """
    found: dict[str, Hashable] = {"kind": block.kind}
    for name, value in _fields(block).items():
        if name not in ("eps", "se_act", "padding"):
            found[name] = value > 0 if _is_size(name, value) else value
    found["spared"] = any(convolution.spared for convolution in convolutions(block))
    return found


def make(block: Block, *, but: Sequence[str] = ()) -> Hashable:
    """Equal for blocks that differ in their sizes only, and in the attributes named by ``but``."""
    return tuple(pair for pair in attributes(block).items() if pair[0] not in but)


def size_names(blocks: Sequence[Block]) -> list[str]:
    """The fields of ``blocks`` that hold sizes, such as ``in_ch``."""
    one_of_each = {type(b): b for b in blocks}.values()
    return list(dict.fromkeys(n for b in one_of_each for n, v in _fields(b).items() if _is_size(n, v)))


def field(blocks: Sequence[Block], name: str) -> Floats:
    """``(blocks,)``: a number that blocks have as a field, 0 for those that have none of that name."""
    return np.array([getattr(b, name, 0) for b in blocks], dtype=np.float64)


def macs(blocks: Sequence[Block]) -> Floats:
    """``(blocks,)``: multiply-accumulates of one image."""
    return np.array([b.macs for b in blocks], dtype=np.float64)


def weights(blocks: Sequence[Block]) -> Floats:
    """``(blocks,)``: weights on the device."""
    return np.array([b.weights for b in blocks], dtype=np.float64)


def macs_by_operator(blocks: Sequence[Block]) -> Floats:
    """``(blocks, 4)``: MACs in the order of ``OPERATORS``."""
    found = np.zeros((len(blocks), len(OPERATORS)))
    for row, block in zip(found, blocks, strict=True):
        for part in block.parts().values():
            row[_operator(part)] += part.macs
    return found


def elements(blocks: Sequence[Block]) -> Floats:
    """``(blocks,)``: elements of the input plus those of the output."""
    shapes = np.array([(b.in_shape, b.out_shape) for b in blocks], dtype=np.float64).reshape(len(blocks), 2, 3)
    return np.asarray(shapes.prod(axis=2).sum(axis=1))


def convolved(blocks: Sequence[Block]) -> Floats:
    """``(blocks,)``: elements that the convolutions write, inner activations included."""
    return np.array([sum(c.out_ch * c.size**2 for c in convolutions(b)) for b in blocks], dtype=np.float64)


def live(blocks: Sequence[Block]) -> Floats:
    """``(blocks,)``: most activation elements alive at once."""
    return np.array([b.live_elements for b in blocks], dtype=np.float64)


def convolutions(block: Block) -> list[Conv]:
    """Those among its parts."""
    return [part for part in block.parts().values() if isinstance(part, Conv)]


def block_counts(space: SearchSpace, archs: Archs) -> Floats:
    """How often each of ``archs (n, genes)`` has each block of the space, ``(n, blocks)`` and a last column of 1 for the rest."""
    ids = space.block_ids(archs)
    counts = np.zeros((len(ids), len(space.blocks) + 1))
    for slot in ids.T:
        counts[np.arange(len(ids)), slot - 1] += slot > 0  # an empty slot adds 0 to the last column
    counts[:, -1] = 1.0
    return counts


def _operator(part: object) -> int:
    if not isinstance(part, Conv):
        return OPERATORS.index("dense")
    kernel = "pointwise" if part.kernel == 1 else "full"
    return OPERATORS.index("depthwise" if part.depthwise else "dense" if part.size == 1 else kernel)


def _fields(block: Block) -> dict[str, Any]:
    return {f.name: getattr(block, f.name) for f in dataclasses.fields(block)}


def _is_size(name: str, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and name not in _STRUCTURE
