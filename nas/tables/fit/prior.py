"""What is assumed of the costs of a space's blocks before any network is timed: they resemble one another.

A cost is a smooth function of a block's sizes, with corrections for what it is, for where it is, and for itself.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from nas.blocks import Block
from nas.errors import BadInput
from nas.space import Floats, SearchSpace
from nas.tables.features import attributes, convolved, elements, macs, macs_by_operator, weights
from nas.tables.table import LatencyTable

KIND, PLACE, OWN = 0.1, 0.1, 0.1
"""Expected corrections, relative to the smooth cost: for what a block is, where it is, and for itself."""

_ATTRIBUTES = {"kind": "", "kernel": 0, "stride": 1, "se": False, "act": "", "groups": 1}
"""What corrections are for, and what blocks without it count as."""


def cost_prior(
    space: SearchSpace, counts: Floats, tables: Sequence[LatencyTable] = (), *, own: float = 1.0
) -> tuple[Floats, Floats]:
    """``(factor (blocks + 1, r), typical (blocks + 1,))``: costs are ``factor @ w``, w standard normal, a priori.

    In units of the mean latency of the networks in ``counts (n, blocks + 1)`` (``nas.tables.features.block_counts``).
    ``typical``: what the size of a block suggests, or ``tables`` of known devices say. ``own``: scales what is expected
    beyond sizes and ``tables``. Raises BadInput for a table with none of the blocks.
    """
    blocks = space.blocks
    sizes = _sizes(blocks)
    smooth = np.zeros((len(blocks) + 1, sizes.shape[1] + 1))
    smooth[:-1, :-1] = sizes
    smooth[-1, -1] = 1.0  # the fixed cost
    smooth /= (counts @ smooth).mean(axis=0)
    typical = smooth.mean(axis=1)
    wide, shrunk = smooth, 1.0
    if tables:
        known = np.array([_known(t, blocks, typical) for t in tables]).T
        known /= (counts @ known).mean(axis=0)
        typical = known.mean(axis=1)
        wide = np.column_stack([own * smooth, known / np.sqrt(len(tables))])
        shrunk = 0.3
    kind = _crossed(np.concatenate([_one_hot(column) for column in _kinds(blocks)], axis=1), wide[:-1, :4])
    place = _crossed(_one_hot([_place(b) for b in blocks]), wide[:-1, :4])
    structured = np.zeros((len(blocks) + 1, kind.shape[1] + place.shape[1]))
    structured[:-1] = np.column_stack([KIND * kind, PLACE * place])
    each = np.diag(OWN * np.maximum(typical, 1e-3 * typical.max()))
    return np.column_stack([wide, own * shrunk * structured, own * each]), typical


def _known(table: LatencyTable, blocks: Sequence[Block], typical: Floats) -> Floats:
    """``(blocks + 1,)``: what ``table`` says of each block and the fixed cost; what their size suggests where it lacks them."""
    has = np.array([b.key in table.row_of for b in blocks])
    if not has.any():
        raise BadInput(f"table {table.name} has none of the blocks to fit, so it cannot be the prior")
    known = table.lookup([b for b, there in zip(blocks, has, strict=True) if there])
    alone = typical * (known.sum() / typical[:-1][has].sum())
    alone[:-1][has] = known
    alone[-1] = table.fixed_ms
    return alone


def _sizes(blocks: Sequence[Block]) -> Floats:
    """``(blocks, 5)``: one call, MACs of full and of depthwise convolutions, activation elements, weights."""
    depthwise = macs_by_operator(blocks)[:, 2]
    activations = elements(blocks) + convolved(blocks)
    return np.column_stack([np.ones(len(blocks)), macs(blocks) - depthwise, depthwise, activations, weights(blocks)])


def _kinds(blocks: Sequence[Block]) -> list[list[Hashable]]:
    """Columns, each of length ``blocks``: what a block is."""
    found = [attributes(b) for b in blocks]
    expansion: list[Hashable] = [round(getattr(b, "mid", b.in_ch) / b.in_ch, 1) for b in blocks]
    return [*([a.get(name, default) for a in found] for name, default in _ATTRIBUTES.items()), expansion]


def _place(block: Block) -> Hashable:
    return block.kind, block.in_ch, block.out_ch, getattr(block, "stride", 1)


def _one_hot(values: Sequence[Hashable]) -> Floats:
    """``(n, different values)``."""
    distinct = sorted(set(values), key=str)
    return np.array([[v == d for d in distinct] for v in values], dtype=float)


def _crossed(groups: Floats, sizes: Floats) -> Floats:
    """``(n, groups * sizes)``: every product of a group's column and a size's, those that are not all 0."""
    crossed = (groups[:, :, None] * sizes[:, None, :]).reshape(len(groups), -1)
    return crossed[:, crossed.any(axis=0)]
