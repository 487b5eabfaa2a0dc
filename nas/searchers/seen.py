"""What a searcher has proposed or was told of: nothing is proposed twice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.space import Archs, keys

LAST = 19
"""The last round of ``fill``, counted from 0: the moment to draw at random."""


class Seen:
    """The networks, as canonical rows, that a searcher has come across."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, archs: Archs) -> None:
        """Count ``archs (n, genes)`` as seen."""
        self._keys.update(keys(archs))

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
