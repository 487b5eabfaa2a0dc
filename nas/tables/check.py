"""Looks for what goes wrong with latency tables in practice, ours and theirs.

What cannot be seen: a batch size, thread count or clock other than the table says, when the implied speed is still
plausible and there is no sister table (same chip and space) to compare with; an error common to a table and everything
it is compared with; rows that were invented with plausible noise.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from nas.device import cpu_name
from nas.errors import BadInput
from nas.space import Floats, SearchSpace
from nas.tables.check_pairs import beside
from nas.tables.features import field, live, macs, make, size_names, weights
from nas.tables.finding import FEWEST, SAME, Finding, device_class, digits, error, warning
from nas.tables.table import LatencyTable, saved_checksum

# GMAC/s that a whole table's blocks can average, per thread on a CPU, and the least ms one call can take: wide enough for
# every device of the class, narrow enough that a factor of 1000 falls outside
_PLAUSIBLE: dict[str, tuple[float, float, float]] = {
    "microcontroller": (5e-4, 2.0, 1e-4),
    "NPU": (0.05, 2e4, 0.0),
    "GPU": (0.05, 2e5, 2e-3),
    "accelerator": (0.005, 5e3, 0.0),
    "CPU": (0.1, 500.0, 1e-4),
}
_PACKAGES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai-edge-litert", "torch": "torch"}

_DAYS = 365
_MIXED = 30.0  # a row this many times off from blocks of its size is in another unit
_SLOWER = 1.3  # a smaller block that takes this much longer, and longer than any of the larger one's runs
_SOME = 0.05  # share of rows


def check(
    table: LatencyTable,
    *,
    others: Sequence[LatencyTable] = (),
    space: SearchSpace | None = None,
    today: datetime.date | None = None,
) -> list[Finding]:
    """What is wrong, or may be, with ``table``; errors first, nothing when all is well.

    ``others``: tables to compare with: of the same space, or holding some of the same blocks. ``space``: one that the
    table must cover. ``today``: for the table's age.
    """
    alone: tuple[Callable[[LatencyTable], list[Finding]], ...] = (
        _spread, _units, _straight, _order, _validation, _runtime_version
    )  # fmt: skip
    findings = [f for look in alone for f in look(table)]
    findings += [f for other in others for f in beside(table, other)]
    findings += _age(table, today or datetime.date.today())
    if space is not None and (missing := table.missing(space.blocks)):
        keys = tuple(b.key for b in missing)
        findings.append(error("coverage", f"lacks {len(keys)} of the {len(space.blocks)} blocks of {space.name}", keys))
    return sorted(findings, key=lambda f: f.severity)


def check_saved(
    stem: str | os.PathLike[str], *, others: Sequence[LatencyTable] = (), today: datetime.date | None = None
) -> list[Finding]:
    """``check`` of a saved table, and whether its files are still what was saved; an unreadable one is a finding."""
    try:
        table = LatencyTable.load(stem)
    except BadInput as unreadable:
        return [error("unreadable", str(unreadable))]
    findings = check(table, others=others, today=today)
    before, now = saved_checksum(stem)
    if before and before != now:
        text = "the files are not what was saved (their checksum differs): edited by hand, or damaged"
        findings.insert(0, error("edited", text))
    return findings


def _spread(table: LatencyTable) -> list[Finding]:
    rows, findings = table.rows, []
    ms, low, high, runs = (rows[c].to_numpy(float) for c in ("latency_ms", "p10_ms", "p90_ms", "runs"))
    bad = ~((low <= ms * (1 + SAME)) & (ms <= high * (1 + SAME)) & (low >= 0))
    if bad.any():
        findings.append(error("percentiles", f"{bad.sum()} rows do not have p10 <= latency <= p90", _keys(table, bad)))
    if (ms == 0).any():
        text = f"{(ms == 0).sum()} rows take 0 ms{_said(table, 'blocks', 'and no note says where they are counted')}"
        findings.append(warning("zero", text, _keys(table, ms == 0)))
    single = ~(runs > 1)
    still = (low == high) & (ms > 0) & ~single
    if table.kind in ("measured", "published") and single.any():
        text = f"{single.sum()} rows are from a single run, their spread is unknown"
        findings.append(warning("runs", text + _said(table, "percentiles"), _keys(table, single)))
    if table.kind == "measured" and still.sum() > _SOME * len(ms):
        text = f"{still.sum()} rows of several runs have no spread at all: no clock is that steady"
        findings.append(warning("percentiles", text, _keys(table, still)))
    return findings


def _units(table: LatencyTable) -> list[Finding]:
    """Speeds that no device of the class reaches, and rows far from others of their size."""
    done, ms = table.device.batch * macs(table.blocks), table.rows["latency_ms"].to_numpy(float)
    timed = (ms > 0) & (done > 0)
    if not timed.any():
        return []
    kind = device_class(table)
    slowest, fastest, shortest = _limits(table, kind)
    rate, middle = done[timed].sum() / ms[timed].sum() / 1e6, np.median(ms[timed])
    said = (
        f"its blocks imply {rate:.3g} GMAC/s at batch {table.device.batch}, a {kind} reaches {slowest:g} to {fastest:g}"
    )
    if middle < shortest:
        said = f"half its blocks take less than {shortest:g} ms, less than a call does on a {kind}"
    findings = []
    if middle < shortest or not slowest <= rate <= fastest:
        taken = "micro" if rate < slowest else ""
        said += f": {taken}seconds taken for milliseconds, or another batch size or device"
        findings.append(error("units", said))
    size = np.log(np.column_stack([done, live(table.blocks)])[timed])
    off = np.log(ms[timed]) - _among_neighbours(size, np.log(ms[timed]))
    mixed = np.zeros(len(ms), dtype=bool)
    mixed[np.flatnonzero(timed)[np.abs(off) > np.log(_MIXED)]] = True
    # what a fit gives each of two blocks that always come together is arbitrary
    if mixed.any() and table.kind != "fitted":
        text = f"{mixed.sum()} rows are more than {_MIXED:g} times off from blocks of their size: another unit?"
        findings.append(error("mixed units", text, _keys(table, mixed)))
    return findings


def _straight(table: LatencyTable) -> list[Finding]:
    """Rows exactly on straight lines between others: interpolated ones passed off as measured."""
    if table.kind not in ("measured", "published"):
        return []
    ms = table.rows["latency_ms"].to_numpy(float)
    fine = digits(ms) >= 4  # else rounded by the source
    inner, on_line = np.zeros((2, len(ms)), dtype=bool)
    for name in (*size_names(table.blocks), "kernel"):
        x = field(table.blocks, name)
        rest = [re.sub(rf" {name}=\S+", "", key) for key in table.rows["block"]]
        group = np.unique(rest, return_inverse=True)[1]
        order = np.lexsort((x, group))
        a, b, c = order[:-2], order[1:-1], order[2:]
        apart = np.abs(ms[c] / np.maximum(ms[a], 1e-30) - 1) > 0.01
        same = (group[a] == group[c]) & fine[a] & fine[b] & fine[c] & apart
        a, b, c = a[same], b[same], c[same]
        between = ms[a] + (ms[c] - ms[a]) * (x[b] - x[a]) / np.maximum(x[c] - x[a], 1e-9)
        inner[b] = True
        on_line[b[np.abs(between / ms[b] - 1) < SAME]] = True
    if on_line.sum() < max(FEWEST, _SOME * inner.sum()):
        return []
    text = (
        f"{on_line.sum()} of {inner.sum()} rows lie exactly on a straight line between their neighbours: interpolated"
    )
    return [error("interpolated", f"{text}, not {table.kind}", _keys(table, on_line))]


def _order(table: LatencyTable) -> list[Finding]:
    """Blocks that are larger in every way than others of their make, and yet faster than noise explains."""
    if table.kind in ("fitted", "simulated"):  # no noise to judge by
        return []
    blocks = table.blocks
    ms, low, high = (table.rows[c].to_numpy(float) for c in ("latency_ms", "p10_ms", "p90_ms"))
    sizes = np.column_stack([macs(blocks), weights(blocks), *(field(blocks, name) for name in size_names(blocks))])
    groups: dict[object, list[int]] = {}
    for i, block in enumerate(blocks):
        groups.setdefault(make(block), []).append(i)
    wrong = np.zeros((len(ms), len(ms)), dtype=bool)
    for rows in groups.values():
        larger = (sizes[rows][:, None] >= sizes[rows][None]).all(-1)
        slower = ms[rows][None] > _SLOWER * ms[rows][:, None]
        wrong[np.ix_(rows, rows)] = larger & slower & (high[rows][:, None] < low[rows][None])
    wrong |= wrong.T
    culprits = []
    while (count := wrong.sum(1)).any():  # the row that most pairs accuse, first
        worst = int(count.argmax())
        culprits.append(worst)
        wrong[worst], wrong[:, worst] = False, False
    if not culprits:
        return []
    text = f"{len(culprits)} rows break the order: a block larger in every way is over {_SLOWER - 1:.0%} faster, beyond its spread"
    severe = len(culprits) >= max(FEWEST, 2 * _SOME * len(ms))
    return [(error if severe else warning)("order", text, tuple(table.rows["block"].iloc[culprits]))]


def _validation(table: LatencyTable) -> list[Finding]:
    findings, v = [], table.validation
    if v is None:
        return [warning("validation", f"nothing is known of its error on whole networks{_said(table, 'validation')}")]
    figures = f"Kendall tau {v.kendall_tau:.3f}, mean error {v.mape:.1%}, {v.within_10pct:.0%} within 10%"
    if v.mape > 0.3 or not v.kendall_tau > 0.5:
        findings.append(error("validation", f"it does not predict networks ({figures})"))
    elif v.mape > 0.1 or v.kendall_tau < 0.8:
        findings.append(warning("validation", f"it predicts networks poorly ({figures})"))
    if v.networks < 10:
        findings.append(warning("validation", f"only {v.networks} networks were predicted to tell its error"))
    if table.calibration.scale <= 0.21 or table.calibration.scale >= 2.9:
        text = f"the calibration multiplies blocks by {table.calibration.scale:.2g}, the limit: they do not explain networks"
        findings.append(warning("calibration", text))
    return findings


def _runtime_version(table: LatencyTable) -> list[Finding]:
    package = _PACKAGES.get(table.device.runtime.split("-")[0])
    if table.kind != "measured" or package is None or table.device.chip != cpu_name():
        return []  # of another machine: what is installed here says nothing
    try:
        installed = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return []
    ours, theirs = (re.match(r"[\d.]*", v.strip())[0].strip(".") for v in (installed, table.device.version))  # type: ignore[index]
    if ours == theirs or not theirs:
        return []
    return [warning("version", f"measured with {table.device.runtime} {theirs}, {ours} is installed here")]


def _age(table: LatencyTable, today: datetime.date) -> list[Finding]:
    try:
        days = (today - datetime.date.fromisoformat(table.date)).days
    except ValueError:
        return [warning("age", f"no date that can be read ({table.date!r})")] if table.kind == "measured" else []
    if days < -1:
        return [warning("age", f"dated {table.date}, in the future")]
    if days > _DAYS and table.kind == "measured":
        return [warning("age", f"measured {days} days ago; runtimes and drivers change")]
    return []


def _limits(table: LatencyTable, kind: str) -> tuple[float, float, float]:
    """``_PLAUSIBLE`` for this device: GMAC/s at least and at most, ms at least."""
    slowest, fastest, shortest = _PLAUSIBLE[kind]
    if kind == "CPU":
        fastest *= max(table.device.threads, 1)
    if kind == "GPU":
        slowest *= min(table.device.batch, 64)  # that many images take little longer than one
    if units := re.search(r"ethos-?u\d+-(\d+)", f"{table.device.name} {table.device.chip}".lower()):
        fastest = float(units[1])  # MACs per cycle, at 1 GHz
    return slowest, fastest, shortest


def _among_neighbours(at: Floats, values: Floats) -> Floats:
    """``(n,)``: the median of ``values`` among the 8 nearest other rows of ``at (n, d)``."""
    k = 8
    if len(at) <= k:
        return np.full(len(at), np.median(values))
    from scipy.spatial import cKDTree

    _, nearest = cKDTree(at / (at.std(0) + 1e-9)).query(at / (at.std(0) + 1e-9), k=k + 1)
    others = np.where(nearest == np.arange(len(at))[:, None], nearest[:, -1:], nearest)[:, :k]
    return np.median(values[others], axis=1)


def _keys(table: LatencyTable, rows: NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(table.rows["block"][rows])


def _said(table: LatencyTable, note: str, otherwise: str = "") -> str:
    """What the table's own notes say of it."""
    if note in table.notes:
        return f" (its notes: {table.notes[note]})"
    return f", {otherwise}" if otherwise else ""
