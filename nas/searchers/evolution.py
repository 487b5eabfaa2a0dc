"""Regularized (aging) evolution (Real et al., AAAI 2019), with Pareto tournaments where there are several objectives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.pareto import crowding_by_front
from nas.searchers.nsga2 import constrained_rank
from nas.space import Archs, SearchSpace

_ROUNDS = 20  # of proposals per ask


class RegularizedEvolution:
    """The best of a random sample becomes a parent, its child is a mutation, and the oldest member dies.

    ``population``: members alive; ``sample``: contestants of each tournament. The best is the one of lowest rank, then
    of largest crowding distance. No network is proposed twice.
    """

    def __init__(self, space: SearchSpace, *, seed: int = 0, population: int = 64, sample: int = 16) -> None:
        if not 2 <= sample <= population:
            raise BadInput(f"a sample has 2 to {population} (the population) members, got {sample}")
        self.space = space
        self.population, self.sample = population, sample
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()
        self._archs = np.empty((0, self.space.genes), dtype=np.uint8)
        self._costs = np.empty((0, 1))
        self._violation = np.empty(0)
        self._asked = 0

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger. ``known``: what it has learnt before, which no replay can repeat."""
        return {
            "searcher": "regularized evolution",
            "seed": self._seed,
            "population": self.population,
            "sample": self.sample,
            "known": len(self._seen),
        }

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures: random ones until a population has been asked for, children from then on."""
        chosen: list[NDArray[np.uint8]] = []
        for round_ in range(_ROUNDS):
            at_random = self._asked + len(chosen) < self.population or len(self._archs) < 2 or round_ == _ROUNDS - 1
            proposals = self.space.sample(n, self._rng) if at_random else self._children(n, 1 + round_)
            for row in proposals:
                if len(chosen) < n and row.tobytes() not in self._seen:
                    self._seen.add(row.tobytes())
                    chosen.append(row)
            if len(chosen) == n:
                break
        self._asked += len(chosen)
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Take in results; the oldest members make room. Failed rows (NaN without a violation) do not live."""
        archs = self.space.canonical(archs)
        self._seen.update(row.tobytes() for row in archs)
        fine = np.isfinite(costs).all(axis=1) | (violation > 0)
        self._archs = np.vstack([self._archs, archs[fine]])[-self.population :]
        self._costs = np.vstack([self._costs.reshape(-1, costs.shape[1]), costs[fine]])[-self.population :]
        self._violation = np.concatenate([self._violation, violation[fine]])[-self.population :]

    def _children(self, n: int, strength: int) -> Archs:
        ranks = constrained_rank(self._costs, self._violation)
        finite = np.where(np.isfinite(self._costs), self._costs, 0.0)
        crowding = crowding_by_front(finite, ranks)
        place = np.lexsort((-crowding, ranks)).argsort()  # 0: the best of all
        contestants = self._rng.integers(0, len(ranks), size=(n, self.sample))
        winners = contestants[np.arange(n), place[contestants].argmin(axis=1)]
        return self.space.mutate(self._archs[winners], self._rng, min(0.5, strength / self.space.genes))
