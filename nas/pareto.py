"""Pareto dominance and exact hypervolume on arrays of costs ``(n, k)``, smaller is better, for any number of objectives.

The algorithms are moocore's (C); here are the rules for what it leaves open: NaN, one objective, histories.
"""

from __future__ import annotations

from bisect import bisect_left

import moocore  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import BadInput

Costs = NDArray[np.float64]


def non_dominated(costs: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row dominates, ``(n,)``. Equal rows are all kept; rows with NaN never are.

    Raises BadInput when ``costs`` are not ``(n, objectives)``; so do the other functions of this file.
    """
    given = _matrix(costs)
    known = ~np.isnan(given).any(axis=1)
    mask = np.zeros(len(given), dtype=bool)
    if known.any():
        mask[known] = moocore.is_nondominated(given[known], keep_weakly=True)
    return mask


def rank(costs: ArrayLike) -> NDArray[np.int64]:
    """Front number of every row, ``(n,)``: 0 for the non-dominated ones, 1 for those left without them, and so on.

    Rows with NaN come last.
    """
    given = _matrix(costs)
    unknown = np.isnan(given)
    if not unknown.any():
        return np.asarray(moocore.pareto_rank(given), dtype=np.int64)
    known = ~unknown.any(axis=1)
    ranks = np.full(len(given), len(given), dtype=np.int64)
    if known.any():
        ranks[known] = moocore.pareto_rank(given[known])
    return ranks


def crowding_by_front(costs: Costs, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Crowding distance (Deb et al. 2002) of every row of finite ``costs (n, k)`` among those of its rank, ``(n,)``.

    Infinite at the ends. Of several equal rows one keeps the distance and the others get 0.
    """
    order = np.lexsort((*costs.T[::-1], ranks))
    values, groups = costs.take(order, axis=0), ranks[order]
    starts, new = np.ones((2, len(order)), dtype=bool)  # of a front; of a set of equal rows in it
    starts[1:] = groups[1:] != groups[:-1]
    new[1:] = starts[1:] | (values[1:] != values[:-1]).any(axis=1)
    if not new.all():
        order, values, groups, starts = order[new], values[new], groups[new], starts[new]
    firsts = starts.nonzero()[0]
    lasts = np.append(firsts[1:], len(order)) - 1
    which = starts.cumsum() - 1
    distance = np.zeros(len(order))
    for column in values.T:
        by = np.lexsort((column, groups))
        value = column[by]
        span = value[lasts] - value[firsts]
        span[span == 0] = np.inf
        gap = np.zeros(len(order))
        gap[1:-1] = value[2:] - value[:-2]
        gap /= span[which]
        gap[firsts] = gap[lasts] = np.inf
        distance[by] += gap
    out = np.zeros(len(costs))
    out[order] = distance
    return out


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by ``costs (n, k)`` up to ``reference (k,)``, exact.

    Points that are not better than the reference in every objective contribute nothing. Raises BadInput for shapes that
    do not fit.
    """
    points = _matrix(costs)
    ref = _reference(points, reference)
    inside = points[(points < ref).all(axis=1)]  # NaN compares false
    if not len(inside):
        return 0.0
    if len(ref) == 1:  # moocore wants two
        return float(ref[0] - inside.min())
    return float(moocore.hypervolume(inside, ref=ref))


def hypervolume_history(costs: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume after each row of ``costs (n, k)``, ``(n,)``: the sum of what each row adds to those before it."""
    points = _matrix(costs)
    ref = _reference(points, reference)
    inside = np.flatnonzero((points < ref).all(axis=1))  # NaN compares false
    # a row that an earlier one dominates adds nothing: time is one more cost
    joins = inside[non_dominated(np.column_stack([points[inside], inside]))] if len(inside) else inside
    added = np.zeros(len(points))
    added[joins] = _added_areas(points[joins], ref) if len(ref) == 2 else _added_volumes(points[joins], ref)
    return np.cumsum(added)


def _added_volumes(points: Costs, ref: Costs) -> list[float]:
    """What each of ``points (n, k)`` adds to those before it: its own box less what the front covers of it."""
    front, added = points[:0], []
    for point in points:
        covered = hypervolume(np.maximum(front, point), ref)
        added.append(max(float(np.prod(ref - point)) - covered, 0.0))
        front = np.vstack([front[~(point <= front).all(axis=1)], point])
    return added


def _added_areas(points: Costs, ref: Costs) -> list[float]:
    """The same for two objectives, in n log n steps as long as the front's steps are few for each point."""
    xs: list[float] = []  # the front so far: x rises, y falls
    ys: list[float] = []
    added = []
    for x, y in points.tolist():
        first = last = bisect_left(xs, x)
        # from x rightwards, step by step, down from the old front to y, as far as the old front is higher
        area, left, top = 0.0, x, ys[first - 1] if first else float(ref[1])
        while last < len(xs) and ys[last] >= y:
            area += (xs[last] - left) * (top - y)
            left, top = xs[last], ys[last]
            last += 1
        added.append(area + ((xs[last] if last < len(xs) else float(ref[0])) - left) * (top - y))
        xs[first:last], ys[first:last] = [x], [y]
    return added


def _reference(points: Costs, reference: ArrayLike) -> Costs:
    k = points.shape[1]
    ref = np.asarray(reference, dtype=np.float64)
    if ref.shape != (k,) or not np.isfinite(ref).all():
        raise BadInput(
            f"{k} objectives need a finite reference of shape ({k},), got {ref.tolist()} of shape {ref.shape}"
        )
    return ref


def _matrix(costs: ArrayLike) -> Costs:
    given = np.asarray(costs, dtype=np.float64)
    if given.ndim != 2 or given.shape[1] == 0:
        raise BadInput(f"costs have shape (n, objectives), got {given.shape}")
    return given
