"""How well a table predicts whole networks: the networks it is judged by, and the figures."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from msgspec import Meta
from numpy.typing import ArrayLike

from nas.checks import Seed, checked, shown
from nas.errors import BadInput
from nas.space import Archs, Floats, SearchSpace
from nas.tables.table import LatencyTable, Validation

Sampled = Annotated[int, Meta(ge=0, le=1_000_000)]
"""Random networks."""


def validated(predicted: Floats, measured: Floats) -> Validation:
    """The figures of a table's validation, from ms ``(n,)`` each."""
    error = np.abs(predicted / measured - 1)
    return Validation(
        networks=len(measured),
        kendall_tau=round(kendall_tau(predicted, measured), 4),
        mape=round(float(error.mean()), 4),
        within_10pct=round(float((error <= 0.1).mean()), 4),
    )


def repeatability(once: Floats | LatencyTable, again: Floats | LatencyTable) -> dict[str, float]:
    """How well two campaigns agree, block by block: median and 90th percentile of the relative difference.

    From two tables (over the blocks that both hold) or two arrays of ms ``(n,)`` each. Raises BadInput for tables with
    no block in common.
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


@checked
def distinct_archs(space: SearchSpace, n: Sampled, seed: Seed, exclude: Archs | None = None) -> Archs:
    """``(up to n, genes)``: different random architectures that are not among ``exclude (m, genes)``."""
    pool = space.sample(4 * n + 64, np.random.default_rng(seed))
    excluded = pool[:0] if exclude is None else exclude
    first = np.unique(np.concatenate([excluded, pool]), axis=0, return_index=True)[1]
    return pool[np.sort(first[first >= len(excluded)])[:n] - len(excluded)]


def positive(what: str, values: ArrayLike) -> Floats:
    """``values`` as an array ``(n,)``. Raises BadInput when one is not a positive number."""
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInput(f"{what} are positive numbers of ms, got {shown(values)}") from None
    if (wrong := ~(np.isfinite(found) & (found > 0))).any():
        raise BadInput(f"{what} are positive numbers of ms, but one is {found[wrong][0]}")
    return found


def kendall_tau(a: Floats, b: Floats) -> float:
    """Rank correlation of ``a (n,)`` and ``b (n,)``: pairs in the same order less pairs in another; NaN for a constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)
