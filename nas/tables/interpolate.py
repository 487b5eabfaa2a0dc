"""Blocks that a table does not hold: an estimate from measured ones of the same make, with its error.

Used for pruned networks, whose channel counts lie between those of a space. Within one make (kind, kernel, stride,
squeeze-excite or not, activation, residual; any activation where that leaves too few) latency is smooth in the sizes: a
ridge regression of log latency on logarithms of MACs, activation and weight counts, corrected by the residuals of the
nearest measured blocks. A kernel that was not measured lies between the next smaller and the next larger one, by area.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block, Conv
from nas.errors import BadInput
from nas.tables.table import LatencyTable

PRUNED = 2.0
"""``beyond`` for pruned networks, whose channels may fall somewhat below the narrowest that were measured."""

_BEYOND = 0.7  # error added per factor of e beyond the measured range; large enough for the tables in latency_tables
_BETWEEN = 0.15  # error added between two kernels, as a share of the logarithm of their ratio
_NEIGHBOURS = 4
_FEWEST = 6
_SIZES = ("in_ch", "mid", "hidden", "out_ch", "se", "size")

Estimate = tuple[NDArray[np.float64], NDArray[np.float64]]


def estimate(table: LatencyTable, blocks: Sequence[Block], *, beyond: float = 1.0) -> Estimate:
    """``(ms (n,), relative error (n,))`` of ``blocks`` inside a network.

    Blocks of the table keep their own value, with the standard error of their median. For the others the error is that
    of the same estimate on measured blocks left out one at a time (root mean square over the make), and more between
    kernels. ``beyond``: by what factor channels and size may lie outside the measured range; the error then grows with
    how far they do.
    Raises BadInput for a block of a make that the table lacks, or outside that range: there is nothing there to
    interpolate between.
    """
    if not beyond >= 1:
        raise BadInput(f"beyond is a factor of at least 1 (1: only within the measured range), got {beyond}")
    ms, error = np.empty(len(blocks)), np.empty(len(blocks))
    makes: dict[tuple[object, ...], list[int]] = {}
    for i, block in enumerate(blocks):
        if block.key in table.row_of:
            row = table.row_of[block.key]
            ms[i], error[i] = table.effective_ms[row], _known_error(table, row)
        else:
            makes.setdefault(make_of(block), []).append(i)
    for make, rows in makes.items():
        same = _alike(table, make)
        wanted = [blocks[i] for i in rows]
        if len(same) < _FEWEST and (around := _kernels_around(table, wanted[0])):
            ms[rows], error[rows] = _between_kernels(table, wanted, *around, beyond=beyond)
            continue
        measured = [table.blocks[i] for i in same]
        outside = _outside(table, measured, wanted, beyond)
        ms[rows], error[rows] = _interpolate(_features(measured), np.log(table.effective_ms[same]), _features(wanted))
        error[rows] = np.hypot(error[rows], _BEYOND * np.log(outside))
    return ms, error


def _known_error(table: LatencyTable, row: int) -> float:
    """Relative standard error of a row's median; from the lower half only, as disturbances stretch the upper one."""
    ms, low, runs = (float(table.rows[c].iloc[row]) for c in ("latency_ms", "p10_ms", "runs"))
    deviation = (ms - low) / 1.28 / ms if ms else 0.0
    # only of repeated timings do the percentiles show a spread that the number of runs averages out
    return 1.25 * deviation / runs**0.5 if table.kind == "measured" and runs >= 1 else deviation


def _kernels_around(table: LatencyTable, block: Block) -> tuple[int, int] | None:
    """The next smaller and next larger kernel that blocks otherwise alike were measured with."""
    if not hasattr(block, "kernel"):
        return None
    alike = {b.kernel for b in table.blocks if hasattr(b, "kernel") and _but_kernel(b) == _but_kernel(block)}
    enough = {k for k in alike if len(_alike(table, make_of(dataclasses.replace(block, kernel=k)))) >= _FEWEST}  # type: ignore[call-arg]
    smaller, larger = [k for k in enough if k < block.kernel], [k for k in enough if k > block.kernel]
    return (max(smaller), min(larger)) if smaller and larger else None


def _between_kernels(
    table: LatencyTable, blocks: Sequence[Block], small: int, large: int, *, beyond: float
) -> Estimate:
    """Blocks of one kernel from the same blocks with two others: linear in the kernel's area, as their MACs are."""
    low, low_error = estimate(table, [dataclasses.replace(b, kernel=small) for b in blocks], beyond=beyond)  # type: ignore[call-arg]
    high, high_error = estimate(table, [dataclasses.replace(b, kernel=large) for b in blocks], beyond=beyond)  # type: ignore[call-arg]
    share = (blocks[0].kernel ** 2 - small**2) / (large**2 - small**2)  # type: ignore[attr-defined]
    ms = (1 - share) * low + share * high
    own = np.hypot((1 - share) * low * low_error, share * high * high_error) / ms
    return ms, np.hypot(own, _BETWEEN * np.abs(np.log(high / low)))


def _interpolate(known: NDArray[np.float64], log_ms: NDArray[np.float64], wanted: NDArray[np.float64]) -> Estimate:
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
        getattr(block, "act", ""),
        block.kind,
        *(getattr(block, n, None) for n in names),
        getattr(block, "groups", 1),
        getattr(block, "se", 0) > 0,
        getattr(block, "features", 0) > 0,
    )


def _but_kernel(block: Block) -> tuple[object, ...]:
    make = make_of(block)
    return make[1:2] + make[3:]


def _features(blocks: Sequence[Block]) -> NDArray[np.float64]:
    rows = []
    for b in blocks:
        convolutions = [p for p in b.parts().values() if isinstance(p, Conv)]
        depthwise = sum(p.macs for p in convolutions if p.depthwise)
        rows.append([b.macs - depthwise, depthwise, b.live_elements, b.weights, b.size**2, b.out_ch])
    return np.log(np.array(rows, dtype=np.float64) + 1)


def _outside(table: LatencyTable, same: Sequence[Block], wanted: Sequence[Block], beyond: float) -> NDArray[np.float64]:
    """``(wanted,)`` by what factor each lies outside the measured range, 1 within; raises BadInput past ``beyond``."""
    if len(same) < _FEWEST:
        raise BadInput(
            f"table {table.name} has {len(same)} blocks like [{wanted[0].key}] in all but channels and size, "
            f"an estimate needs {_FEWEST}"
        )
    worst = np.ones(len(wanted))
    for field in _SIZES:
        seen = [v for b in same if (v := getattr(b, field, 0))]
        for i, block in enumerate(wanted):
            value = getattr(block, field, 0)
            if not value or not seen:
                continue
            factor = max(min(seen) / value, value / max(seen), 1.0)
            if factor > beyond:
                allowed = f", by more than the factor {beyond:g} that is allowed" if beyond > 1 else ""
                raise BadInput(
                    f"[{block.key}]: {field} {value} is outside the {min(seen)}..{max(seen)} that table {table.name} "
                    f"measured{allowed}"
                )
            worst[i] = max(worst[i], factor)
    return worst
