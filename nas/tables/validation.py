"""How well a table predicts whole networks: the networks it is judged by, and the figures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.errors import BadInput
from nas.space import Archs, SearchSpace
from nas.tables.table import LatencyTable, Validation


def validated(predicted: NDArray[np.float64], measured: NDArray[np.float64]) -> Validation:
    """The figures of a table's validation, from ms ``(n,)`` each."""
    error = np.abs(predicted / measured - 1)
    return Validation(
        networks=len(measured),
        kendall_tau=round(kendall_tau(predicted, measured), 4),
        mape=round(float(error.mean()), 4),
        within_10pct=round(float((error <= 0.1).mean()), 4),
    )


def repeatability(
    once: NDArray[np.float64] | LatencyTable, again: NDArray[np.float64] | LatencyTable
) -> dict[str, float]:
    """How well two campaigns agree, block by block: median and 90th percentile of the relative difference.

    From two tables (over the blocks that both hold) or two arrays of ms ``(n,)`` each.
    """
    if isinstance(once, LatencyTable) and isinstance(again, LatencyTable):
        both = once.rows.merge(again.rows, on="block", suffixes=("", "_again"))
        if both.empty:
            raise BadInput(f"tables {once.name} and {again.name} have no block in common")
        a, b = both["latency_ms"].to_numpy(float), both["latency_ms_again"].to_numpy(float)
    else:
        a, b = np.asarray(once, dtype=float), np.asarray(again, dtype=float)
    apart = np.abs(b / a - 1)
    return {
        "blocks": len(apart),
        "median": round(float(np.median(apart)), 4),
        "p90": round(float(np.quantile(apart, 0.9)), 4),
    }


def distinct_archs(space: SearchSpace, n: int, seed: int, exclude: Archs | None = None) -> Archs:
    """Up to ``n`` different random architectures that are not among ``exclude``."""
    rng = np.random.default_rng(seed)
    pool = space.sample(4 * n + 64, rng)
    seen = {row.tobytes() for row in exclude} if exclude is not None else set()
    chosen: list[NDArray[np.uint8]] = []
    for row in pool:
        if len(chosen) < n and row.tobytes() not in seen:
            seen.add(row.tobytes())
            chosen.append(row)
    return np.array(chosen, dtype=np.uint8).reshape(-1, space.genes)


def kendall_tau(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Rank correlation of two vectors."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)
