"""Pareto local search (Paquete et al. 2004; for NAS: White et al., UAI 2021): look at the neighbours of the front."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.searchers.nsga2 import constrained_rank
from nas.space import Archs, SearchSpace


class LocalSearch:
    """Proposes all networks that differ from one of the front in a single gene, front member by front member.

    ``initial``: random architectures to start with. When every neighbour of the front is known, it goes on at random.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, initial: int = 16) -> None:
        if initial < 1:
            raise BadInput(f"initial is at least 1, got {initial}")
        self.space = space
        self.initial = initial
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()
        self._explored: set[bytes] = set()
        self._archs = np.empty((0, self.space.genes), dtype=np.uint8)
        self._costs = np.empty((0, 1))
        self._violation = np.empty(0)
        self._asked = 0

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger. ``known``: what it has learnt before, which no replay can repeat."""
        return {
            "searcher": "local search",
            "seed": self._seed,
            "initial": self.initial,
            "known": len(self._seen),
        }

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures."""
        chosen: list[NDArray[np.uint8]] = []
        if self._asked >= self.initial:
            for i in self._rng.permutation(len(self._archs)):
                if len(chosen) == n:
                    break
                if self._archs[i].tobytes() not in self._explored:
                    self._take(chosen, n, self._rng.permutation(neighbours(self.space, self._archs[i])))
                    if len(chosen) < n:
                        self._explored.add(self._archs[i].tobytes())
        for _ in range(20):
            if len(chosen) == n:
                break
            self._take(chosen, n, self.space.sample(n, self._rng))
        self._asked += len(chosen)
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results and keep the front: the feasible non-dominated, or else the smallest violation."""
        archs = self.space.canonical(archs)
        self._seen.update(row.tobytes() for row in archs)
        fine = np.isfinite(costs).all(axis=1) | (violation > 0)
        if not fine.any():
            return
        everything = np.vstack([self._archs, archs[fine]])
        every_cost = np.vstack([self._costs.reshape(-1, costs.shape[1]), costs[fine]])
        every_violation = np.concatenate([self._violation, violation[fine]])
        front = constrained_rank(every_cost, every_violation) == 0
        self._archs, self._costs, self._violation = everything[front], every_cost[front], every_violation[front]

    def _take(self, chosen: list[NDArray[np.uint8]], n: int, proposals: Archs) -> None:
        for row in proposals:
            if len(chosen) < n and row.tobytes() not in self._seen:
                self._seen.add(row.tobytes())
                chosen.append(row)


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
