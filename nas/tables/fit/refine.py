"""Corrections of single blocks, where a calibration of a few numbers cannot explain the networks it was fitted on.

OpenVINO, for example, keeps activations in a layout of its own; what a block pays to convert them alone, and does not
inside a network, depends on the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nas.blocks import Block
from nas.space import Floats, SearchSpace
from nas.tables.fit.calibration import fit_calibration
from nas.tables.fit.prior import cost_prior
from nas.tables.fit.whole_network import solve_blocks
from nas.tables.table import LatencyTable

BEYOND = (0.1, 0.3, 1.0)
"""How far blocks may leave the calibrated table (``cost_prior``'s ``own``); chosen by cross-validation."""

GAIN = 0.8  # a correction must bring the cross-validated error below this share, or it is noise that is fitted
_FOLDS = 5
_FEWEST = 20


def refined(table: LatencyTable, space: SearchSpace, networks: Sequence[Sequence[Block]], ms: Floats) -> LatencyTable:
    """``table`` with a column ``correction_ms``, added to what its calibration says, or as it is.

    ``networks`` and their timings ``ms (n,)``: those of the calibration. Floats are drawn towards the calibrated table and
    its blocks towards one another (``nas.tables.fit.prior``). Kept only if every fifth of the networks is predicted
    clearly better by a fit without it. ``notes["corrected"]``: the two cross-validated errors.
    """
    if len(networks) < _FEWEST:
        return table
    counts = _counts(space.blocks, networks)
    fold = np.arange(len(networks)) % _FOLDS  # from cheap to dear: each holds all sizes
    plain = _mape(_calibrated(table, networks, ms, fold), ms)
    fits = []
    for own in BEYOND:
        solved = solve_blocks(counts, ms, *cost_prior(space, counts, [table], own=own), fold)
        fits.append((_mape(solved.held_out, ms), solved.costs))
    error, costs = min(fits, key=lambda fit: fit[0])
    if error >= GAIN * plain:
        return table
    position = {b.key: i for i, b in enumerate(space.blocks)}
    wanted = costs[[position[key] for key in table.rows["block"]]]
    return replace(
        table,
        rows=table.rows.assign(correction_ms=wanted - table.effective_ms),
        calibration=replace(table.calibration, fixed_ms=float(costs[-1])),
        notes={**table.notes, "corrected": {"mape_before": round(plain, 4), "mape_after": round(error, 4)}},
    )


def _calibrated(table: LatencyTable, networks: Sequence[Sequence[Block]], ms: Floats, fold: Any) -> Floats:
    """``(n,)``: each network predicted by a calibration without its fold."""
    alone = dict(zip(table.rows["block"], table.rows["latency_ms"].to_numpy(float), strict=True))
    timed = [np.array([alone[b.key] for b in blocks]) for blocks in networks]
    predicted = np.empty(len(networks))
    for k in range(_FOLDS):
        rest = [i for i in range(len(networks)) if fold[i] != k]
        fit = fit_calibration([networks[i] for i in rest], [timed[i] for i in rest], ms[rest])
        for i in (i for i in range(len(networks)) if fold[i] == k):
            predicted[i] = fit.apply(networks[i], timed[i]).sum() + fit.fixed_ms
    return predicted


def _counts(blocks: Sequence[Block], networks: Sequence[Sequence[Block]]) -> Floats:
    """``(n, blocks + 1)`` as of ``nas.tables.features.block_counts``."""
    position = {b.key: i for i, b in enumerate(blocks)}
    counts = np.zeros((len(networks), len(blocks) + 1))
    for row, network in zip(counts, networks, strict=True):
        np.add.at(row, [position[b.key] for b in network], 1.0)
    counts[:, -1] = 1.0
    return counts


def _mape(predicted: Floats, ms: Floats) -> float:
    return float(np.abs(predicted / ms - 1).mean())
