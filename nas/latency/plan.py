"""What a campaign times, decided before anything is timed, and the figures that judge what it found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.blocks import Block
from nas.errors import BadInput
from nas.latency.table import LatencyTable, Validation
from nas.space import Archs, SearchSpace


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The networks of a campaign; its blocks are all of ``space.blocks``.

    ``calibrate (n, genes)``: networks from cheap to dear, on which the calibration is fitted. ``validate (m, genes)``:
    others, drawn at random, whose prediction error the table records. ``reference``: the block that is timed along.
    """

    space: SearchSpace
    calibrate: Archs
    validate: Archs
    seed: int = 0

    @property
    def archs(self) -> Archs:
        """``(calibrate + validate, genes)``, in this order."""
        return np.concatenate([self.calibrate, self.validate])

    @property
    def reference(self) -> Block:
        """The block of median MACs: long enough to be timed well, short enough to be cheap."""
        blocks = self.space.blocks
        return sorted(blocks, key=lambda b: b.macs)[len(blocks) // 2]

    def order(self) -> list[Block]:
        """The blocks in an order without pattern, so that a disturbance does not hit all blocks of a kind."""
        return [self.space.blocks[i] for i in np.random.default_rng(self.seed).permutation(len(self.space.blocks))]


def plan(space: SearchSpace, *, calibrate: int = 60, validate: int = 20, seed: int = 0) -> Plan:
    """Choose the whole networks of a campaign. Raises BadInput for too few to fit or to judge by."""
    if calibrate < 8 or validate < 2:
        raise BadInput(f"calibrate at least 8 networks and validate at least 2, got {calibrate} and {validate}")
    pool = distinct_archs(space, 40 * calibrate, seed + 1)
    if len(pool) < calibrate + validate:  # a tiny space: what there is, in the same proportion
        calibrate = len(pool) * calibrate // (calibrate + validate)
    # spread evenly from cheap to dear: uniform sampling hardly ever draws small networks, which searches prefer
    by_macs = np.argsort(space.scorer(space.per_block(lambda b: b.macs))(pool), kind="stable")
    first = pool[by_macs[np.linspace(0, len(pool) - 1, calibrate).astype(int)]]
    return Plan(
        space=space, calibrate=first, validate=distinct_archs(space, validate, seed + 2, exclude=first), seed=seed
    )


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
