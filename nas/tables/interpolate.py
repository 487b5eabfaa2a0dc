"""Blocks that a table does not hold: an estimate from measured ones of the same make, with its error.

Used for pruned networks, whose channel counts lie between those of a space. Within one make (kind, kernel, stride,
squeeze-excite or not, activation, padding, residual; where that leaves too few, any padding, then any activation)
latency is smooth in the sizes: a ridge regression of log latency on logarithms of MACs, activation and weight counts,
corrected by the residuals of the nearest measured blocks. A kernel that was not measured lies between the next smaller and the next larger one, by area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nas.blocks import Block
from nas.checks import checked
from nas.errors import BadInput
from nas.space import Floats
from nas.tables.features import field, live, macs, macs_by_operator, make, size_names, weights
from nas.tables.table import LatencyTable

PRUNED = 2.0
"""``beyond`` for pruned networks, whose channels may fall somewhat below the narrowest that were measured."""

_BEYOND = 0.7  # error added per factor of e beyond the measured range; large enough for the tables in latency_tables
_BETWEEN = 0.15  # error added between two kernels, as a share of the logarithm of their ratio
_NEIGHBOURS = 4
_FEWEST = 6
_LOOSE: tuple[tuple[str, ...], ...] = (
    (),
    ("spared",),
    ("act", "spared"),
)  # what may differ, the first of enough blocks

Estimate = tuple[Floats, Floats]
Rows = Mapping[Hashable, NDArray[np.int64]]


@checked
def estimate(
    table: LatencyTable, blocks: Sequence[Block], *, beyond: Annotated[float, Meta(ge=1, le=1000)] = 1.0
) -> Estimate:
    """``(ms (n,), relative error (n,))`` of ``blocks (n)`` inside a network.

    Blocks of the table keep their own value, with the standard error of their median. For the others the error is that
    of the same estimate on measured blocks left out one at a time (root mean square over the make), and more between
    kernels. ``beyond``: by what factor channels and size may lie outside the measured range (1: not at all); the error
    then grows with how far they do.
    Raises BadInput for a block of a make that the table lacks, or outside that range: there is nothing there to
    interpolate between.
    """
    return _estimate(table, _rows(table), blocks, beyond)


def _estimate(table: LatencyTable, makes: Rows, blocks: Sequence[Block], beyond: float) -> Estimate:
    ms, error = np.empty(len(blocks)), np.empty(len(blocks))
    unknown: dict[Hashable, list[int]] = {}
    for i, block in enumerate(blocks):
        if block.key in table.row_of:
            row = table.row_of[block.key]
            ms[i], error[i] = table.effective_ms[row], _known_error(table, row)
        else:
            unknown.setdefault(make(block), []).append(i)
    for rows in unknown.values():
        wanted = [blocks[i] for i in rows]
        same = _alike(makes, wanted[0])
        if len(same) < _FEWEST and (around := _kernels_around(table, makes, wanted[0])):
            ms[rows], error[rows] = _between_kernels(table, makes, wanted, *around, beyond)
            continue
        measured = [table.blocks[i] for i in same]
        outside = _outside(table, measured, wanted, beyond)
        ms[rows], error[rows] = _interpolate(_smooth(measured), np.log(table.effective_ms[same]), _smooth(wanted))
        error[rows] = np.hypot(error[rows], _BEYOND * np.log(outside))
    return ms, error


def _known_error(table: LatencyTable, row: int) -> float:
    """Relative standard error of a row's median; from the lower half only, as disturbances stretch the upper one."""
    ms, low, runs = (float(table.rows[c].iloc[row]) for c in ("latency_ms", "p10_ms", "runs"))
    deviation = (ms - low) / 1.28 / ms if ms else 0.0
    # only of repeated timings do the percentiles show a spread that the number of runs averages out
    return 1.25 * deviation / runs**0.5 if table.kind == "measured" and runs >= 1 else deviation


def _rows(table: LatencyTable) -> Rows:
    """Rows of the table by make, and by make but for ``_LOOSE``; not those that cost nothing."""
    found: dict[Hashable, list[int]] = {}
    for i, block in enumerate(table.blocks):
        if table.effective_ms[i] > 0:
            for but in _LOOSE:
                found.setdefault((but, make(block, but=but)), []).append(i)
    return {key: np.array(rows, dtype=np.int64) for key, rows in found.items()}


