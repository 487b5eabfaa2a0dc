"""Regularized (aging) evolution (Real et al., AAAI 2019), with Pareto tournaments where there are several objectives."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta

from nas.checks import Count, Seed, checked
from nas.errors import BadInput
from nas.pareto import crowding_by_front
from nas.searchers.nsga2 import constrained_rank
from nas.searchers.seen import LAST, NeverTwice, Results
from nas.space import Archs, Floats, SearchSpace


class RegularizedEvolution(NeverTwice):
    """The best of a random sample becomes a parent, its child is a mutation, and the oldest member dies.

    ``population``: members alive; ``sample``: contestants of each tournament. The best is the one of lowest rank, then
    of largest crowding distance. No network is proposed twice.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: Seed = 0,
        population: Annotated[int, Meta(ge=2, le=100_000)] = 64,
        sample: Annotated[int, Meta(ge=2, le=100_000)] = 16,
    ) -> None:
        if sample > population:
            raise BadInput(f"a sample has 2 to {population} (the population) members, got {sample}")
        self.space = space
        self.population, self.sample = population, sample
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        super().reset(seed)
        self._alive = Results.none(self.space)
        self._asked = 0

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures: random ones until a population has been asked for, children from then on."""

        def propose(attempt: int, missing: int) -> Archs:
            asked = self._asked + n - missing
            at_random = asked < self.population or len(self._alive) < 2 or attempt == LAST
            return self.space.sample(n, self._rng) if at_random else self._children(n, 1 + attempt)

        chosen = self._seen.fill(n, propose)
        self._asked += len(chosen)
        return chosen

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results; the oldest members make room. Failed rows (NaN without a violation) do not live."""
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        told = Results(archs=archs, costs=costs, violation=violation).usable()
        self._alive = self._alive.plus(told).take(slice(-self.population, None))

    def _children(self, n: int, strength: int) -> Archs:
        costs = self._alive.costs
        ranks = constrained_rank(costs, self._alive.violation)
        finite = np.where(np.isfinite(costs), costs, 0.0)
        crowding = crowding_by_front(finite, ranks)
        place = np.lexsort((-crowding, ranks)).argsort()  # 0: the best of all
        contestants = self._rng.integers(0, len(ranks), size=(n, self.sample))
        winners = contestants[np.arange(n), place[contestants].argmin(axis=1)]
        return self.space.mutate(self._alive.archs[winners], self._rng, min(0.5, strength / self.space.genes))
