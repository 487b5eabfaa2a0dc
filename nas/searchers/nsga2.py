"""NSGA-II (Deb et al., IEEE Trans. Evolutionary Computation 2002) on batches of integer genes."""

from __future__ import annotations

import math
from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from nas.checks import Count, Probability, Seed, checked
from nas.pareto import crowding_by_front, rank
from nas.searchers.seen import LAST, NeverTwice, Results, Seen, even
from nas.space import Archs, Floats, SearchSpace, is_ordered

_GENTLE = 5  # rounds of proposals with the usual mutation; what still finds nothing new mutates harder and harder
_SPARE = 4  # proposals more than wanted: some will be known, and another round costs more
_AMPLE = 1.2
_FEWEST = 16  # members of a population that nobody has set, until so many squared have been evaluated
_STEPS = 0.8  # share of a numeric gene's mutations that step up or down instead of jumping anywhere


class NSGA2(NeverTwice):
    """Non-dominated sorting, crowding distance, constrained domination; uniform crossover and mutation.

    ``population``: members; by default the square root of the number of results, at least 16, which serves a hundred
    evaluations as well as a hundred thousand. The first generation is random but for the even networks (``seen.even``).
    ``crossover``: share of children with two parents. Uniform crossover alone gives new networks, so a share ``mutated``
    of these children is mutated as well; children of one parent always are. ``mutation``: probability per active gene
    (default 1/genes; at least one changes). Genes whose values are numbers in order mostly step to values nearby. No
    network is proposed twice.
    """

    @checked
    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: Seed = 0,
        population: Annotated[int, Meta(ge=4, le=100_000)] | None = None,
        crossover: Probability = 0.9,
        mutated: Probability = 0.1,
        mutation: Probability | None = None,
    ) -> None:
        self.space = space
        self.population, self.crossover, self.mutated = population, crossover, mutated
        self.mutation = 1.0 / space.genes if mutation is None else mutation
        self._ordered = np.array([is_ordered(choice) for choice in space.choices])
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        super().reset(seed)
        self._completed = Seen()
        self._alive = Results.none(self.space)
        self._place = np.empty(0, dtype=np.int64)  # of those alive, 0 the best; equally good ones share one
        self._asked = 0
        self._fresh = 1.0  # share of the last proposals that were new

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures: random ones until a population has been asked for, children from then on."""
        chosen: list[Archs] = []
        missing = n
        for attempt in range(LAST + 1):
            first_generation = self._asked < self._members or len(self._alive) < 2
            # the last round draws at random: a converged population must not end a search with networks left
            at_random = first_generation or attempt == LAST
            wanted = missing if at_random else int(_AMPLE * missing / self._fresh) + _SPARE
            if not at_random:
                proposals = self._children(wanted, 1 + attempt // _GENTLE)
            elif self._asked or attempt:
                proposals = self.space.sample(wanted, self._rng)
            else:
                proposals = np.vstack([even(self.space), self.space.sample(wanted, self._rng)])
            new = self._seen.take(proposals, missing)
            looked_at = new[-1] + 1 if new and len(new) == missing else len(proposals)
            chosen.append(proposals.take(new, axis=0))
            missing -= len(new)
            self._asked += len(new)
            self._fresh = max(0.1, 0.5 * self._fresh + 0.5 * len(new) / max(looked_at, 1))
            if not missing:
                break
        return np.concatenate(chosen)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results ``costs (n, k)``, ``violation (n,)`` and keep the best of all, a population.

        Rows whose costs are not finite survive only if they violate a constraint (then costs do not count).
        """
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        told = Results(archs=archs, costs=costs, violation=violation).usable()
        if new := self._completed.take(told.archs, len(told)):
            self._survive(self._alive.plus(told if len(new) == len(told) else told.take(new)))

    @property
    def _members(self) -> int:
        return self.population or max(_FEWEST, math.isqrt(len(self._completed)))

    def _survive(self, everyone: Results) -> None:
        ranks = constrained_rank(everyone.costs, everyone.violation)
        isolation = self._isolation(everyone.costs, ranks)
        keep = np.lexsort((-isolation, ranks))[: self._members]
        self._alive = everyone.take(keep)
        ranks, isolation = ranks[keep], isolation[keep]
        self._place = np.zeros(len(keep), dtype=np.int64)
        ((ranks[1:] != ranks[:-1]) | (isolation[1:] != isolation[:-1])).cumsum(out=self._place[1:])

    def _isolation(self, costs: Floats, ranks: NDArray[np.int64]) -> Floats:
        """By what rows of the same rank are preferred to each other, ``(n,)``: more is better."""
        finite = np.isfinite(costs)
        if finite.all():
            return crowding_by_front(costs, ranks)
        rows = finite.all(axis=1)
        isolation = np.zeros(len(costs))
        if rows.any():
            isolation[rows] = crowding_by_front(costs[rows], ranks[rows])
        return isolation

    def _children(self, n: int, strength: int) -> Archs:
        parents = self._tournament(2 * n)
        mothers, fathers = parents[:n], parents[n:]
        both = self._rng.random(n) < self.crossover
        children = self.space.crossover(mothers, fathers, self._rng)
        alone = (~both).nonzero()[0]
        children[alone] = mothers.take(alone, axis=0)
        mutated = (~both | (self._rng.random(n) < self.mutated) | (strength > 1)).nonzero()[0]
        children[mutated] = self._mutate(children.take(mutated, axis=0), min(0.5, strength * self.mutation))
        return children

    def _mutate(self, archs: Archs, rate: float) -> Archs:
        """Like ``space.mutate``, but genes with an order mostly move by a geometric step, held at either end.

        Genes that become active start at random values, not at the 0 that stands for inactive ones.
        """
        rng, sizes, active = self._rng, self.space.sizes, self.space.active(archs)
        free = active & (sizes > 1)
        changed = free & (rng.random(archs.shape) < rate)
        untouched = np.flatnonzero(free.any(axis=1) & ~changed.any(axis=1))
        forced = (rng.random((len(untouched), archs.shape[1])) * free[untouched]).argmax(axis=1)
        changed[untouched, forced] = True
        rows, genes = changed.nonzero()
        old, most = archs[rows, genes].astype(np.int64), sizes[genes]
        new = (old + rng.integers(1, most)) % most
        steps = rng.geometric(0.5, size=len(rows)) * (2 * rng.integers(0, 2, size=len(rows)) - 1)
        stepped = np.minimum(np.maximum(old + steps, 0), most - 1)
        near = self._ordered[genes] & (stepped != old) & (rng.random(len(rows)) < _STEPS)
        moved = archs.copy()
        moved[rows, genes] = np.where(near, stepped, new)
        if not active.all():
            moved = np.where(active, moved, rng.integers(0, sizes, size=archs.shape))
        return self.space.canonical(moved)

    def _tournament(self, n: int) -> Archs:
        pairs = self._rng.integers(0, len(self._alive), size=(n, 2))
        place = self._place.take(pairs)
        winners = np.where(place[:, 1] < place[:, 0], pairs[:, 1], pairs[:, 0])
        return self._alive.archs.take(winners, axis=0)


def constrained_rank(costs: Floats, violation: Floats) -> NDArray[np.int64]:
    """The front ``(n,)`` of each row, 0 the best, under constrained domination.

    Feasible rows by their ``costs (n, k)``, the others after them by ``violation (n,)``.
    """
    feasible = violation <= 0
    if feasible.all():
        return rank(costs)
    ranks = np.empty(len(costs), dtype=np.int64)
    ranks[feasible] = rank(costs[feasible]) if feasible.any() else 0
    after = int(ranks[feasible].max()) + 1 if feasible.any() else 0
    _, order = np.unique(violation[~feasible], return_inverse=True)
    ranks[~feasible] = after + order
    return ranks