def _alike(makes: Rows, block: Block) -> NDArray[np.int64]:
    """Rows of the same make; where those are too few, of any padding, and then of any activation."""
    found = [makes.get((but, make(block, but=but)), np.zeros(0, dtype=np.int64)) for but in _LOOSE]
    return next((rows for rows in found if len(rows) >= _FEWEST), found[-1])


def _kernels_around(table: LatencyTable, makes: Rows, block: Block) -> tuple[int, int] | None:
    """The next smaller and next larger kernel that blocks otherwise alike were measured with."""
    own = getattr(block, "kernel", None)
    if own is None:
        return None
    but = (*_LOOSE[-1], "kernel")
    other = make(block, but=but)
    kernels = {k for b in table.blocks if (k := getattr(b, "kernel", None)) and make(b, but=but) == other}
    enough = [k for k in kernels if len(_alike(makes, _with_kernel(block, k))) >= _FEWEST]
    smaller, larger = [k for k in enough if k < own], [k for k in enough if k > own]
    return (max(smaller), min(larger)) if smaller and larger else None


def _between_kernels(
    table: LatencyTable, makes: Rows, blocks: Sequence[Block], small: int, large: int, beyond: float
) -> Estimate:
    """Blocks of one kernel from the same blocks with two others: linear in the kernel's area, as their MACs are."""
    low, low_error = _estimate(table, makes, [_with_kernel(b, small) for b in blocks], beyond)
    high, high_error = _estimate(table, makes, [_with_kernel(b, large) for b in blocks], beyond)
    share = (field(blocks, "kernel") ** 2 - small**2) / (large**2 - small**2)
    ms = (1 - share) * low + share * high
    own = np.hypot((1 - share) * low * low_error, share * high * high_error) / ms
    return ms, np.hypot(own, _BETWEEN * np.abs(np.log(high / low)))


def _with_kernel(block: Block, kernel: int) -> Block:
    return dataclasses.replace(block, kernel=kernel)  # type: ignore[call-arg]


def _outside(table: LatencyTable, same: Sequence[Block], wanted: Sequence[Block], beyond: float) -> Floats:
    """``(wanted,)`` by what factor each lies outside the measured range, 1 within; raises BadInput past ``beyond``."""
    if len(same) < _FEWEST:
        raise BadInput(
            f"table {table.name} has {len(same)} blocks like [{wanted[0].key}] in all but channels and size, "
            f"an estimate needs {_FEWEST}"
        )
    worst = np.ones(len(wanted))
    for name in size_names(same):
        seen, value = field(same, name), field(wanted, name)
        low, high = seen[seen > 0].min(initial=np.inf), seen.max()
        if high == 0:
            continue
        factor = np.where(value > 0, np.maximum(low / np.maximum(value, 1), value / high), 1.0)
        if (factor > beyond).any():
            i = int(factor.argmax())
            allowed = f", by more than the factor {beyond:g} that is allowed" if beyond > 1 else ""
            raise BadInput(
                f"[{wanted[i].key}]: {name} {value[i]:.0f} is outside the {low:.0f}..{high:.0f} that table {table.name} "
                f"measured{allowed}"
            )
        worst = np.maximum(worst, factor)
    return worst


def _smooth(blocks: Sequence[Block]) -> Floats:
    """``(blocks, 6)``: logarithms of what latency is smooth in."""
    depthwise = macs_by_operator(blocks)[:, 2]
    columns = [macs(blocks) - depthwise, depthwise, live(blocks), weights(blocks)]
    return np.log(np.column_stack([*columns, field(blocks, "size") ** 2, field(blocks, "out_ch")]) + 1)


def _interpolate(known: Floats, log_ms: Floats, wanted: Floats) -> Estimate:
    """``(ms (m,), relative error (m,))`` at ``wanted (m, d)``, from ``log_ms (n,)`` at ``known (n, d)``."""
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


def _weights(to: Floats, at: Floats, *, exclude_self: bool = False) -> Floats:
    """``(m, n)``: inverse-distance weights of the few nearest of ``at (n, d)`` for each of ``to (m, d)``."""
    distance = np.sqrt(((to[:, None] - at[None]) ** 2).sum(-1)) + 1e-3
    if exclude_self:
        np.fill_diagonal(distance, np.inf)
    nearest = np.sort(distance, axis=1)[:, min(_NEIGHBOURS, distance.shape[1] - 1) - 1][:, None]
    weight = np.where(distance <= nearest, 1 / distance, 0.0)
    return weight / weight.sum(1, keepdims=True)
