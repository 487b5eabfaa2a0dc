"""NSGA-II (Deb et al., IEEE Trans. Evolutionary Computation 2002) on batches of integer genes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.search.pareto import crowding_distance, rank
from nas.space import Archs, SearchSpace

_TRIES = 20


class NSGA2:
    """Non-dominated sorting, crowding distance, constrained domination; uniform crossover and mutation.

    ``crossover``: share of children with two parents. ``mutation``: probability per gene (default 1/genes; at least
    one active gene always changes in children of one parent). No network is proposed twice.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        population: int = 64,
        crossover: float = 0.9,
        mutation: float | None = None,
    ) -> None:
        if population < 4:
            raise BadInput(f"a population has at least 4 members, got {population}")
        self.space = space
        self.population = population
        self.crossover = crossover
        self.mutation = 1.0 / space.genes if mutation is None else mutation
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()
        self._archs = np.empty((0, self.space.genes), dtype=np.uint8)
        self._costs = np.empty((0, 0))
        self._violation = np.empty(0)
        self._rank = np.empty(0, dtype=np.int64)
        self._crowding = np.empty(0)
        self._asked = 0

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger."""
        return {
            "searcher": "nsga2",
            "seed": self._seed,
            "population": self.population,
            "crossover": self.crossover,
            "mutation": self.mutation,
        }

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures: random ones until a population has been asked for, children from then on."""
        chosen: list[NDArray[np.uint8]] = []
        for attempt in range(_TRIES):
            first_generation = self._asked + len(chosen) < self.population or len(self._archs) < 2
            # children that have all been seen before mean that the population has converged: mutate harder
            proposals = self.space.sample(n, self._rng) if first_generation else self._children(n, 1 + attempt)
            for row in proposals:
                if len(chosen) < n and row.tobytes() not in self._seen:
                    self._seen.add(row.tobytes())
                    chosen.append(row)
            if len(chosen) == n:
                break
        self._asked += len(chosen)
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results ``costs (n, k)``, ``violation (n,)`` and keep the best ``population`` of all.

        Rows whose costs are not finite survive only if they violate a constraint (then costs do not count).
        """
        self._seen.update(row.tobytes() for row in archs)
        fine = np.isfinite(costs).all(axis=1) | (violation > 0)
        known = {row.tobytes() for row in self._archs}
        fine &= np.array([row.tobytes() not in known for row in archs], dtype=bool)
        if not fine.any():
            return
        self._archs = np.vstack([self._archs, archs[fine]])
        self._costs = np.vstack([self._costs.reshape(-1, costs.shape[1]), costs[fine]])
        self._violation = np.concatenate([self._violation, violation[fine]])
        self._survive()

    def _survive(self) -> None:
        ranks = _constrained_rank(self._costs, self._violation)
        crowding = np.zeros(len(ranks))
        keep = np.zeros(len(ranks), dtype=bool)
        for front in range(int(ranks.max()) + 1):
            members = np.flatnonzero(ranks == front)
            if not len(members):
                continue
            usable = np.isfinite(self._costs[members]).all()
            crowding[members] = crowding_distance(self._costs[members]) if usable else 0.0
            room = self.population - int(keep.sum())
            keep[members[np.argsort(-crowding[members], kind="stable")[:room]]] = True
            if keep.sum() >= self.population:
                break
        self._archs, self._costs, self._violation = self._archs[keep], self._costs[keep], self._violation[keep]
        self._rank, self._crowding = ranks[keep], crowding[keep]

    def _children(self, n: int, strength: int) -> Archs:
        mothers, fathers = self._tournament(n), self._tournament(n)
        both = self._rng.random(n) < self.crossover
        children = np.where(both[:, None], self.space.crossover(mothers, fathers, self._rng), mothers)
        mutated = self.space.mutate(children, self._rng, rate=min(0.5, strength * self.mutation))
        # children of two parents are new without mutation; half of them keep what they inherited
        untouched = both & (self._rng.random(n) < 0.5) & (strength == 1)
        return np.where(untouched[:, None], children, mutated)

    def _tournament(self, n: int) -> Archs:
        pairs = self._rng.integers(0, len(self._archs), size=(n, 2))
        ranks, crowding = self._rank[pairs], self._crowding[pairs]
        second = (ranks[:, 1] < ranks[:, 0]) | ((ranks[:, 1] == ranks[:, 0]) & (crowding[:, 1] > crowding[:, 0]))
        return self._archs[np.where(second, pairs[:, 1], pairs[:, 0])]


def _constrained_rank(costs: NDArray[np.float64], violation: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fronts under constrained domination: feasible rows by their costs, the others after them by violation."""
    ranks = np.empty(len(costs), dtype=np.int64)
    feasible = violation <= 0
    ranks[feasible] = rank(costs[feasible]) if feasible.any() else 0
    after = int(ranks[feasible].max()) + 1 if feasible.any() else 0
    _, order = np.unique(violation[~feasible], return_inverse=True)
    ranks[~feasible] = after + order
    return ranks
