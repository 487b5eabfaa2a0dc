"""Pareto dominance and hypervolume on arrays of costs ``(n, k)``, smaller is better (NumPy only)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nas.errors import BadInput

Costs = NDArray[np.float64]

_CHUNK = 256  # rows compared at a time, so that the comparison of n rows needs no n x n table


def non_dominated(costs: ArrayLike) -> NDArray[np.bool_]:
    """Which rows no other row dominates, ``(n,)``. Equal rows are all kept; rows with NaN never are."""
    given = _matrix(costs)
    mask = np.zeros(len(given), dtype=bool)
    rows = np.flatnonzero(~np.isnan(given).any(axis=1))
    if not len(rows):
        return mask
    unique, inverse = np.unique(given[rows], axis=0, return_inverse=True)  # lexicographic order
    mask[rows] = _front_of_sorted(unique)[inverse.ravel()]
    return mask


def rank(costs: ArrayLike) -> NDArray[np.int64]:
    """Front number of every row, ``(n,)``: 0 for the non-dominated ones, 1 for those left without them, and so on.

    Rows with NaN come last.
    """
    given = _matrix(costs)
    ranks = np.full(len(given), len(given), dtype=np.int64)
    rows = np.flatnonzero(~np.isnan(given).any(axis=1))
    if given.shape[1] == 2:
        ranks[rows] = _ranks_of_pairs(given[rows])
        return ranks
    unique, inverse = np.unique(given[rows], axis=0, return_inverse=True)  # sorted once, for all fronts
    unique_ranks = np.empty(len(unique), dtype=np.int64)
    left = np.arange(len(unique))
    front = 0
    while len(left):
        on_front = _front_of_sorted(unique[left])
        unique_ranks[left[on_front]] = front
        left = left[~on_front]
        front += 1
    ranks[rows] = unique_ranks[inverse.ravel()]
    return ranks


def crowding_by_front(costs: Costs, ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """``crowding_distance`` of all fronts at once: of every row of finite ``costs (n, k)`` among those of its rank."""
    order = np.lexsort((*costs.T[::-1], ranks))
    sorted_costs, sorted_ranks = costs[order], ranks[order]
    new = np.ones(len(order), dtype=bool)
    new[1:] = (sorted_ranks[1:] != sorted_ranks[:-1]) | (sorted_costs[1:] != sorted_costs[:-1]).any(axis=1)
    first = order[new]  # one of each set of equal rows
    values, groups = costs[first], ranks[first]
    distance = np.zeros(len(first))
    for column in values.T:
        by = np.lexsort((column, groups))
        value, group = column[by], groups[by]
        start = np.ones(len(by), dtype=bool)
        start[1:] = group[1:] != group[:-1]
        firsts = np.flatnonzero(start)
        lasts = np.append(firsts[1:], len(by)) - 1
        span = np.repeat(value[lasts] - value[firsts], lasts - firsts + 1)
        gap = np.zeros(len(by))
        gap[1:-1] = value[2:] - value[:-2]
        gap /= np.where(span > 0, span, np.inf)
        gap[firsts] = gap[lasts] = np.inf
        distance[by] += gap
    out = np.zeros(len(costs))
    out[first] = distance
    return out


def crowding_distance(costs: ArrayLike) -> NDArray[np.float64]:
    """Crowding distance of every row of finite costs within its set, ``(n,)``; infinite at the ends (Deb et al. 2002).

    Of several equal rows one keeps the distance and the others get 0.
    """
    given = _matrix(costs)
    unique, first = np.unique(given, axis=0, return_index=True)
    distance = np.zeros(len(unique))
    for column in unique.T:
        order = np.argsort(column, kind="stable")
        span = column[order[-1]] - column[order[0]]
        distance[order[[0, -1]]] = np.inf
        if span > 0 and len(order) > 2:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    out = np.zeros(len(given))
    out[first] = distance
    return out


def hypervolume(costs: ArrayLike, reference: ArrayLike) -> float:
    """Volume dominated by ``costs (n, k)`` up to ``reference (k,)``, exact, for 1, 2 and 3 objectives.

    Points that are not better than the reference in every objective contribute nothing. 3-D: a sweep along the last
    objective over 2-D areas. Raises BadInput for more objectives, or shapes that do not fit.
    """
    points = _matrix(costs)
    ref = _reference(points, reference)
    points = points[(points < ref).all(axis=1)]  # NaN compares false
    if not len(points):
        return 0.0
    points = np.unique(points, axis=0)
    points = points[_front_of_sorted(points)]
    if points.shape[1] == 1:
        return float(ref[0] - points[0, 0])
    if points.shape[1] == 2:
        return _area(points, ref)
    return _volume(points, ref)


def hypervolume_history(costs: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Hypervolume after each row of ``costs (n, k)``, ``(n,)``: the sum of what each row adds to those before it."""
    points = _matrix(costs)
    ref = _reference(points, reference)
    added = np.zeros(len(points))
    add = _added_area(ref) if len(ref) == 2 else _added_volume(ref)
    for i in np.flatnonzero((points < ref).all(axis=1)):  # NaN compares false
        added[i] = add(points[i])
    return np.cumsum(added)


