"""Whether devices agree: tables compared block by block, and over the same random networks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import pandas as pd
from msgspec import Meta
from numpy.typing import ArrayLike

from nas.checks import checked
from nas.errors import BadInput
from nas.space import Archs, Floats, SearchSpace
from nas.tables.table import LatencyTable
from nas.tables.validation import distinct_archs

Networks = Annotated[int, Meta(ge=2, le=100_000)]
NETWORKS = 500


@dataclass(frozen=True, kw_only=True, eq=False)
class Agreement:
    """How alike two sets of latencies rank, and by what factor they differ: ``ratio`` = second / first.

    ``n``: how many were compared. ``ratio_p10``, ``ratio_p90``: of the single ratios; far apart, no factor turns one
    table into the other. A rank correlation is NaN where one side is constant.
    """

    n: int
    kendall_tau: float
    spearman: float
    ratio: float
    ratio_p10: float
    ratio_p90: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """``blocks``: over the blocks that both tables hold; ``networks``: over the same random networks, or None.

    ``rows``: block, first_ms, second_ms, ratio, and ``apart``: the ratio over its median; most apart first.
    """

    blocks: Agreement
    networks: Agreement | None
    rows: pd.DataFrame


@checked
def compare(
    first: LatencyTable, second: LatencyTable, space: SearchSpace | None = None, *, networks: Networks = NETWORKS
) -> Comparison:
    """Compare what blocks, and random networks of ``space``, cost on two devices (milliseconds inside a network).

    Blocks that cost nothing in one of the tables (counted elsewhere by their source) are left out of the rows.
    Networks are compared where both tables cover ``space``. Raises BadInput when no block is in both.
    """
    a = pd.DataFrame({"block": first.rows["block"], "first_ms": first.effective_ms})
    rows = a.merge(pd.DataFrame({"block": second.rows["block"], "second_ms": second.effective_ms}), on="block")
    rows = rows[(rows["first_ms"] > 0) & (rows["second_ms"] > 0)]
    if rows.empty:
        raise BadInput(f"tables {first.name} and {second.name} have no block in common")
    rows["ratio"] = rows["second_ms"] / rows["first_ms"]
    rows["apart"] = rows["ratio"] / rows["ratio"].median()
    rows = rows.iloc[np.argsort(-np.abs(np.log(rows["apart"].to_numpy())), kind="stable")].reset_index(drop=True)
    whole = None
    if space is not None and not first.missing(space.blocks) and not second.missing(space.blocks):
        archs = distinct_archs(space, networks, 0)
        whole = _agreement(network_ms(first, space, archs), network_ms(second, space, archs))
    return Comparison(blocks=_agreement(rows["first_ms"], rows["second_ms"]), networks=whole, rows=rows)


def network_ms(table: LatencyTable, space: SearchSpace, archs: Archs) -> Floats:
    """``(n,)`` predicted ms of ``archs (n, genes)``. Raises MissingBlocks when the table does not cover the space."""
    return space.scorer(table.lookup(space.blocks), fixed=table.fixed_ms)(archs)


def rank_correlations(ms: Sequence[ArrayLike]) -> tuple[Floats, Floats]:
    """Kendall's tau and Spearman's rho, each ``(devices, devices)``, between the rows of ``ms (devices, networks)``."""
    frame = pd.DataFrame(np.asarray(ms, dtype=np.float64).T)
    kendall, spearman = (frame.corr(method).to_numpy(copy=True) for method in ("kendall", "spearman"))
    np.fill_diagonal(kendall, 1.0)  # also of a constant, which otherwise ranks nothing
    np.fill_diagonal(spearman, 1.0)
    return kendall, spearman


def _agreement(first: ArrayLike, second: ArrayLike) -> Agreement:
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    kendall, spearman = rank_correlations([a, b]) if len(a) > 1 else (np.full((2, 2), np.nan),) * 2
    low, middle, high = np.quantile(b / a, [0.1, 0.5, 0.9]).tolist()
    return Agreement(
        n=len(a),
        kendall_tau=float(kendall[0, 1]),
        spearman=float(spearman[0, 1]),
        ratio=middle,
        ratio_p10=low,
        ratio_p90=high,
    )
