"""The exact answer for additive objectives: the true Pareto front and the true constrained optimum, without a search.

Genes are eliminated one after the other (variable elimination, a form of dynamic programming over slots), and every
partial network that another one dominates is dropped: what is added later is the same for both, so nothing is lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nas.checks import Count, Share, checked
from nas.errors import BadInput, Infeasible
from nas.objectives.objective import Constraint, Objective
from nas.pareto import non_dominated
from nas.space import Archs, Floats, SearchSpace

_CHUNK = 2_000_000  # sums formed at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class ExactFront:
    """``archs (n, genes)`` and ``values (n, objectives)``, in increasing order of the last objective.

    ``error``: no network of the space lies further beyond the front than this share of each objective's range (0: exact).
    """

    archs: Archs
    values: Floats
    error: float


@checked
def exact_front(
    space: SearchSpace, objectives: Sequence[Objective], *, tolerance: Share = 0.0, most: Count = 200_000
) -> ExactFront:
    """The true front of additive ``objectives`` (``nas.latency``, ``nas.macs``, ``nas.params``, ...) over the whole space.

    Fronts of sums of measured numbers can have very many points. ``tolerance``: points closer together than this share
    of an objective's range may be merged; the result says what that may have cost. Raises BadInput for objectives that
    are not additive, and when more than ``most`` partial networks would have to be kept.
    """
    objectives = tuple(objectives)
    for o in objectives:
        if o.per_block is None:
            raise BadInput(f"{o.name} is not a sum over blocks; the exact front needs additive objectives")
    per_block = np.array([o.cost(o.per_block) for o in objectives if o.per_block is not None])
    span = np.array([e.maximum - e.minimum for o in objectives if (e := o.extremes)])
    steps = 2 * (space.genes + len(space.slots))  # at most so often a partial network is compared with others
    grid = tolerance / steps * np.where(span > 0, span, 1.0)
    factors = [
        (genes, {key: _Set(points, np.zeros((1, space.genes), np.uint8)) for key, points in cells.items()})
        for genes, cells in space.slot_sums(per_block)
    ]
    remaining = {g for genes, _ in factors for g in genes}
    while remaining:
        gene = min(sorted(remaining), key=lambda g: _joint_size(space, [s for s, _ in factors if g in s]))
        factors = _eliminated(space, factors, gene, grid, most)
        remaining.discard(gene)
    total = _Set(np.zeros((1, len(objectives))), np.zeros((1, space.genes), np.uint8))
    for _, cells in factors:
        total = _sum(total, cells[()], grid, most)
    archs = space.canonical(total.archs)
    values = np.column_stack([o(archs) for o in objectives])
    order = np.argsort(values[:, -1], kind="stable")
    return ExactFront(archs=archs[order], values=values[order], error=tolerance)


@checked
def exact_best(
    space: SearchSpace, objective: Objective, *constraints: Constraint, tolerance: Share = 0.0
) -> tuple[Archs, float]:
    """The architecture ``(genes,)`` with the best additive ``objective`` under ``constraints`` on additive quantities.

    A constraint on a latency with a ``confidence`` is exact too: mean and variance are both sums. Raises Infeasible,
    with the nearest reachable value, when nothing meets the constraints.
    """
    sums: dict[str, Objective] = {objective.name: objective}
    for c in constraints:
        for part in c.objective.parts or (c.objective,):
            # a lower value must be safe for the front to contain the optimum
            sums.setdefault(part.name, part)
            if (c.sense == ">=") is not part.maximize and part.name != objective.name:
                raise BadInput(f"{c} bounds {part.name} against its own direction; the exact optimum cannot use that")
    front = exact_front(space, list(sums.values()), tolerance=tolerance)
    met = np.ones(len(front.archs), dtype=bool)
    for c in constraints:
        values = c.objective(front.archs)
        if met.any() and not (met & (c.violation(values) <= 0)).any():
            nearest = values[met].min() if c.sense == "<=" else values[met].max()
            raise Infeasible(f"no architecture meets {c}; the nearest value that can be met is {nearest:.6g}")
        met &= c.violation(values) <= 0
    column = front.values[:, 0]
    best = int(np.where(met, objective.cost(column), np.inf).argmin())
    return front.archs[best], float(column[best])


@checked
def largest_within(
    space: SearchSpace, size: Objective, cost: Objective, limits: Count | Floats = 8, *, tolerance: Share = 0.002
) -> Archs:
    """The network with the most ``size`` (``nas.macs``) under each limit on ``cost`` (``nas.latency``): ``(n, genes)``.

    What one would take without any search, and so what a search has to beat; ``nas.search(first=...)`` begins with them.
    From the cheapest to the dearest, each once. ``limits (n,)``: of ``cost``, or how many, evenly spread between its ends.
    ``tolerance`` as of ``exact_front``. Raises BadInput for objectives that are not additive; Infeasible for a limit that
    nothing meets.
    """
    front = exact_front(space, [replace(size, maximize=True), cost], tolerance=tolerance)
    costs = front.values[:, -1]
    wanted = np.linspace(costs[0], costs[-1], limits) if isinstance(limits, int) else np.asarray(limits, float)
    if len(wanted) and wanted.min() < costs[0]:
        raise Infeasible(f"no architecture has {cost.name} <= {wanted.min():g}; the least is {costs[0]:.6g}")
    return front.archs[np.unique(np.searchsorted(costs, wanted, side="right") - 1)]


@dataclass(frozen=True)
class _Set:
    """Partial networks that do not dominate each other: ``points (n, k)``, and the genes that are settled in ``archs``."""

    points: Floats
    archs: Archs


_Factor = tuple[tuple[int, ...], dict[tuple[int, ...], _Set]]


def _eliminated(space: SearchSpace, factors: list[_Factor], gene: int, grid: Floats, most: int) -> list[_Factor]:
    """The factors without ``gene``: for every assignment of the genes it meets, the best of all its values."""
    touching = [f for f in factors if gene in f[0]]
    scope = tuple(sorted({g for genes, _ in touching for g in genes} - {gene}))
    cells = {}
    for assignment in itertools.product(*(range(space.sizes[g]) for g in scope)):
        values = dict(zip(scope, assignment, strict=True))
        options = []
        for value in range(space.sizes[gene]):
            values[gene] = value
            parts = [table[tuple(values[g] for g in genes)] for genes, table in touching]
            total = parts[0]
            for part in parts[1:]:
                total = _sum(total, part, grid, most)
            archs = total.archs.copy()
            archs[:, gene] = value
            options.append(_Set(total.points, archs))
        cells[assignment] = _best(
            np.vstack([o.points for o in options]), np.vstack([o.archs for o in options]), grid, most
        )
    return [f for f in factors if gene not in f[0]] + [(scope, cells)]


def _sum(first: _Set, second: _Set, grid: Floats, most: int) -> _Set:
    """Every partial network of one with every one of the other; they settle different genes."""
    if len(first.points) < len(second.points):
        first, second = second, first
    kept = _Set(first.points[:0], first.archs[:0])
    rows = max(1, _CHUNK // len(second.points))
    for start in range(0, len(first.points), rows):
        part = slice(start, start + rows)
        points = (first.points[part, None] + second.points[None]).reshape(-1, first.points.shape[1])
        keep = np.flatnonzero(_worth_keeping(points, grid))
        archs = first.archs[part][keep // len(second.points)] | second.archs[keep % len(second.points)]
        kept = _best(np.vstack([kept.points, points[keep]]), np.vstack([kept.archs, archs]), grid, most)
    return kept


def _best(points: Floats, archs: Archs, grid: Floats, most: int) -> _Set:
    keep = _worth_keeping(points, grid)
    if keep.sum() > most:
        raise BadInput(
            f"the exact front keeps more than {most:,} partial networks; give a tolerance such as 0.001, or a larger most"
        )
    return _Set(points[keep], archs[keep])


def _worth_keeping(points: Floats, grid: Floats) -> NDArray[np.bool_]:
    """One of each non-dominated point; of those in the same cell of the grid (where it is not 0) the first."""
    if len(points) == 1:
        return np.ones(1, dtype=bool)
    if (grid > 0).all():
        # the best of every cell in the last cost, so that what is dropped is off by a cell at most
        cells = np.floor(points[:, :-1] / grid[:-1]).astype(np.int64)
        order = np.lexsort((points[:, -1], *cells.T))
        same = np.ones(len(points), dtype=bool)
        same[1:] = (np.diff(cells[order], axis=0) != 0).any(axis=1)
        first = order[same]
    else:
        _, first = np.unique(points, axis=0, return_index=True)
    mask = np.zeros(len(points), dtype=bool)
    mask[first[non_dominated(points[first])]] = True
    return mask


def _joint_size(space: SearchSpace, scopes: Sequence[tuple[int, ...]]) -> float:
    genes = sorted({g for scope in scopes for g in scope})
    return float(np.prod(space.sizes[genes].astype(float)))
