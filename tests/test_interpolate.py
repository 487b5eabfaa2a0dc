"""Estimates of blocks that a table lacks: against what shipped tables say of them, inside, between kernels and beyond."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import nas
from nas.blocks import Head, InvertedResidual, Stem
from nas.errors import BadInput
from nas.tables.features import make
from nas.tables.fit.boards import board_table
from nas.tables.fit.calibration import Calibration
from nas.tables.interpolate import _BETWEEN, PRUNED, _interpolate, _smooth, estimate
from nas.tables.table import LatencyTable
from search_spaces import MobileNetV3

TABLES = Path(nas.__file__).parents[1] / "latency_tables"

INT8 = "amd-epyc_onnxruntime_int8_mobilenet_v3_digits"


def load(name):
    return LatencyTable.load(TABLES / name)


def without(table, blocks):
    keys = {b.key for b in blocks}
    return dataclasses.replace(table, rows=table.rows[~table.rows["block"].isin(keys)].reset_index(drop=True))


def inverted(table):
    return [b for b in table.blocks if isinstance(b, InvertedResidual)]


def some(blocks, n=60, seed=0):
    chosen = np.random.default_rng(seed).permutation(len(blocks))[:n]
    return [blocks[i] for i in chosen]


def interior(table):
    """Blocks with a narrower and a wider one of the same make, whatever the field: inside when left out."""
    blocks = inverted(table)
    sizes = ("in_ch", "mid", "out_ch", "size")
    ends: dict = {}
    for b in blocks:
        for s in sizes:
            ends.setdefault((make(b), s), set()).add(getattr(b, s))
    return [b for b in blocks if all(min(v := ends[make(b), s]) < getattr(b, s) < max(v) or len(v) == 1 for s in sizes)]


@pytest.mark.parametrize(
    ("name", "within"),
    [
        (INT8, 0.15),
        ("amd-epyc_onnxruntime_fp32_mobilenet_v3_digits", 0.1),
        ("note10_ofa_b1", 0.05),
        ("i7-8700k_ofa_w10_b1", 0.1),
        ("ethos-u55-128_vela_int8_mobilenet_v3_digits", 0.15),
    ],
)
def test_the_stated_error_is_about_the_true_one(name, within):
    table = load(name)
    left_out = some(interior(table))
    ms, stated = estimate(without(table, left_out), left_out)
    error = np.log(ms / table.lookup(left_out))
    assert np.sqrt(np.mean(error**2)) < within
    assert 0.5 < np.sqrt(np.mean(error**2)) / np.sqrt(np.mean(stated**2)) < 2
    assert np.mean(np.abs(error) < 2 * stated) >= 0.85


@pytest.mark.parametrize("name", ["note10_ofa_b1", "i7-8700k_ofa_w10_b1"])
def test_kernel_5_lies_between_3_and_7(name):
    table = load(name)
    fives = [b for b in inverted(table) if b.kernel == 5]
    few = without(table, fives)
    wanted = some(fives)
    ms, stated = estimate(few, wanted)
    low, high = (few.lookup([dataclasses.replace(b, kernel=k) for b in wanted]) for k in (3, 7))
    assert ((np.minimum(low, high) <= ms) & (ms <= np.maximum(low, high))).all()
    assert ms == pytest.approx(0.6 * low + 0.4 * high)  # linear in the area: 25 lies 0.4 of the way from 9 to 49
    (_, low_error), (_, high_error) = (
        estimate(few, [dataclasses.replace(b, kernel=k) for b in wanted]) for k in (3, 7)
    )
    own = np.hypot(0.6 * low * low_error, 0.4 * high * high_error) / ms
    assert stated == pytest.approx(np.hypot(own, _BETWEEN * np.abs(np.log(high / low))))
    error = np.log(ms / table.lookup(wanted))
    assert np.median(np.abs(error)) < 0.03
    assert np.mean(np.abs(error) < 2 * stated) > 0.9
    # taking the nearer kernel instead is several times worse
    assert np.median(np.abs(np.log(low / table.lookup(wanted)))) > 3 * np.median(np.abs(error))


def test_the_arithmetic_is_ridge_regression_and_the_nearest_residuals():
    """Written plainly: one regression for every row left out, one sum over the four nearest rows."""
    rng = np.random.default_rng(0)
    known, log_ms, wanted = rng.normal(5, 3, (14, 3)), rng.normal(size=14), rng.normal(5, 3, (6, 3))
    a, b = ((x - known.mean(0)) / known.std(0) for x in (known, wanted))

    def regression(rows):
        design = np.column_stack([np.ones(len(rows)), a[rows]])
        return np.linalg.solve(design.T @ design + np.diag([0, 0.01, 0.01, 0.01]), design.T @ log_ms[rows])

    def nearest(point, others, values):
        distance = np.array([np.sqrt(((point - a[i]) ** 2).sum()) + 1e-3 for i in others])
        four = np.argsort(distance)[:4]
        return np.average(values[np.array(others)[four]], weights=1 / distance[four])

    rows = list(range(14))
    without_one = [[j for j in rows if j != i] for i in rows]
    left_out = np.array([log_ms[i] - np.array([1, *a[i]]) @ regression(without_one[i]) for i in rows])
    error = np.sqrt(np.mean([(left_out[i] - nearest(a[i], without_one[i], left_out)) ** 2 for i in rows]))
    residual = log_ms - np.column_stack([np.ones(14), a]) @ regression(rows)
    expected = [np.array([1, *x]) @ regression(rows) + nearest(x, rows, residual) for x in b]
    ms, stated = _interpolate(known, log_ms, wanted)
    assert np.log(ms) == pytest.approx(np.array(expected), rel=1e-6)
    assert stated == pytest.approx(np.full(6, error), rel=1e-6)


def test_what_latency_is_smooth_in_is_counted_by_hand():
    block = InvertedResidual(in_ch=16, out_ch=24, size=8, mid=32, kernel=5, stride=1)
    pixels = 8 * 8
    counts = [
        pixels * (16 * 32 + 32 * 24),
        pixels * 32 * 5 * 5,
        pixels * (32 + 32),  # around the depthwise convolution
        16 * 32 + 32 * 5 * 5 + 32 * 24 + 32 + 32 + 24,
        pixels,
        24,
    ]
    assert np.exp(_smooth([block]))[0] - 1 == pytest.approx(counts)


def made_up(mids):
    """Kernel 5 costs far more than its neighbours: it shows what an estimate looked at."""
    blocks = [InvertedResidual(in_ch=16, out_ch=16, size=8, mid=m, kernel=k) for k in (3, 5, 7) for m in mids]
    ms = np.array([{3: 1, 5: 50, 7: 2}[b.kernel] * b.mid / 100 for b in blocks])
    columns = {"block": [b.key for b in blocks], "latency_ms": ms, "p10_ms": ms, "p90_ms": ms, "runs": 9}
    return dataclasses.replace(load(INT8), rows=pd.DataFrame(columns), calibration=Calibration())


def test_six_of_a_make_are_enough_and_five_are_not():
    wanted = [InvertedResidual(in_ch=16, out_ch=16, size=8, mid=72, kernel=5)]
    ms, _ = estimate(made_up((32, 48, 64, 80, 96, 112)), wanted)
    assert ms[0] == pytest.approx(36, rel=0.1)
    with pytest.raises(BadInput, match=r"has 5 blocks like .* needs 6"):
        estimate(made_up((32, 48, 64, 80, 96)), wanted)


def test_a_block_that_costs_nothing_has_no_error():
    table = made_up((32, 48))
    free = dataclasses.replace(table, rows=table.rows.assign(latency_ms=0.0, p10_ms=0.0), kind="published")
    ms, error = estimate(free, free.blocks[:2])
    assert ms.tolist() == error.tolist() == [0, 0]


def test_kernel_and_channels_at_once():
    table = load("note10_ofa_b1")
    fives = [b for b in interior(table) if b.kernel == 5]
    others = [dataclasses.replace(b, kernel=k) for b in fives for k in (3, 7)]
    gone = some(fives, 20)
    few = without(table, [b for b in inverted(table) if b.kernel == 5] + [o for o in others if o.mid == gone[0].mid])
    ms, stated = estimate(few, gone)
    error = np.log(ms / table.lookup(gone))
    assert np.mean(np.abs(error) < 2 * stated) >= 0.9
    assert np.sqrt(np.mean(error**2)) < 0.15


@pytest.mark.parametrize("kernel", [1, 9, 11])
def test_a_kernel_beyond_the_measured_ones_is_refused(kernel):
    table = load("note10_ofa_b1")
    with pytest.raises(BadInput, match="in all but channels and size"):
        estimate(table, [dataclasses.replace(inverted(table)[50], kernel=kernel)])


def test_outside_the_measured_range_is_refused_unless_asked_for():
    table = load(INT8)
    widest = max(inverted(table), key=lambda b: b.mid)
    wider = dataclasses.replace(widest, mid=widest.mid + 16)
    with pytest.raises(BadInput, match=rf"mid {wider.mid} is outside the \d+\.\.{widest.mid} that table") as caught:
        estimate(table, [wider])
    assert "\n" not in str(caught.value)
    ms, _ = estimate(table, [wider], beyond=PRUNED)
    assert 0.7 < ms[0] / table.lookup([widest])[0] < 1.5
    with pytest.raises(BadInput, match="more than the factor 2"):
        estimate(table, [dataclasses.replace(widest, mid=3 * widest.mid)], beyond=2)
    with pytest.raises(BadInput, match="beyond is a number from 1"):
        estimate(table, [wider], beyond=0.5)


def test_the_error_grows_with_the_distance_and_covers_the_truth():
    table = load(INT8)
    narrow = sorted({b.mid for b in inverted(table)})[len({b.mid for b in inverted(table)}) // 8]
    left_out = [b for b in inverted(table) if b.mid < narrow]
    few = without(table, left_out)
    wanted = some(left_out)
    with pytest.raises(BadInput, match="outside"):
        estimate(few, wanted)
    ms, stated = estimate(few, wanted, beyond=3)
    error = np.abs(np.log(ms / table.lookup(wanted)))
    assert np.mean(error < 2 * stated) >= 0.9
    widest = max(inverted(table), key=lambda b: b.mid)
    further = [dataclasses.replace(widest, mid=round(widest.mid * f)) for f in (1.1, 1.5, 1.9)]
    _, grows = estimate(table, further, beyond=2)
    assert grows[0] < grows[1] < grows[2]


def test_blocks_of_the_table_keep_their_value_and_the_error_of_their_median():
    table = load(INT8)
    blocks = some(list(table.blocks), 20)
    ms, error = estimate(table, blocks)
    assert ms == pytest.approx(table.lookup(blocks))
    row = table.rows.iloc[table.row_of[blocks[0].key]]
    expected = 1.25 * (row["latency_ms"] - row["p10_ms"]) / 1.28 / row["latency_ms"] / np.sqrt(row["runs"])
    assert error[0] == pytest.approx(expected)


def test_a_fitted_table_without_runs_has_the_error_of_its_interval():
    space = MobileNetV3.digits()
    _, error = estimate(board_table("NUCLEO-L4R5ZI", space), space.blocks[:20])
    assert np.isfinite(error).all()
    assert (error > 0.15).all()


def test_kinds_without_a_kernel_are_refused_not_broken():
    table = load(INT8)
    few = without(table, [b for b in table.blocks if isinstance(b, Head)])
    head = next(b for b in table.blocks if isinstance(b, Head))
    with pytest.raises(BadInput, match="has 0 blocks like"):
        estimate(few, [head])
    stem = next(b for b in table.blocks if isinstance(b, Stem))
    with pytest.raises(BadInput, match="has 0 blocks like"):
        estimate(table, [dataclasses.replace(stem, kernel=5)])
