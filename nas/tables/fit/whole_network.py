"""Latency tables from timings of complete networks, where no block can be timed alone.

    network = fixed + sum over its blocks

is linear in the unknown block costs, but a few hundred networks say little about thousands of blocks. So a prior has
blocks resemble one another: cost = a smooth function of operations, activations and weights, with corrections for
what a block is (kind, kernel, stride, activation, ...), for where it is (its channels), and for itself. How far the
timings are followed is chosen by cross-validation.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
from msgspec import Meta

from nas.checks import Positive, Seed, checked
from nas.device import Device
from nas.errors import BadInput
from nas.space import Archs, Floats, SearchSpace
from nas.tables.features import block_counts
from nas.tables.fit.calibration import Calibration
from nas.tables.fit.gaussian import i_optimal, non_negative, solve
from nas.tables.fit.prior import cost_prior
from nas.tables.table import LatencyTable, Validation
from nas.tables.validation import distinct_archs, positive, validated

FEWEST = 20
"""Networks that a fit needs; half of that with a table of isolated measurements to start from."""

NOISES = (0.003, 0.01, 0.03, 0.1, 0.3)
"""Relative errors of one timing that cross-validation chooses between: small ones follow the timings closely."""

Chosen = Annotated[int, Meta(ge=1, le=2000)]
"""Networks to time."""

_FOLDS = 5
_DESIGN_NOISE = 0.03
_CHOOSE_ON = 1000  # networks; more change the choice of noise no longer
_FLOOR = 0.01  # a block never costs less than this share of what its size suggests


@checked
def fit_blocks(
    space: SearchSpace,
    archs: Archs,
    ms: Floats,
    *,
    device: Device,
    prior: LatencyTable | Sequence[LatencyTable] | None = None,
    date: str = "",
    source: str = "fitted from timings of whole networks",
    licence: str = "",
    notes: Mapping[str, Any] | None = None,
) -> LatencyTable:
    """The table (kind "fitted") that best explains ``ms (n,)``, the timings of ``archs (n, genes)`` on ``device``.

    Relative errors count, far-off timings less (Huber), no cost is negative. With ``prior``, a table of blocks timed
    alone or of another device, costs are drawn towards a multiple of those (it may lack blocks); with several, towards
    a mixture. ``validation``: every network predicted by a fit that has not
    seen it (5 folds; one setting was chosen on the same folds). In ``rows``, ``runs`` counts the timed networks with
    that block, p10_ms to p90_ms is the fit's own 80% interval; blocks in no network have ``runs`` 0, come from the
    model of similar blocks, and are counted in ``notes``. Sums are better known than single blocks: what always occurs
    together cannot be told apart.
    Raises BadInput for fewer than 20 different networks (10 with ``prior``), or timings that are not positive.
    """
    priors = _priors(prior)
    archs, ms = check_timings(space, archs, ms, FEWEST // 2 if priors else FEWEST)
    counts = block_counts(space, archs)
    solved = solve_blocks(counts, ms, *cost_prior(space, counts, priors), _folds(archs, _FOLDS))
    return as_table(
        space,
        counts,
        solved,
        device=device,
        validation=validated(solved.held_out, ms),
        date=date,
        source=source,
        licence=licence,
        notes={
            "validation": f"{_FOLDS}-fold: each network predicted by a fit without it",
            **({"prior": ", ".join(p.name for p in priors)} if priors else {}),
            **(notes or {}),
        },
    )


@dataclass(frozen=True, kw_only=True)
class Solved:
    """All in ms: ``costs (q,)``, half the ``width (q,)`` of their 80% interval, ``held_out (n,)``.

    ``held_out``: each network as predicted by a fit without its fold.
    """

    costs: Floats
    width: Floats
    held_out: Floats


def solve_blocks(
    counts: Floats, ms: Floats, factor: Floats, typical: Floats, fold: Any, noises: Sequence[float] = NOISES
) -> Solved:
    """What blocks cost, by regression of the networks' ``ms (n,)`` on their blocks.

    ``counts (n, q)`` as of ``block_counts``, ``factor`` and ``typical`` as of ``cost_prior``, ``fold (n,)``.
    """
    root = _root(factor)
    unit = float(np.median(ms))
    relative = counts * (unit / ms)[:, None]
    design = relative @ root
    noise = _choose_noise(design, fold, noises)
    floor = np.append(_FLOOR * typical[:-1], 0.0)
    held_out = np.empty(len(ms))
    for k in np.unique(fold):
        costs, _ = _costs(relative[fold != k], design[fold != k], root, noise, floor)
        held_out[fold == k] = counts[fold == k] @ costs * unit
    costs, weights = _costs(relative, design, root, noise, floor)
    width = 1.2816 * _deviation(relative, design, root, noise, costs, weights)
    return Solved(costs=unit * costs, width=unit * width, held_out=held_out)


def as_table(
    space: SearchSpace,
    counts: Floats,
    solved: Solved,
    *,
    device: Device,
    validation: Validation,
    date: str,
    source: str,
    licence: str,
    notes: Mapping[str, Any],
) -> LatencyTable:
    """The fitted costs as a table of the blocks of ``space``; ``counts (networks, blocks + 1)`` as they were timed."""
    latency = solved.costs[:-1]
    runs = (counts[:, :-1] > 0).sum(axis=0)
    rows = pd.DataFrame(
        {
            "block": [b.key for b in space.blocks],
            "latency_ms": latency,
            "p10_ms": np.maximum(latency - solved.width[:-1], 0.0),
            "p90_ms": latency + solved.width[:-1],
            "runs": runs,
        }
    )
    return LatencyTable(
        device=device,
        rows=rows,
        calibration=Calibration(fixed_ms=float(solved.costs[-1])),
        validation=validation,
        kind="fitted",
        space={"name": space.name, "fingerprint": space.fingerprint},
        date=date or datetime.date.today().isoformat(),
        source=source,
        licence=licence,
        notes={
            "networks": len(counts),
            "blocks_in_no_network": int((runs == 0).sum()),
            "percentiles": "the fit's 80% interval for the block, not the spread of timings",
            **notes,
        },
    )


@checked
def choose_networks(
    space: SearchSpace,
    n: Chosen,
    *,
    seed: Seed = 0,
    prior: LatencyTable | Sequence[LatencyTable] | None = None,
    own: Positive = 1.0,
) -> Archs:
    """``(n, genes)``: different networks whose timings tell ``fit_blocks`` most about all networks of ``space``.

    Picked greedily from random candidates (I-optimal design under the same prior); the first ones tell
    most, so the list may be cut short. Raises BadInput when ``space`` has fewer than ``n`` networks.
    """
    pool = distinct_archs(space, max(1500, 3 * n), seed)
    if not 1 <= n <= len(pool):
        raise BadInput(f"{space.name}: cannot choose {n} networks, {len(pool)} different ones were found")
    return pool[choose_among(space, pool, n, prior=prior, own=own)]


@checked
def choose_among(
    space: SearchSpace,
    archs: Archs,
    n: Chosen,
    *,
    prior: LatencyTable | Sequence[LatencyTable] | None = None,
    own: Positive = 1.0,
) -> Any:
    """``(n,)`` indices into ``archs``: the choice of ``choose_networks`` among given candidates."""
    counts = block_counts(space, archs)
    factor, typical = cost_prior(space, counts, _priors(prior), own=own)
    size = counts @ typical  # a guess of the latency, for relative errors
    return i_optimal((counts / size[:, None] * size.mean()) @ factor, n, _DESIGN_NOISE)


def _priors(prior: LatencyTable | Sequence[LatencyTable] | None) -> list[LatencyTable]:
    return [prior] if isinstance(prior, LatencyTable) else list(prior or ())


def _root(factor: Floats) -> Floats:
    """Square root of the covariance, ``(q, q)``."""
    covariance = factor @ factor.T
    covariance[np.diag_indices(len(covariance))] += 1e-12 * covariance.diagonal().max()
    return np.asarray(np.linalg.cholesky(covariance))


def _folds(archs: Archs, folds: int) -> Any:
    """``(n,)`` fold of each network; repeated timings of one network share theirs."""
    _, which = np.unique(archs, axis=0, return_inverse=True)
    which = which.reshape(-1)
    return (np.random.default_rng(0).permutation(which.max() + 1) % folds)[which]


def _choose_noise(design: Floats, fold: Any, noises: Sequence[float]) -> float:
    """The one of ``noises`` with which ``design (n, q)`` predicts networks outside their ``fold (n,)`` best."""
    design, fold = design[:_CHOOSE_ON], fold[:_CHOOSE_ON]

    def error(noise: float) -> float:
        apart = np.concatenate(
            [
                design[fold == k] @ solve(design[fold != k], np.ones((fold != k).sum()), noise)[0] - 1.0
                for k in np.unique(fold)
            ]
        )
        return float(np.abs(apart).mean())

    return noises[0] if len(noises) == 1 else min(noises, key=error)


def _costs(relative: Floats, design: Floats, root: Floats, noise: float, floor: Floats) -> tuple[Floats, Floats]:
    """``(costs (q,), weights (n,))``, no cost below its floor."""
    w, weights = solve(design, np.ones(len(design)), noise)
    costs = root @ w
    if (costs < floor).any():
        hessian = _hessian(relative, root, noise, weights)
        gradient = relative.T @ weights - hessian @ floor
        costs = floor + non_negative(hessian, gradient, costs - floor)
    return costs, weights


def _hessian(relative: Floats, root: Floats, noise: float, weights: Floats) -> Floats:
    """``(q, q)``: of the weighted squared errors and the prior, in the costs themselves."""
    inverse = np.linalg.solve(root, np.eye(len(root)))
    return (relative * weights[:, None]).T @ relative + noise**2 * (inverse.T @ inverse)


def _deviation(relative: Floats, design: Floats, root: Floats, noise: float, costs: Floats, weights: Floats) -> Floats:
    """``(q,)`` standard deviation of each cost: noise as large as the residuals show it."""
    left = np.sqrt(np.average((relative @ costs - 1.0) ** 2, weights=weights))
    inner = (design * weights[:, None]).T @ design
    inner[np.diag_indices(len(inner))] += noise**2
    spread = np.linalg.solve(np.linalg.cholesky(inner), root.T)
    return float(left) * np.sqrt(np.einsum("ij,ij->j", spread, spread))


def check_timings(space: SearchSpace, archs: Archs, ms: Floats, fewest: int) -> tuple[Archs, Floats]:
    """``(archs (n, genes) in canonical form, ms (n,))``. Raises BadInput for what cannot be fitted."""
    archs, ms = space.canonical(space.check(archs)), positive("timings", ms)
    if ms.shape != (len(archs),):
        raise BadInput(f"one timing per network: {len(archs)} networks, timings of shape {ms.shape}")
    if (different := len(np.unique(archs, axis=0))) < fewest:
        raise BadInput(
            f"a fitted table of {space.name} needs the timings of at least {fewest} different networks, got {different}"
        )
    return archs, ms
