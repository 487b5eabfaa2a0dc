"""What is believed of the costs of a space's blocks before any network is timed: they resemble one another.

A cost is a smooth function of a block's sizes, with corrections for what it is, for where it is, and for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np

from nas.blocks import Block, Conv
from nas.errors import BadInput
from nas.space import Archs, SearchSpace
from nas.tables.fit.calibration import elements
from nas.tables.fit.gaussian import Array
from nas.tables.table import LatencyTable

KIND, PLACE, OWN = 0.1, 0.1, 0.1
"""Expected corrections, relative to the smooth cost: for what a block is, where it is, and for itself."""


def loads(space: SearchSpace, archs: Archs) -> Array:
    """``(n, blocks + 1)``: how often each block occurs in each network; the last column is 1, for the fixed cost."""
    ids = space.block_ids(archs)
    counts = np.zeros((len(ids), len(space.blocks) + 1))
    for slot in range(ids.shape[1]):
        counts[np.arange(len(ids)), ids[:, slot] - 1] += ids[:, slot] > 0  # an empty slot adds 0 to the last column
    counts[:, -1] = 1.0
    return counts


def belief(
    space: SearchSpace, counts: Array, priors: Sequence[LatencyTable] = (), *, own: float = 1.0
) -> tuple[Array, Array]:
    """``(factor (blocks + 1, r), typical (blocks + 1,))``: costs are ``factor @ w``, w standard normal, a priori.

    In units of the mean latency of the networks in ``counts``. ``typical``: what the size of a block suggests, or
    ``priors`` say. ``own``: scales what is expected beyond sizes and ``priors``.
    """
    blocks = space.blocks
    sizes = np.array([_sizes(b) for b in blocks])
    wide = np.zeros((len(blocks) + 1, _WIDE))
    wide[:-1, :-1] = sizes
    wide[-1, -1] = 1.0
    wide /= (counts @ wide).mean(axis=0)
    typical = wide.mean(axis=1)
    shrunk = 1.0
    if priors:
        alone = np.array([_alone(p, blocks, typical) for p in priors]).T
        alone /= (counts @ alone).mean(axis=0)
        typical = alone.mean(axis=1)
        wide = np.column_stack([own * wide, alone / np.sqrt(len(priors))])
        shrunk = 0.3
    kind = _crossed(np.concatenate([_one_hot(blocks, f) for f in _ATTRIBUTES], axis=1), wide[:-1, :4])
    place = _crossed(_one_hot(blocks, _place), wide[:-1, :4])
    structured = np.zeros((len(blocks) + 1, kind.shape[1] + place.shape[1]))
    structured[:-1] = np.column_stack([KIND * kind, PLACE * place])
    each = np.diag(OWN * np.maximum(typical, 1e-3 * typical.max()))
    return np.column_stack([wide, own * shrunk * structured, own * each]), typical


def _alone(prior: LatencyTable, blocks: Sequence[Block], typical: Array) -> Array:
    """What ``prior`` says of each block and the fixed cost; of blocks that it lacks, what their size suggests."""
    has = np.array([b.key in prior.row_of for b in blocks])
    if not has.any():
        raise BadInput(f"table {prior.name} has none of the blocks to fit, so it cannot be the prior")
    known = prior.lookup([b for b, there in zip(blocks, has, strict=True) if there])
    alone = typical * (known.sum() / typical[:-1][has].sum())
    alone[:-1][has] = known
    alone[-1] = prior.fixed_ms
    return alone


_WIDE = 6  # five sizes and the fixed cost

_ATTRIBUTES: tuple[Callable[[Block], Hashable], ...] = (
    lambda b: b.kind,
    lambda b: getattr(b, "kernel", 0),
    lambda b: getattr(b, "stride", 1),
    lambda b: getattr(b, "se", 0) > 0,
    lambda b: getattr(b, "act", ""),
    lambda b: getattr(b, "groups", 1),
    lambda b: round(getattr(b, "mid", b.in_ch) / b.in_ch, 1),
)


def _place(block: Block) -> Hashable:
    return block.kind, block.in_ch, block.out_ch, getattr(block, "stride", 1)


def _sizes(block: Block) -> list[float]:
    """One call, MACs of full and of depthwise convolutions, activation elements, weights."""
    convs = [p for p in block.parts().values() if isinstance(p, Conv)]
    depthwise = sum(p.macs for p in convs if p.depthwise)
    inner = sum(p.out_ch * p.size**2 for p in convs)
    return [1.0, block.macs - depthwise, depthwise, float(elements([block])[0]) + inner, block.weights]


def _one_hot(blocks: Sequence[Block], value: Callable[[Block], Hashable]) -> Array:
    values = [value(b) for b in blocks]
    distinct = sorted(set(values), key=str)
    return np.array([[v == d for d in distinct] for v in values], dtype=float)


def _crossed(groups: Array, sizes: Array) -> Array:
    crossed = (groups[:, :, None] * sizes[:, None, :]).reshape(len(groups), -1)
    return crossed[:, crossed.any(axis=0)]
