"""NSGA-III (Deb and Jain, IEEE Trans. Evolutionary Computation 2014): for three and more objectives."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

from nas.searchers.nsga2 import NSGA2
from nas.space import Floats


class NSGA3(NSGA2):
    """NSGA-II whose diversity comes from reference directions instead of crowding.

    Members of the last front that fits in part are taken one reference direction after the other, those directions
    first that have the fewest members already, within a direction the nearest member first.
    """

    def _isolation(self, costs: Floats, ranks: NDArray[np.int64]) -> Floats:
        finite = np.isfinite(costs).all(axis=1)
        preference = np.zeros(len(costs))
        if not finite.any():
            return preference
        directions = reference_directions(costs.shape[1], self._members)
        rows = np.flatnonzero(finite)
        rows = rows[np.argsort(ranks[rows], kind="stable")]
        # the fronts that fit whole, and the one that fits in part: only those decide
        last = ranks[rows][min(self._members, len(rows)) - 1]
        rows = rows[ranks[rows] <= last]
        front = ranks[rows] == last
        nearest, distance = _associated(_normalised(costs[rows]), directions)
        taken = np.bincount(nearest[~front], minlength=len(directions))
        # a member's turn: how many of its direction come before it
        order = np.lexsort((distance, nearest, ~front))
        order = order[front[order]]
        directions_of = nearest[order]
        turn = np.arange(len(order)) - np.searchsorted(directions_of, directions_of) + taken[directions_of]
        preference[rows[order]] = -(turn + distance[order] / (1 + distance.max()))
        best = rows[front][np.argmin(costs[rows[front]], axis=0)]
        preference[best] = np.inf  # the best of every objective always stays
        return preference


def reference_directions(objectives: int, about: int) -> Floats:
    """The largest Das-Dennis set of at most ``about`` unit vectors (at least one division), ``(n, objectives)``."""
    if objectives == 1:
        return np.ones((1, 1))
    divisions = 1
    while comb(objectives + divisions, divisions + 1) <= about:
        divisions += 1
    bars = np.array(list(combinations(range(divisions + objectives - 1), objectives - 1)), dtype=int)
    bars = bars.reshape(-1, objectives - 1)
    edges = np.column_stack([np.full(len(bars), -1), bars, np.full(len(bars), divisions + objectives - 1)])
    weights = (np.diff(edges, axis=1) - 1) / divisions
    return weights / np.linalg.norm(weights, axis=1, keepdims=True)


def _normalised(costs: Floats) -> Floats:
    """Origin at the ideal point, units by the intercepts of the hyperplane through the extreme points."""
    shifted = costs - costs.min(axis=0)
    k = shifted.shape[1]
    weights = np.where(np.eye(k) > 0, 1.0, 1e6)
    extremes = shifted[[int((shifted * w).max(axis=1).argmin()) for w in weights]]
    span = shifted.max(axis=0)
    if np.linalg.matrix_rank(extremes) == k:
        planes = np.linalg.solve(extremes, np.ones(k))
        with np.errstate(divide="ignore"):
            intercepts = 1 / planes
        if (np.isfinite(intercepts) & (intercepts > 1e-9) & (intercepts <= span * 1.0001)).all():
            span = intercepts
    return shifted / np.where(span > 0, span, 1.0)


def _associated(points: Floats, directions: Floats) -> tuple[NDArray[np.int64], Floats]:
    """For every point the nearest reference line and the distance to it."""
    along = points @ directions.T
    squared = (points**2).sum(axis=1)[:, None] - along**2
    nearest = squared.argmin(axis=1)
    return nearest, np.sqrt(np.maximum(squared[np.arange(len(points)), nearest], 0))
