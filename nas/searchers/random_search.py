"""Random search: the baseline that every searcher has to beat."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.space import Archs, SearchSpace

_TRIES = 20


class RandomSearch:
    """Uniform over the genes, never the same network twice (as far as ``20 n`` draws find new ones)."""

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        self.space = space
        self.restart(seed)

    def restart(self, seed: int) -> None:
        """Forget everything and start from ``seed``."""
        self._seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen: set[bytes] = set()

    def describe(self) -> dict[str, Any]:
        """What decides the proposals, for the ledger. ``known``: what it has seen before, which no replay can repeat."""
        return {"searcher": "random", "seed": self._seed, "known": len(self._seen)}

    def ask(self, n: int) -> Archs:
        """Up to ``n`` new architectures."""
        chosen: list[NDArray[np.uint8]] = []
        for _ in range(_TRIES):
            for row in self.space.sample(n, self._rng):
                if len(chosen) < n and row.tobytes() not in self._seen:
                    self._seen.add(row.tobytes())
                    chosen.append(row)
            if len(chosen) == n:
                break
        return np.array(chosen, dtype=np.uint8).reshape(-1, self.space.genes)

    def tell(self, archs: Archs, costs: NDArray[np.float64], violation: NDArray[np.float64]) -> None:
        """Only remembers what has been seen."""
        self._seen.update(row.tobytes() for row in self.space.canonical(archs))
