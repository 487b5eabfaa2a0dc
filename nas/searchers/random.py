"""Random search: the baseline that every searcher has to beat."""

from __future__ import annotations

from nas.checks import Count, Seed, checked
from nas.searchers.seen import NeverTwice
from nas.space import Archs, Floats, SearchSpace


class RandomSearch(NeverTwice):
    """Uniform over the genes, never the same network twice (as far as ``20 n`` draws find new ones)."""

    @checked
    def __init__(self, space: SearchSpace, *, seed: Seed = 0) -> None:
        self.space = space
        self.reset(seed)

    @checked
    def ask(self, n: Count) -> Archs:
        """Up to ``n`` new architectures."""
        return self._seen.fill(n, lambda attempt, missing: self.space.sample(n, self._rng))

    @checked
    def tell(self, archs: Archs, costs: Floats, violation: Floats) -> None:
        """Only remembers what has been seen."""
        self._seen.add(self.space.canonical(archs))
