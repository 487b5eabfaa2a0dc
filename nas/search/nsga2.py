"""NSGA-II (Deb et al., IEEE Trans. Evolutionary Computation 2002) on batches of integer genes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.search.pareto import crowding_distance, rank
from nas.space import Archs, SearchSpace, is_ordered

_TRIES = 20  # rounds of proposals per ask
_GENTLE = 5  # of these, rounds with the usual mutation; what still finds nothing new mutates harder and harder
_FEWEST = 8  # proposals per round
_STEPS = 0.8  # share of a numeric gene's mutations that step up or down instead of jumping anywhere


class NSGA2:
    """Non-dominated sorting, crowding distance, constrained domination; uniform crossover and mutation.

    ``crossover``: share of children with two parents. Uniform crossover alone gives new networks, so a share
    ``mutated`` of these children is mutated as well; children of one parent always are. ``mutation``: probability per
    active gene (default 1/genes; at least one changes). Genes whose values are numbers in order mostly step to values
    nearby. No network is proposed twice.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        population: int = 64,
        crossover: float = 0.9,
        mutated: float = 0.1,
        mutation: float | None = None,
    ) -> None:
        if population < 4:
            raise BadInput(f"a population has at least 4 members, got {population}")
        self.space = space
        self.population = population
        self.crossover = crossover
        self.mutated = mutated
        self.mutation = 1.0 / space.genes if mutation is None else mutation
        for name in ("crossover", "mutated", "mutation"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} is a probability between 0 and 1, got {getattr(self, name)}")
        self._ordered = np.array([is_ordered(choice) for choice in space.choices])
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
        """What decides the proposals, for the ledger. ``known``: what it has learnt before, which no replay can repeat."""
        return {
            "searcher": "nsga2",
            "seed": self._seed,
            "population": self.population,
            "crossover": self.crossover,
            "mutated": self.mutated,
            "mutation": self.mutation,
            "known": len(self._seen),
        }

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures: random ones until a population has been asked for, children from then on."""
        chosen: list[NDArray[np.uint8]] = []
        for attempt in range(_TRIES):
            first_generation = self._asked + len(chosen) < self.population or len(self._archs) < 2
            # the last round draws at random: a converged population must not end a search with networks left
            at_random = first_generation or attempt == _TRIES - 1
            wanted = n - len(chosen) if at_random else max(n - len(chosen), _FEWEST)
            proposals = (
                self.space.sample(wanted, self._rng) if at_random else self._children(wanted, 1 + attempt // _GENTLE)
            )
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
        archs = self.space.canonical(archs)
        fine = np.isfinite(costs).all(axis=1) | (violation > 0)
        known = {row.tobytes() for row in self._archs}
        for i, row in enumerate(archs):
            key = row.tobytes()
            self._seen.add(key)
            if key in known:
                fine[i] = False
            elif fine[i]:
                known.add(key)
        if not fine.any():
            return
        self._archs = np.vstack([self._archs, archs[fine]])
        self._costs = np.vstack([self._costs.reshape(-1, costs.shape[1]), costs[fine]])
        self._violation = np.concatenate([self._violation, violation[fine]])
        self._survive()

    def _survive(self) -> None:
        ranks = constrained_rank(self._costs, self._violation)
        crowding = np.zeros(len(ranks))
        keep = np.zeros(len(ranks), dtype=bool)
        for front in range(int(ranks.max()) + 1):
            members = np.flatnonzero(ranks == front)
            if not len(members):
                continue
            usable = np.isfinite(self._costs[members]).all()
            crowding[members] = self._isolation(self._costs[members], self._costs[keep]) if usable else 0.0
            room = self.population - int(keep.sum())
            keep[members[np.argsort(-crowding[members], kind="stable")[:room]]] = True
            if keep.sum() >= self.population:
                break
        self._archs, self._costs, self._violation = self._archs[keep], self._costs[keep], self._violation[keep]
        self._rank, self._crowding = ranks[keep], crowding[keep]

    def _isolation(self, front: NDArray[np.float64], kept: NDArray[np.float64]) -> NDArray[np.float64]:
        """By what members of a ``front (n, k)`` are preferred to each other, ``(n,)``; ``kept``: of the fronts before."""
        return crowding_distance(front)

    def _children(self, n: int, strength: int) -> Archs:
        mothers, fathers = self._tournament(n), self._tournament(n)
        both = self._rng.random(n) < self.crossover
        children = np.where(both[:, None], self.space.crossover(mothers, fathers, self._rng), mothers)
        mutated = np.flatnonzero(~both | (self._rng.random(n) < self.mutated) | (strength > 1))
        children[mutated] = self._mutate(children[mutated], min(0.5, strength * self.mutation))
        return children

    def _mutate(self, archs: Archs, rate: float) -> Archs:
        """Like ``space.mutate``, but genes with an order mostly move by a geometric step, held at either end.

        Genes that become active start at random values, not at the 0 that stands for inactive ones.
        """
        rng, sizes, active = self._rng, self.space.sizes, self.space.active(archs)
        free = active & (sizes > 1)
        forced = np.where(free, rng.random(archs.shape), -1.0).argmax(axis=1)
        changed = rng.random(archs.shape) < rate
        untouched = np.flatnonzero(~(free & changed).any(axis=1))
        changed[untouched, forced[untouched]] = True
        jumped = (archs + rng.integers(1, np.maximum(sizes, 2), size=archs.shape)) % sizes
        steps = rng.geometric(0.5, size=archs.shape) * rng.choice([-1, 1], size=archs.shape)
        stepped = np.clip(archs + steps, 0, sizes - 1)
        near = self._ordered & (stepped != archs) & (rng.random(archs.shape) < _STEPS)
        moved = np.where(free & changed, np.where(near, stepped, jumped), archs)
        return self.space.canonical(np.where(active, moved, rng.integers(0, sizes, size=archs.shape)).astype(np.uint8))

    def _tournament(self, n: int) -> Archs:
        pairs = self._rng.integers(0, len(self._archs), size=(n, 2))
        ranks, crowding = self._rank[pairs], self._crowding[pairs]
        second = (ranks[:, 1] < ranks[:, 0]) | ((ranks[:, 1] == ranks[:, 0]) & (crowding[:, 1] > crowding[:, 0]))
        return self._archs[np.where(second, pairs[:, 1], pairs[:, 0])]


def constrained_rank(costs: NDArray[np.float64], violation: NDArray[np.float64]) -> NDArray[np.int64]:
    """Fronts under constrained domination: feasible rows by their costs, the others after them by violation."""
    ranks = np.empty(len(costs), dtype=np.int64)
    feasible = violation <= 0
    ranks[feasible] = rank(costs[feasible]) if feasible.any() else 0
    after = int(ranks[feasible].max()) + 1 if feasible.any() else 0
    _, order = np.unique(violation[~feasible], return_inverse=True)
    ranks[~feasible] = after + order
    return ranks