def _added_area(ref: Costs) -> Callable[[Costs], float]:
    """A function that takes one 2-D point after the other and returns the area that it adds."""
    xs: list[float] = []  # the front so far: x rises, y falls
    ys: list[float] = []

    def add(point: Costs) -> float:
        x, y = float(point[0]), float(point[1])
        first = bisect_left(xs, x)
        if (first and ys[first - 1] <= y) or (first < len(xs) and xs[first] == x and ys[first] <= y):
            return 0.0
        # from x rightwards, step by step, down from the old front to y, as far as the old front is higher
        area, left, top, last = 0.0, x, ys[first - 1] if first else float(ref[1]), first
        while last < len(xs) and ys[last] >= y:
            area += (xs[last] - left) * (top - y)
            left, top = xs[last], ys[last]
            last += 1
        area += ((xs[last] if last < len(xs) else float(ref[0])) - left) * (top - y)
        xs[first:last], ys[first:last] = [x], [y]
        return area

    return add


def _added_volume(ref: Costs) -> Callable[[Costs], float]:
    """The same for any number of objectives: the point's own box less what the front covers of it."""
    front = np.empty((0, len(ref)))

    def add(point: Costs) -> float:
        nonlocal front
        if (front <= point).all(axis=1).any():
            return 0.0
        covered = hypervolume(np.maximum(front, point), ref)
        front = np.vstack([front[~(point <= front).all(axis=1)], point])
        return max(float(np.prod(ref - point)) - covered, 0.0)

    return add


def _ranks_of_pairs(points: Costs) -> NDArray[np.int64]:
    """Ranks of rows of two costs, ``(n,)``, in n log n steps (Jensen 2003)."""
    order = np.lexsort((points[:, 1], points[:, 0]))
    lowest: list[float] = []  # the second cost that was last, so lowest, in each front; rises from front to front
    ranks = []
    last_first = last_second = np.nan
    front = 0
    for first, second in zip(points[order, 0].tolist(), points[order, 1].tolist(), strict=True):
        if first != last_first or second != last_second:
            last_first, last_second = first, second
            front = bisect_right(lowest, second)
            if front == len(lowest):
                lowest.append(second)
            else:
                lowest[front] = second
        ranks.append(front)
    out = np.empty(len(points), dtype=np.int64)
    out[order] = ranks
    return out


def _front_of_sorted(points: Costs) -> NDArray[np.bool_]:
    """Non-dominated mask of unique, lexicographically sorted rows."""
    if points.shape[1] == 1:
        return np.arange(len(points)) == 0
    if points.shape[1] == 2:
        # sorted by the first objective: a row is dominated unless it lowers the running minimum of the second
        best_before = np.minimum.accumulate(np.concatenate([[np.inf], points[:-1, 1]]))
        return points[:, 1] < best_before
    # only earlier rows can dominate a later one: each chunk is compared with the front so far, then with itself
    mask = np.zeros(len(points), dtype=bool)
    for start in range(0, len(points), _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, len(points)))
        rows = rows[~_at_most(points[mask], points[rows]).any(axis=0)]
        mask[rows] = _at_most(points[rows], points[rows]).sum(axis=0) == 1  # a row is at most itself
    return mask


def _at_most(first: Costs, second: Costs) -> NDArray[np.bool_]:
    """``[i, j]``: whether row i of ``first`` is at most row j of ``second`` in every column."""
    result = first[:, :1] <= second[:, 0]
    for column in range(1, first.shape[1]):
        result &= first[:, column, None] <= second[:, column]
    return result


def _area(points: Costs, ref: Costs) -> float:
    """2-D hypervolume of non-dominated rows sorted by the first objective."""
    width = np.diff(np.append(points[:, 0], ref[0]))
    return float((width * (ref[1] - points[:, 1])).sum())


def _volume(points: Costs, ref: Costs) -> float:
    """3-D hypervolume: slices between successive values of the last objective."""
    points = points[np.argsort(points[:, 2], kind="stable")]
    heights = np.diff(np.append(points[:, 2], ref[2]))
    volume = 0.0
    skyline = np.empty((0, 2))
    for point, height in zip(points[:, :2], heights, strict=True):
        if not (skyline <= point).all(axis=1).any():
            skyline = np.vstack([skyline[~(point <= skyline).all(axis=1)], point])
        if height > 0:
            volume += height * _area(skyline[np.argsort(skyline[:, 0])], ref[:2])
    return volume


def _reference(points: Costs, reference: ArrayLike) -> Costs:
    k = points.shape[1]
    if k > 3:
        raise BadInput(f"hypervolume is exact for 1 to 3 objectives, got {k}")
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
