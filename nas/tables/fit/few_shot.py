"""A new device from a handful of timings, when other devices are known.

Devices resemble one another: the new one's latencies are, up to a scale, a mixture of known ones plus something of its
own. ``adapt`` says so of blocks and gives a table; ``transfer`` says so of whole networks in a matrix of latencies, where
no blocks are known. Both are Gaussian (ridge) regressions, and the networks worth timing follow from the known devices
alone. The prior, devices as samples of one distribution, is that of HELP (Lee et al., NeurIPS 2021), without its
meta-learning.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.checks import Positive, Seed, checked
from nas.device import Device
from nas.errors import BadInput
from nas.space import Archs, Floats, SearchSpace
from nas.tables.features import block_counts
from nas.tables.fit.gaussian import i_optimal, solve
from nas.tables.fit.prior import cost_prior
from nas.tables.fit.whole_network import Chosen, as_table, check_timings, choose_networks, solve_blocks
from nas.tables.table import LatencyTable
from nas.tables.validation import positive, validated

FEWEST = 6
"""Networks below which nothing can be said about the error of the result, so that no table is made."""

BEYOND = 0.1
"""How much of a device is expected to be unlike any mixture of the known ones, relative to a fit without them."""

NOISES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
"""What ``rehearse`` chooses from: the part of a device's spread over networks that known devices do not explain."""

_CANDIDATES = 1000
_REHEARSALS, _REHEARSED_ON = 4, 400
_LEVEL = 3.0  # the level is unknown, in units of the spread
_CLIP = 3.0  # robust standard deviations at which a known device's log latency is cut off


@checked
def adapt(
    space: SearchSpace,
    tables: Sequence[LatencyTable],
    archs: Archs,
    ms: Floats,
    *,
    device: Device,
    max_error: Positive = 0.25,
    date: str = "",
    source: str = "",
    licence: str = "",
    notes: Mapping[str, Any] | None = None,
) -> LatencyTable:
    """The table (kind "fitted") of ``device``, from ``tables`` of other devices and ``ms (n,)``, its timings of ``archs``.

    ``validation``: every network predicted from the others (leave one out). ``notes["mape_at_most"]``: what the error on
    other networks stays below, with 95% confidence: much more than that when networks are few.
    Raises BadInput without tables; for fewer than 6 different networks; and when the error may exceed ``max_error``: such
    timings do not support a table.
    """
    names = _names(tables)
    try:
        archs, ms = check_timings(space, archs, ms, FEWEST)
    except BadInput as error:
        raise BadInput(f"cannot adapt to {device.name}: {error}") from None
    counts = block_counts(space, archs)
    each = np.unique(archs, axis=0, return_inverse=True)[1].reshape(-1)
    solved = solve_blocks(counts, ms, *cost_prior(space, counts, tables, own=BEYOND), each)
    validation, bound = validated(solved.held_out, ms), error_bound(solved.held_out, ms)
    if bound > max_error:
        raise BadInput(
            f"the {len(ms)} timings do not support a table of {device.name}: predicted one from the others, they are off by "
            f"{validation.mape:.0%} on average and perhaps {bound:.0%} (at most {max_error:.0%} is accepted); time more networks"
        )
    return as_table(
        space,
        counts,
        solved,
        device=device,
        validation=validation,
        date=date,
        source=source or f"adapted from {names}",
        licence=licence,
        notes={
            "adapted_from": names,
            "validation": "leave one out: each network predicted from the others",
            "mape_at_most": round(bound, 4),
            **(notes or {}),
        },
    )


@checked
def choose_to_adapt(space: SearchSpace, tables: Sequence[LatencyTable], n: Chosen = 10, *, seed: Seed = 0) -> Archs:
    """``(n, genes)``: the networks to time on a new device, those that ``tables`` say tell most about it.

    Raises BadInput without tables, and where ``space`` has fewer than ``n`` networks.
    """
    _names(tables)
    return choose_networks(space, n, seed=seed, prior=tables, own=BEYOND)


@checked
def error_bound(predicted: Floats, ms: Floats) -> float:
    """What the mean absolute relative error is below with probability 0.95, errors taken as normal around 0.

    From ``(n,)`` each, by the chi-squared distribution of their sum of squares: one network bounds hardly anything.
    Real errors have longer tails than normal ones: on the published FBNet timings it held in 80% of cases, not 95%
    (experiments/benchmarks/few_shot.py).
    """
    from scipy.stats import chi2

    apart = predicted / ms - 1
    return float(np.sqrt(2 / np.pi * np.sum(apart**2) / chi2.ppf(0.05, len(apart))))


