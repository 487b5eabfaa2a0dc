"""What is wrong with a latency table that only shows beside another one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.space import Floats
from nas.tables.features import macs
from nas.tables.finding import FEWEST, SAME, Finding, device_class, digits, error, warning
from nas.tables.table import LatencyTable

Rows = NDArray[np.int64]
_STEADY = 1.25  # clocks differ by as much between two campaigns on one GPU


def beside(table: LatencyTable, other: LatencyTable) -> list[Finding]:
    """What the blocks that both hold say: rows copied, and factors that nothing explains."""
    if table.device == other.device or table.row_of.keys().isdisjoint(other.row_of):
        return []
    both = np.array([(row, other.row_of[key]) for key, row in table.row_of.items() if key in other.row_of])
    mine, theirs = (t.rows["latency_ms"].to_numpy(float)[rows] for t, rows in zip((table, other), both.T, strict=True))
    timed = (mine > 0) & (theirs > 0)
    if timed.sum() < FEWEST:
        return []
    rows, mine, theirs = both[timed, 0], mine[timed], theirs[timed]
    return [*copied(table, other, rows, mine, theirs), *sister(table, other, rows, mine, theirs)]


def copied(table: LatencyTable, other: LatencyTable, rows: Rows, a: Floats, b: Floats) -> list[Finding]:
    """Rows equal, or exactly proportional, to those of a table of another device.

    ``rows (n,)`` of ``table`` whose blocks both hold; ``a (n,)`` and ``b (n,)`` ms, here and there.
    """
    if {table.kind, other.kind} == {"simulated"}:  # two models may share a term
        return []
    distinct = np.unique(b, return_index=True)[1]  # rounded sources repeat themselves
    rows, a, b = rows[distinct], a[distinct], b[distinct]
    fine = digits(b) >= 4
    if fine.sum() < FEWEST:
        return []
    log = np.where(fine, np.log(a / b), np.arange(len(a)) + 100.0)  # coarse ones: apart from everything
    order = np.argsort(log)
    ends = np.searchsorted(log[order], log[order] + SAME, side="right")
    width = ends - np.arange(len(order))
    start = int(width.argmax())
    alike = order[start : ends[start]]
    if len(alike) < max(FEWEST, 0.02 * len(a)):
        return []
    factor = float(np.exp(np.median(log[alike])))
    times = "equal" if abs(factor - 1) < SAME else f"are exactly {factor:.5g} times"
    text = f"{len(alike)} of {len(a)} rows {times} those of {other.name}: copied, not {table.kind}"
    keys = tuple(table.rows["block"].iloc[rows[alike]])
    adapted = "adapt" in f"{table.source} {other.source} {table.notes} {other.notes}"
    return [(warning if adapted else error)("copied", text, keys)]


def sister(table: LatencyTable, other: LatencyTable, rows: Rows, mine: Floats, theirs: Floats) -> list[Finding]:
    """Factors between two tables that neither devices nor batch sizes nor threads can explain.

    ``rows (n,)``, ``mine (n,)`` and ``theirs (n,)`` as the arguments of ``copied``.
    """
    a, b = table.device, other.device
    arithmetic = macs([table.blocks[row] for row in rows])
    large = arithmetic >= np.median(arithmetic)  # small blocks cost a call, whatever their batch and threads
    ratio = float(np.median(mine[large] / theirs[large]))
    same_chip = a.chip == b.chip and a.runtime == b.runtime and a.precision == b.precision
    batch = a.batch / b.batch
    if device_class(table) == device_class(other) and not same_chip:
        factor, cores = ratio / batch, a.threads / b.threads
        if max(factor, 1 / factor) > 100 * max(cores, 1 / cores):
            text = f"blocks take {factor:.3g} times those of {other.name}, another {device_class(other)}: another unit?"
            return [error("units", text)]
    if not same_chip:
        return []
    if a.threads == b.threads and batch != 1:
        low, high = (1 / _STEADY, 3.0 * batch) if batch > 1 else (batch / 3.0, _STEADY)
        if device_class(table) == "CPU":  # no idle cores that a larger batch could fill
            low, high = (batch / 3, batch * 3)
        text = f"at batch {a.batch} its larger blocks take {ratio:.3g} times what {other.name} says of batch {b.batch}"
        if not low < ratio < high:
            return [error("batch", f"{text}: one of the two was measured at another")]
        if abs(ratio - 1) < 0.1 and max(batch, 1 / batch) >= 16:
            text += ": either calls, not arithmetic, fill the time (GPUs, small images), or one was measured at another"
            return [warning("batch", text)]
    if a.batch == b.batch and a.threads != b.threads:
        gain, most = (1 / ratio, a.threads / b.threads) if a.threads > b.threads else (ratio, b.threads / a.threads)
        if gain > 1.3 * most or gain < 1 / 1.5:
            text = f"with {a.threads} threads its larger blocks take {ratio:.3g} times what {other.name} says of {b.threads}"
            return [error("threads", f"{text}: one of the two was measured with another number")]
        if abs(gain - 1) < 0.03:
            return [
                warning(
                    "threads", f"as fast as {other.name} with {b.threads}: the setting had no effect, or was not made"
                )
            ]
    return []
