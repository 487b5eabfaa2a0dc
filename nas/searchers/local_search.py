"""Pareto local search (Paquete et al. 2004; for NAS: White et al., UAI 2021): look at the neighbours of the front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.checks import Count, Seed, checked
from nas.searchers.nsga2 import constrained_rank
from nas.searchers.searcher import text_of
from nas.searchers.seen import Seen
from nas.space import Archs, SearchSpace


class LocalSearch:
    """Proposes all networks that differ from one of the front in a single gene, front member by front member.

    ``initial``: random architectures to start with. When every neighbour of the front is known, it goes on at random.
    """

    @checked
    def __init__(self, space: SearchSpace, *, seed: Seed = 0, initial: Count = 16) -> None:
        self.space = space
        self.initial = initial
        self.reset(seed)

    def reset(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen = Seen()
        self._explored: set[bytes] = set()
        self._archs = np.empty((0, self.space.genes), dtype=np.uint8)
        self._costs = np.empty((0, 1))
        self._violation = np.empty(0)
        self._asked = 0

    __repr__ = text_of

    @property
    def known(self) -> int:
        return len(self._seen)

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures."""
        near = self._near(n) if self._asked >= self.initial else self._archs[:0]
        more = self._seen.fill(n - len(near), lambda attempt, missing: self.space.sample(missing, self._rng))
        self._asked += len(near) + len(more)
        return np.concatenate([near, more])

    def _near(self, n: int) -> Archs:
        """Up to ``n`` new neighbours of the front's members, in random order."""
        chosen = [self._archs[:0]]
        missing = n
        for i in self._rng.permutation(len(self._archs)):
            if missing and self._archs[i].tobytes() not in self._explored:
                around = self._rng.permutation(neighbours(self.space, self._archs[i]))
                chosen.append(around[self._seen.take(around, missing)])
                missing -= len(chosen[-1])
                if missing:
                    self._explored.add(self._archs[i].tobytes())
        return np.concatenate(chosen)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results and keep the front: the feasible non-dominated, or else the smallest violation."""
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        fine = np.isfinite(costs).all(axis=1) | (violation > 0)
        if not fine.any():
            return
        everything = np.vstack([self._archs, archs[fine]])
        every_cost = np.vstack([self._costs.reshape(-1, costs.shape[1]), costs[fine]])
        every_violation = np.concatenate([self._violation, violation[fine]])
        front = constrained_rank(every_cost, every_violation) == 0
        self._archs, self._costs, self._violation = everything[front], every_cost[front], every_violation[front]


def neighbours(space: SearchSpace, arch: Archs) -> Archs:
    """All networks that differ from ``arch (genes,)`` in one active gene, ``(n, genes)``, each once."""
    active = space.active(arch[None])[0]
    rows = []
    for gene in np.flatnonzero(active):
        others = np.delete(np.arange(space.sizes[gene]), arch[gene])
        changed = np.repeat(arch[None], len(others), axis=0)
        changed[:, gene] = others
        rows.append(changed)
    return np.unique(space.canonical(np.vstack(rows)), axis=0) if rows else arch[None][:0]
