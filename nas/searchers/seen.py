"""What searchers have in common: they propose nothing twice, and keep results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.checks import Seed, checked
from nas.searchers.searcher import text_of
from nas.space import Archs, Floats, SearchSpace, keys

LAST = 19
"""The last round of ``fill``, counted from 0: the moment to draw at random."""


_EVEN = 5


def even(space: SearchSpace) -> Archs:
    """The networks whose genes are all equally far along their values, first to last, up to five, ``(n, genes)``.

    Where values rise, they are the smallest network, the largest and some between: a search begins with them.
    """
    share = np.linspace(0, 1, min(_EVEN, int(space.sizes.max())))
    return space.canonical(np.rint(share[:, None] * (space.sizes - 1)).astype(np.uint8))


class Seen:
    """The networks, as canonical rows, that a searcher has come across."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, archs: Archs) -> None:
        """Count ``archs (n, genes)`` as seen."""
        self._keys.update(keys(archs))

    def known(self, archs: Archs) -> NDArray[np.bool_]:
        """Which rows of ``archs (n, genes)`` are counted, ``(n,)``."""
        return np.array([key in self._keys for key in keys(archs)], dtype=bool)

    def take(self, archs: Archs, most: int) -> list[int]:
        """The first ``most`` rows of ``archs (n, genes)`` that are new, each network once; they are seen from now on."""
        rows: list[int] = []
        for row, key in enumerate(keys(archs)):
            if len(rows) == most:
                break
            if key not in self._keys:
                self._keys.add(key)
                rows.append(row)
        return rows

    def fill(self, n: int, propose: Callable[[int, int], Archs]) -> Archs:
        """Up to ``n`` new networks ``(n, genes)`` of ``propose(round, missing)``, which is called a limited number of
        times; the last round is ``LAST``."""
        found: list[Archs] = []
        missing = n
        for attempt in range(LAST + 1):
            proposals = propose(attempt, missing)
            rows = self.take(proposals, missing)
            found.append(proposals[rows])
            missing -= len(rows)
            if missing <= 0:
                break
        return np.concatenate(found)


class NeverTwice:
    """Base of the searchers that remember in ``_seen`` what they have come across."""

    space: SearchSpace

    @checked
    def reset(self, seed: Seed) -> None:
        """Forget everything and start from ``seed``."""
        self.seed = seed
        self._rng = np.random.default_rng(seed)
        self._seen = Seen()

    __repr__ = text_of

    @property
    def known(self) -> int:
        return len(self._seen)


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """Networks with their results: ``archs (n, genes)``, ``costs (n, k)``, ``violation (n,)``."""

    archs: Archs
    costs: Floats
    violation: Floats

    @classmethod
    def none(cls, space: SearchSpace) -> Results:
        return cls(archs=np.empty((0, space.genes), np.uint8), costs=np.empty((0, 0)), violation=np.empty(0))

    def __len__(self) -> int:
        return len(self.archs)

    def take(self, rows: Any) -> Results:
        """Those of ``rows``: indices, a mask or a slice."""
        return Results(archs=self.archs[rows], costs=self.costs[rows], violation=self.violation[rows])

    def usable(self) -> Results:
        """Without failed ones. Costs that are not finite are no failure where a constraint is violated: none count there."""
        finite = np.isfinite(self.costs)
        return self if finite.all() else self.take(finite.all(axis=1) | (self.violation > 0))

    def plus(self, more: Results) -> Results:
        """These, then ``more``."""
        costs = np.concatenate([self.costs.reshape(-1, more.costs.shape[1]), more.costs])
        archs, violation = np.concatenate([self.archs, more.archs]), np.concatenate([self.violation, more.violation])
        return Results(archs=archs, costs=costs, violation=violation)
