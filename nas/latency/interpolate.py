"""Blocks that a table does not hold: an estimate from measured ones of the same make, with its error.

Used for pruned networks, whose channel counts lie between those of a space. Within one make (kind, kernel, stride,
squeeze-excite or not, activation, residual; any activation where that leaves too few) latency is smooth in the sizes: a ridge regression of log latency on
logarithms of MACs, activation and weight counts, corrected by the residuals of the nearest measured blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block, Conv
from nas.errors import BadInput
from nas.latency.table import LatencyTable

SLACK = 2.0
"""How far outside the measured range of channels or size an estimate is still given, as a factor."""

_NEIGHBOURS = 4
_FEWEST = 6


def estimate(table: LatencyTable, blocks: Sequence[Block]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """``(ms (n,), relative error (n,))`` of ``blocks`` inside a network.

    Blocks of the table keep their own value, with the standard error of their median. For the others the error is that
    of the same estimate on measured blocks left out one at a time (root mean square over the make).
    Raises BadInput for a block of a make that the table lacks, or with channels or size more than a factor
    of 2 outside the measured range: there is nothing there to interpolate between.
    """
    known = {key: i for i, key in enumerate(table.rows["block"])}
    # standard error of a median; from the lower half only, because disturbances stretch the upper one
    deviation = (table.rows["latency_ms"] - table.rows["p10_ms"]) / 1.28
    spread = (1.25 * deviation / table.rows["latency_ms"] / np.sqrt(table.rows["runs"])).to_numpy(float)
    ms, error = np.empty(len(blocks)), np.empty(len(blocks))
    makes: dict[tuple[object, ...], list[int]] = {}
    for i, block in enumerate(blocks):
        if block.key in known:
            ms[i], error[i] = table.effective_ms[known[block.key]], spread[known[block.key]]
        else:
            makes.setdefault(make_of(block), []).append(i)
    for make, rows in makes.items():
        same = _alike(table, make)
        wanted = [blocks[i] for i in rows]
        _refuse_outside(table, [table.blocks[i] for i in same], wanted)
        ms[rows], error[rows] = _interpolate(
            _features([table.blocks[i] for i in same]), np.log(table.effective_ms[same]), _features(wanted)
        )
    return ms, error


def _interpolate(
    known: NDArray[np.float64], log_ms: NDArray[np.float64], wanted: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    centre, width = known.mean(0), known.std(0) + 1e-9
    a, b = (known - centre) / width, (wanted - centre) / width
    design = np.column_stack([np.ones(len(a)), a])
    gram = design.T @ design + 1e-2 * np.diag([0.0] + [1.0] * a.shape[1])
    solved = np.linalg.solve(gram, design.T)
    residual = log_ms - design @ (solved @ log_ms)
    leverage = np.clip(np.einsum("ij,ji->i", design, solved), 0, 0.99)
    left_out = residual / (1 - leverage)  # of a regression that never saw the row
    among = _weights(a, a, exclude_self=True)
    error = float(np.sqrt(np.mean((left_out - among @ left_out) ** 2)))
    log_wanted = np.column_stack([np.ones(len(b)), b]) @ (solved @ log_ms) + _weights(b, a) @ residual
    return np.exp(log_wanted), np.full(len(b), error)


def _weights(to: NDArray[np.float64], at: NDArray[np.float64], *, exclude_self: bool = False) -> NDArray[np.float64]:
    """Inverse-distance weights of the few nearest of ``at`` for each of ``to``."""
    distance = np.sqrt(((to[:, None] - at[None]) ** 2).sum(-1)) + 1e-3
    if exclude_self:
        np.fill_diagonal(distance, np.inf)
    nearest = np.sort(distance, axis=1)[:, min(_NEIGHBOURS, distance.shape[1] - 1) - 1][:, None]
    weight = np.where(distance <= nearest, 1 / distance, 0.0)
    return weight / weight.sum(1, keepdims=True)


def _alike(table: LatencyTable, make: tuple[object, ...]) -> NDArray[np.int64]:
    """Rows of the same make; where those are too few, of any activation."""
    makes = [make_of(b) for b in table.blocks]
    same = [i for i, m in enumerate(makes) if m == make]
    if len(same) < _FEWEST:
        same = [i for i, m in enumerate(makes) if m[1:] == make[1:]]
    return np.array(same, dtype=np.int64)


def make_of(block: Block) -> tuple[object, ...]:
    """What two blocks share when only their channels and size differ."""
    names = ("kernel", "stride", "residual")
    return (
        block.act,  # type: ignore[attr-defined]
        block.kind,
        *(getattr(block, n, None) for n in names),
        getattr(block, "groups", 1),
        getattr(block, "se", 0) > 0,
        getattr(block, "features", 0) > 0,
    )


def _features(blocks: Sequence[Block]) -> NDArray[np.float64]:
    rows = []
    for b in blocks:
        convolutions = [p for p in b.parts().values() if isinstance(p, Conv)]
        depthwise = sum(p.macs for p in convolutions if p.depthwise)
        rows.append([b.macs - depthwise, depthwise, b.live_elements, b.weights, b.size**2, b.out_ch])
    return np.log(np.array(rows, dtype=np.float64) + 1)


def _refuse_outside(table: LatencyTable, same: Sequence[Block], wanted: Sequence[Block]) -> None:
    for block in wanted:
        if len(same) < _FEWEST:
            raise BadInput(
                f"table {table.name} has {len(same)} blocks like [{block.key}] in all but channels and size, "
                f"an estimate needs {_FEWEST}"
            )
        for field in ("in_ch", "mid", "hidden", "out_ch", "se", "size"):
            value = getattr(block, field, None)
            if not value:
                continue
            seen = [getattr(b, field) for b in same]
            if not min(seen) / SLACK <= value <= max(seen) * SLACK:
                raise BadInput(
                    f"[{block.key}]: {field} {value} is outside the {min(seen)}..{max(seen)} that table {table.name} measured"
                )