@checked
def transfer(known_ms: Floats, timed: NDArray[np.intp], ms: Floats, *, noise: Positive = 0.4) -> Floats:
    """``(n,)`` ms on a new device, from ``known_ms (n, devices)`` and ``ms (k,)``, timings of the networks ``timed (k,)``.

    ``noise``: see ``rehearse``. Raises BadInput for latencies that are not positive, fewer than 3 timings, or shapes
    that do not match.
    """
    known_ms, timed, ms = _known(known_ms), np.asarray(timed, np.intp), positive("timings", ms)
    if ms.shape != timed.shape or ms.ndim != 1 or len(np.unique(timed)) < 3:
        raise BadInput(f"at least 3 different networks with one timing each, got {timed.shape} and {ms.shape}")
    if timed.min() < 0 or timed.max() >= len(known_ms):
        raise BadInput(f"networks are 0 to {len(known_ms) - 1}, got {timed.min()} to {timed.max()}")
    return _transfer(_factor(known_ms), timed, ms, noise)


@checked
def choose_timed(known_ms: Floats, n: Chosen = 10, *, noise: Positive = 0.4, seed: Seed = 0) -> NDArray[np.intp]:
    """``(n,)`` different networks to time on a new device, among up to 1,000 random rows of ``known_ms``.

    Greedy I-optimal design under the prior of ``transfer``: no timing of the new device is needed. Raises BadInput for
    latencies that are not positive, and for more networks than there are.
    """
    known_ms = _known(known_ms)
    if n > len(known_ms):
        raise BadInput(f"cannot choose {n} of {len(known_ms)} networks")
    pool = np.random.default_rng(seed).permutation(len(known_ms))[: max(_CANDIDATES, n)]
    return np.asarray(pool[i_optimal(_factor(known_ms)[pool], n, noise)])


@checked
def rehearse(known_ms: Floats, families: Sequence[Hashable], n: Chosen = 10) -> tuple[float, float]:
    """``(noise, mean Spearman)``: every known device in turn is treated as new, to see which noise predicts it best.

    ``families (devices,)``: devices of one family (the same chip at another batch size) are left out together.
    Raises BadInput for fewer than 3 families.
    """
    from scipy.stats import rankdata

    known_ms = _known(known_ms)
    names = list(families)
    if len(names) != known_ms.shape[1] or len(set(names)) < 3:
        raise BadInput(
            f"a rehearsal needs 3 families of devices, got {len(set(names))} for {known_ms.shape[1]} devices"
        )
    member = np.array([[name == family for name in names] for family in dict.fromkeys(names)])
    rng = np.random.default_rng([0, 1])
    scores = np.zeros((len(NOISES), known_ms.shape[1]))
    for _ in range(_REHEARSALS):
        some = known_ms[rng.permutation(len(known_ms))[:_REHEARSED_ON]]
        ranks = rankdata(some, axis=0)
        for left_out in member:
            factor = _factor(some[:, ~left_out])
            for k, noise in enumerate(NOISES):
                timed = i_optimal(factor, min(n, len(some)), noise)
                for d in np.flatnonzero(left_out):
                    predicted = rankdata(_transfer(factor, timed, some[timed, d], noise))
                    scores[k, d] += np.corrcoef(predicted, ranks[:, d])[0, 1] / _REHEARSALS
    means = scores.mean(axis=1)
    return NOISES[int(np.argmax(means))], float(means.max())


def _names(tables: Sequence[LatencyTable]) -> str:
    """Of the known devices. Raises BadInput where there are none."""
    if not tables:
        raise BadInput("nothing to adapt from: no table of a known device was given")
    return ", ".join(t.name for t in tables)


def _factor(known_ms: Floats) -> Floats:
    """``(n, devices + 1)``: log latencies, each with mean 0 and spread 1 (far-off ones cut), and the level."""
    logs = np.log(known_ms)
    logs -= np.median(logs, axis=0)
    limit = _CLIP * 1.4826 * np.median(np.abs(logs), axis=0)
    logs = np.where(limit > 0, np.clip(logs, -limit, limit), logs)
    logs -= logs.mean(axis=0)
    spread = logs.std(axis=0)
    logs = logs[:, spread > 0] / spread[spread > 0]
    return np.column_stack([logs / np.sqrt(max(logs.shape[1], 1)), np.full(len(logs), _LEVEL)])


def _transfer(factor: Floats, timed: NDArray[np.intp], ms: Floats, noise: float) -> Floats:
    """``(n,)`` ms of all rows of ``factor (n, r)``, from ``ms (k,)`` of the rows ``timed (k,)``."""
    logs = np.log(ms)
    level = np.median(logs)
    limit = _CLIP * 1.4826 * np.median(np.abs(logs - level))
    apart = np.clip(logs - level, -limit, limit) if limit > 0 else logs - level
    spread = float(apart.std()) or 1.0
    w, _ = solve(factor[timed], apart / spread, noise, least=noise / 2)
    return np.asarray(np.exp(level + spread * (factor @ w)))


def _known(known_ms: Floats) -> Floats:
    """``(networks, devices)`` positive ms. Raises BadInput for anything else."""
    known_ms = positive("known latencies", known_ms)
    if known_ms.ndim != 2 or known_ms.shape[1] < 1:
        raise BadInput(f"known latencies have shape (networks, devices), got {known_ms.shape}")
    return known_ms
