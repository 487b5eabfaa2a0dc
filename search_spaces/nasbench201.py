"""NAS-Bench-201's cell (Dong and Yang 2020): four nodes, an operation on each of the six edges between them.

A tabular space: it has no blocks, and is scored by a table of all 15,625 architectures (nas/objectives/tabular.py).
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from nas.space import Archs, Choice, SearchSpace

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ("e01", "e02", "e12", "e03", "e13", "e23")  # from node, to node
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges from the cell's input to its output


class NasBench201:
    """Constructors of the space."""

    @staticmethod
    def cell() -> SearchSpace:
        """15,625 cells. Predictors see which operations lie on a path from input to output, and the paths themselves."""
        return SearchSpace("nasbench201", [Choice(e, OPERATIONS) for e in EDGES], (), features=_features)


def _features(archs: Archs) -> NDArray[np.float64]:
    """How often each sequence of operations leads from input to output, skips left out; live operations, counted.

    ``(n, 44)``. The first part is the path encoding of White et al., "A Study on Neural Network Encodings" (2020).
    """
    live = np.zeros(archs.shape, dtype=bool)
    sequences: dict[tuple[int, ...], NDArray[np.float64]] = {}
    for path in PATHS:
        edges = archs[:, path]
        live[:, path] |= (edges != 0).all(axis=1)[:, None]
        for operations in itertools.product(range(1, len(OPERATIONS)), repeat=len(path)):
            kept = tuple(o for o in operations if o != 1)
            column = sequences.setdefault(kept, np.zeros(len(archs)))
            column += (edges == operations).all(axis=1)
    counts = [((archs == o) & live).sum(axis=1) / len(EDGES) ** 0.5 for o in range(1, len(OPERATIONS))]
    return np.column_stack([*sequences.values(), *counts])
