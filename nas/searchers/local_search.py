"""Pareto local search (Paquete et al. 2004; for NAS: White et al., UAI 2021): look at the neighbours of the front."""

from __future__ import annotations

import numpy as np

from nas.checks import Count, Seed, checked
from nas.searchers.nsga2 import constrained_rank
from nas.searchers.seen import NeverTwice, Results
from nas.space import Archs, Floats, SearchSpace


class LocalSearch(NeverTwice):
    """Proposes all networks that differ from one of the front in a single gene, front member by front member.

    ``initial``: random architectures to start with. When every neighbour of the front is known, it goes on at random.
    """

    @checked
    def __init__(self, space: SearchSpace, *, seed: Seed = 0, initial: Count = 16) -> None:
        self.space = space
        self.initial = initial
        self.reset(seed)

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        super().reset(seed)
        self._explored: set[bytes] = set()
        self._front = Results.none(self.space)
        self._asked = 0

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures."""
        near = self._near(n) if self._asked >= self.initial else self._front.archs[:0]
        more = self._seen.fill(n - len(near), lambda attempt, missing: self.space.sample(missing, self._rng))
        self._asked += len(near) + len(more)
        return np.concatenate([near, more])

    def _near(self, n: int) -> Archs:
        """Up to ``n`` new neighbours of the front's members, in random order."""
        front = self._front.archs
        chosen = [front[:0]]
        missing = n
        for i in self._rng.permutation(len(front)):
            if missing and front[i].tobytes() not in self._explored:
                around = self._rng.permutation(neighbours(self.space, front[i]))
                chosen.append(around[self._seen.take(around, missing)])
                missing -= len(chosen[-1])
                if missing:
                    self._explored.add(front[i].tobytes())
        return np.concatenate(chosen)

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Take in results and keep the front: the feasible non-dominated, or else the smallest violation."""
        archs = self.space.canonical(archs)
        self._seen.add(archs)
        told = Results(archs=archs, costs=costs, violation=violation).usable()
        if len(told):
            everything = self._front.plus(told)
            self._front = everything.take(constrained_rank(everything.costs, everything.violation) == 0)


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
